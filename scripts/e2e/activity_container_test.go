package e2e

import (
	"bytes"
	"net"
	"os"
	"slices"
	"syscall"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"golang.org/x/net/dns/dnsmessage"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/scripts/auditd"
	"github.com/taskguard/taskguard/scripts/dockertest"
)

// nameserver is the address of a name server that a test has. The name of its port is that of all name servers.
const nameserver = "127.45.67.89"

// script execs, connects in vain and with success, resolves a name, and writes a file.
const script = `/bin/true 'an argument'; /bin/nc -w 1 127.0.0.1 1; /bin/nc -w 1 127.0.0.1 PORT; ` +
	`/bin/nslookup -type=a shop.example ` + nameserver + `; echo x >/tmp/written; sleep 0.2`

func TestContainerActivityIsAttributed(t *testing.T) {
	d := dockertest.Start(t)
	d.Import(t, "shop:1")
	s := newStack(t, "docker.socket="+d.Socket)
	serveName(t)
	task := runTask(t, d, "web-1")
	await(t, "its end to be observed", func() bool { return mustStatus(t, s).Kinds["container.stop"].Observed == 1 })
	if _, err := s.Delivered(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	list := events(t, s, "--container", "web-1")
	wantAttributed(t, list, "web-1", task)
	wantLife(t, list)
	for _, kind := range []event.Kind{
		event.ProcessExec, event.ProcessFork, event.ProcessExit, event.NetConnect, event.DNSQuery, event.DNSResponse,
		event.FileOpen,
	} {
		if n := count(list, kind); n == 0 {
			t.Errorf("no %s by the container", kind)
		}
	}
	wantIDs(t, list)
	wantActivity(t, list)
	wantName(t, list)
}

func TestContainerActivityByAuditBesideAuditd(t *testing.T) {
	need(t, "container", auditd.Available())
	d := dockertest.Start(t)
	d.Import(t, "shop:1")
	peer, err := auditd.Start(t.TempDir(), "e2e-peer")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := peer.Stop(); err != nil {
			t.Error(err)
		}
	})
	s := newStack(t, "docker.socket="+d.Socket, "sources.ebpf=off")
	for _, kind := range []event.Kind{event.ProcessExec, event.NetConnect} {
		if source := mustStatus(t, s).Sources[kind.String()]; source.Via != "audit/multicast" || !source.Healthy {
			t.Errorf("%s: source %+v, want audit/multicast", kind, source)
		}
	}
	serveName(t)
	task := runTask(t, d, "web-2")
	if _, err := s.Delivered(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	list := events(t, s, "--container", "web-2")
	wantAttributed(t, list, "web-2", task)
	wantActivity(t, list)

	if has, err := peer.HasRule(); err != nil || !has {
		t.Errorf("auditd's rule is there: %v, %v", has, err)
	}
	if err := s.Agent.Stop(); err != nil {
		t.Error(err)
	}
	if has, err := peer.HasRule(); err != nil || !has {
		t.Errorf("auditd's rule is there after the agent's end: %v, %v", has, err)
	}
	await(t, "auditd's log to have the container's exec", func() bool {
		log, err := os.ReadFile(peer.Log)
		return err == nil && bytes.Contains(log, []byte(`key="e2e-peer"`)) &&
			bytes.Contains(log, []byte(`a0="/bin/true"`))
	})
}

// What the engine does to a container is stored with the container, with what an exec ran but for its secret, and the
// ledger accounts for it.
func TestContainerLifeIsStored(t *testing.T) {
	const secret = "hunter2-S3cr3t"
	d := dockertest.Start(t)
	d.Import(t, "shop:1")
	s := newStack(t, "docker.socket="+d.Socket)
	await(t, "the engine to answer", func() bool {
		source := mustStatus(t, s).Sources["container.exec"]
		return source.Via == "docker" && source.Healthy
	})
	task := d.NewTask(t)
	d.Run(t, slices.Concat([]string{"run", "--detach", "--name", "web-3", "--net", "none"}, task.Args,
		[]string{"shop:1", "sleep", "1000"})...)
	d.Run(t, "exec", "--user", "7", "web-3", "true", "--password", secret)
	d.Run(t, "kill", "web-3")
	want := map[event.Kind]string{
		event.ContainerCreate: "shop:1", event.ContainerStart: "shop:1",
		event.ContainerExec: "true --password *** (user 7)", event.ContainerStop: "exit 137, signal 9",
	}
	await(t, "the end to be observed", func() bool { return mustStatus(t, s).Kinds["container.stop"].Observed == 1 })
	if _, err := s.Delivered(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	wantAttributed(t, events(t, s, "--container", "web-3"), "web-3", task)
	for kind, what := range want {
		list := events(t, s, "--kind", kind.String())
		if len(list) != 1 || event.What(&list[0]) != what || list[0].Container.Name != "web-3" {
			t.Errorf("%s: stored %s\nwant %q", kind, brief(list), what)
		}
		if n := mustStatus(t, s).Kinds[kind.String()]; n.Observed != 1 || n.Lost != 0 {
			t.Errorf("%s: %+v, want one observed", kind, n)
		}
	}
	all, err := s.Events(t.Context(), "--json", "--kind", "container.exec")
	if err != nil || bytes.Contains(all, []byte(secret)) {
		t.Errorf("its secret is stored: %v\n%s", err, all)
	}
}

// runTask runs the script in a container of an ECS task, to its end.
func runTask(t *testing.T, d *dockertest.Daemon, name string) dockertest.Task {
	t.Helper()
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	go func() {
		if c, err := listener.Accept(); err == nil {
			c.Close()
		}
	}()
	_, port, err := net.SplitHostPort(listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	task := d.NewTask(t)
	args := slices.Concat([]string{"run", "--name", name, "--net", "host"}, task.Args,
		[]string{"shop:1", "sh", "-c", string(bytes.ReplaceAll([]byte(script), []byte("PORT"), []byte(port)))})
	d.Run(t, args...)
	return task
}

// lives are the kinds that the engine tells of.
var lives = []event.Kind{event.ContainerCreate, event.ContainerStart, event.ContainerExec, event.ContainerStop}

// wantLife checks that the engine told of a container's life, in order, and of its end.
func wantLife(t *testing.T, list []event.Event) {
	t.Helper()
	var got []string
	for _, e := range list {
		if slices.Contains(lives, e.Kind) {
			got = append(got, e.Kind.String()+" "+event.What(&e))
		}
	}
	want := []string{"container.create shop:1", "container.start shop:1", "container.stop exit 0"}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Errorf("(-want +told):\n%s", diff)
	}
}

// wantAttributed checks that every event says whose it is.
func wantAttributed(t *testing.T, list []event.Event, name string, task dockertest.Task) {
	t.Helper()
	if len(list) == 0 {
		t.Error("no event of the container")
	}
	for _, e := range list {
		c := e.Container
		if c == nil || c.Name != name || c.Image != "shop:1" || c.Pending || len(c.ID) != 64 {
			t.Errorf("%s: container %+v", e.Kind, c)
			continue
		}
		if ecs := c.ECS; ecs == nil || ecs.TaskARN != task.ARN || ecs.Cluster != "demo" || ecs.Family != "shop" ||
			ecs.Revision != "42" || ecs.Container != "web" || ecs.TaskID != task.ID {
			t.Errorf("%s: task %+v, want that of %+v", e.Kind, ecs, task)
		}
		if slices.Contains(lives, e.Kind) { // the engine tells of these, not a process
			continue
		}
		if e.Process == nil || len(e.Process.Ancestors) == 0 {
			t.Errorf("%s: process %+v: want its ancestors", e.Kind, e.Process)
		}
	}
}

// wantIDs checks that every event has its process's id, which audit cannot tell of processes that are gone.
func wantIDs(t *testing.T, list []event.Event) {
	t.Helper()
	for _, e := range list {
		if slices.Contains(lives, e.Kind) {
			continue
		}
		if p := e.Process; p == nil || p.ID == (event.ID{}) || p.StartTime.IsZero() {
			t.Errorf("%s: process %+v: want its id and start", e.Kind, p)
		}
	}
}

// wantActivity checks what the script did, as far as every source tells of it.
func wantActivity(t *testing.T, list []event.Event) {
	t.Helper()
	executed := slices.ContainsFunc(list, func(e event.Event) bool {
		return e.Kind == event.ProcessExec && slices.Equal(e.Process.Args.Split(), []string{"/bin/true", "an argument"}) &&
			e.Process.Name == "true" && e.Process.Exe != "" && e.Process.Cwd == "/" &&
			e.Process.Ancestors[0].Name == "sh"
	})
	connected := slices.ContainsFunc(list, func(e event.Event) bool {
		return e.Kind == event.NetConnect && e.Process.Name == "nc" && e.Result == 0 &&
			e.Net.RemoteIP.String() == "127.0.0.1"
	})
	refused := slices.ContainsFunc(list, func(e event.Event) bool {
		return e.Kind == event.NetConnect && e.Result == int32(syscall.ECONNREFUSED) && e.Net.RemotePort == 1
	})
	if !executed || !connected || !refused {
		t.Errorf("executed /bin/true: %v, connected: %v, was refused: %v; among %s", executed, connected, refused,
			brief(list))
	}
}

func wantName(t *testing.T, list []event.Event) {
	t.Helper()
	asked := slices.ContainsFunc(list, func(e event.Event) bool {
		return e.Kind == event.DNSQuery && e.Process.Name == "nslookup" && e.DNS.RemoteIP.String() == nameserver &&
			slices.Contains(e.DNS.Questions, event.Question{Name: "shop.example", Type: "A"})
	})
	answered := slices.ContainsFunc(list, func(e event.Event) bool {
		return e.Kind == event.DNSResponse && e.Process.Name == "nslookup" &&
			slices.ContainsFunc(e.DNS.Answers, func(a event.Answer) bool { return a.Data == "192.0.2.7" })
	})
	if !asked || !answered {
		t.Errorf("asked for shop.example: %v, answered: %v; among %s", asked, answered, brief(list))
	}
}

func brief(list []event.Event) string {
	var b bytes.Buffer
	printer := event.NewPrinter(&b, false)
	for i := range list {
		_ = printer.Print(&list[i]) // a bytes.Buffer takes all
	}
	return "\n" + b.String()
}

func count(list []event.Event, kind event.Kind) (n int) {
	for _, e := range list {
		if e.Kind == kind {
			n++
		}
	}
	return n
}

// serveName answers every question for an address with 192.0.2.7, until the test ends.
func serveName(t *testing.T) {
	t.Helper()
	conn, err := net.ListenPacket("udp", nameserver+":53")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { conn.Close() })
	go func() {
		buf := make([]byte, 512)
		for {
			n, from, err := conn.ReadFrom(buf)
			if err != nil {
				return
			}
			if reply := answer(buf[:n]); reply != nil {
				_, _ = conn.WriteTo(reply, from)
			}
		}
	}()
}

// answer returns the answer to a query, nil if it is none.
func answer(query []byte) []byte {
	var m dnsmessage.Message
	if m.Unpack(query) != nil || len(m.Questions) != 1 {
		return nil
	}
	m.Response, m.Additionals = true, nil
	if q := m.Questions[0]; q.Type == dnsmessage.TypeA {
		m.Answers = []dnsmessage.Resource{{
			Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class, TTL: 60},
			Body:   &dnsmessage.AResource{A: [4]byte{192, 0, 2, 7}},
		}}
	}
	reply, err := m.Pack()
	if err != nil {
		return nil
	}
	return reply
}
