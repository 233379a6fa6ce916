package ebpf

import (
	"encoding/json"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// What is done again within the window is left out, and counted; what differs is not.
func TestConnectWindow(t *testing.T) {
	kinds := []event.Kind{event.NetConnect, event.NetSend}
	forRungs(t, kinds, func(t *testing.T, o *observer) {
		set := o.source.cfg.Settings
		set.ConnectWindow = time.Hour
		if err := o.source.Apply(set); err != nil {
			t.Fatal(err)
		}
		before, err := o.source.counters()
		if err != nil {
			t.Fatal(err)
		}
		steps := []step{
			{Call: "socket", A: unix.AF_INET, B: datagram},
			{Call: "sendto", FD: 1, To: "127.0.0.1:9"},
			{Call: "sendto", FD: 1, To: "127.0.0.1:9"},
			{Call: "sendto", FD: 1, To: "127.0.0.1:10"},
			{Call: "sendto", FD: 1, To: "127.0.0.2:9"},
			{Call: "connect", FD: 1, To: "127.0.0.1:9"},
			{Call: "connect", FD: 1, To: "127.0.0.1:9"},
			{Call: "connect", FD: 1, To: "127.0.0.1:10"},
			{Call: "connect", FD: 1, To: "127.0.0.1:9"},
			{Call: "socket", A: unix.AF_UNIX, B: stream},
			{Call: "connect", FD: 10, To: "/none/a"},
			{Call: "connect", FD: 10, To: "/none/a"},
			{Call: "connect", FD: 10, To: "/none/b"},
			{Call: "connect", FD: 10, To: "@none/a"},
		}
		for range 2 { // to another process the window is another one
			cmd := netAction(t, "native", steps)
			tr := o.trace(t, cmd)
			if n := len(tr.of(event.NetSend)); n != 3 {
				t.Errorf("%d events net.send, want 3", n)
			}
			var where []string
			for _, e := range tr.of(event.NetConnect) {
				where = append(where, e.Net.Path+e.Net.RemoteIP.String()+"/"+e.Net.Socket.Family.String())
			}
			if len(where) != 5 {
				t.Errorf("connects to %q, want 5", where)
			}
		}
		after, err := o.source.counters()
		if err != nil {
			t.Fatal(err)
		}
		for kind, want := range map[commonKind]uint64{commonKindNET_SEND: 2, commonKindNET_CONNECT: 6} {
			if n := after[kind].Filtered - before[kind].Filtered; n < want {
				t.Errorf("%s: %d counted as left out, want %d", event.Kind(kind), n, want)
			}
		}
	})
}

// A connect that a signal interrupts is an attempt of its own.
func TestConnectInterrupted(t *testing.T) {
	forRungs(t, []event.Kind{event.NetConnect}, func(t *testing.T, o *observer) {
		path := openTempDir(t) + "/socket"
		// A listener whose queue is full.
		server, err := unix.Socket(unix.AF_UNIX, stream|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(server)
		first, err := unix.Socket(unix.AF_UNIX, stream|unix.SOCK_CLOEXEC, 0)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(first)
		address := &unix.SockaddrUnix{Name: path}
		for _, err := range []error{unix.Bind(server, address), unix.Listen(server, 0), unix.Connect(first, address)} {
			if err != nil {
				t.Fatal(err)
			}
		}
		mark := o.mark()
		cmd := action("connect", asJSON(t, dial{Family: unix.AF_UNIX, Type: stream, Path: path, Said: true}))
		out, err := cmd.StdoutPipe()
		if err != nil {
			t.Fatal(err)
		}
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		said := json.NewDecoder(out)
		var thread int
		if err := said.Decode(&thread); err != nil {
			t.Fatal(err)
		}
		met := make(chan struct{})
		var signals sync.WaitGroup
		signals.Go(func() {
			for {
				select {
				case <-met:
					return
				case <-time.After(time.Millisecond):
					_ = unix.Tgkill(cmd.Process.Pid, thread, unix.SIGURG)
				}
			}
		})
		isConnect := func(e *event.Event, result unix.Errno) bool {
			return e.Kind == event.NetConnect && e.Process.PID == uint32(cmd.Process.Pid) && e.Result == int32(result)
		}
		events := o.await(t, mark, "the interrupted connect",
			func(e *event.Event) bool { return isConnect(e, unix.EINTR) })
		close(met)
		signals.Wait()
		want := event.Net{
			Socket: event.Socket{Family: event.Unix, Type: event.Stream}, Path: path,
			Unverified: strings.HasSuffix(t.Name(), "/tracepoint"),
		}
		if got := events[len(events)-1].Net; *got != want {
			t.Errorf("interrupted: %+v, want %+v", *got, want)
		}
		accepted, _, err := unix.Accept(server)
		if err != nil {
			t.Fatal(err)
		}
		defer unix.Close(accepted)
		var done dialled
		if err := said.Decode(&done); err != nil || done.Errno != 0 {
			t.Fatalf("connect: %v, %v", done.Errno, err)
		}
		if err := cmd.Wait(); err != nil {
			t.Fatal(err)
		}
		o.await(t, mark, "the connect", func(e *event.Event) bool { return isConnect(e, 0) })
	})
}
