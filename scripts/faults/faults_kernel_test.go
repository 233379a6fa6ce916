package faults

import (
	"errors"
	"fmt"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"syscall"
	"testing"
	"time"

	"golang.org/x/net/dns/dnsmessage"
	"golang.org/x/sys/unix"
)

// insideVariable names the test that runs in the namespaces made for it.
const insideVariable = "TASKGUARD_FAULTS_INSIDE"

// need skips the test where something is missing, or fails it when its tier is required.
func need(t *testing.T, programs ...string) {
	t.Helper()
	var missing []error
	if os.Geteuid() != 0 {
		missing = append(missing, errors.New("namespaces and file systems need root"))
	}
	for _, name := range programs {
		if _, err := exec.LookPath(name); err != nil {
			missing = append(missing, err)
		}
	}
	switch err := errors.Join(missing...); {
	case err == nil:
	case slices.Contains(strings.Split(os.Getenv("TASKGUARD_REQUIRE"), ","), "kernel"):
		t.Fatal(err)
	default:
		t.Skip(err)
	}
}

// inside runs the test again in a network and a mount namespace of its own, and reports whether this is there.
func inside(t *testing.T, programs ...string) bool {
	t.Helper()
	need(t, append(programs, "ip")...)
	if os.Getenv(insideVariable) == t.Name() {
		command(t, "ip", "link", "set", "lo", "up")
		if err := unix.Mount("", "/", "", unix.MS_REC|unix.MS_PRIVATE, ""); err != nil {
			t.Fatal(err)
		}
		return true
	}
	cmd := exec.CommandContext(t.Context(), "/proc/self/exe", "-test.run=^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), insideVariable+"="+t.Name(), "TASKGUARD_BIN="+built.bin(t))
	cmd.SysProcAttr = &syscall.SysProcAttr{Cloneflags: unix.CLONE_NEWNET | unix.CLONE_NEWNS, Pdeathsig: syscall.SIGKILL}
	// The signal comes when the thread ends that started the process.
	runtime.LockOSThread()
	defer runtime.UnlockOSThread()
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "--- PASS: "+t.Name()+" ") {
		t.Errorf("in the namespaces: %v\n%s", err, out)
	} else {
		t.Logf("in the namespaces:\n%s", out)
		shown.addPrinted(t.Name(), string(out))
	}
	return false
}

func command(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

// TestPacketsAreLost drops 30 % of all packets, in both directions, by netfilter: kernels for containers often have no
// netem.
func TestPacketsAreLost(t *testing.T) {
	if !inside(t, "iptables") {
		return
	}
	c := newCell(t)
	c.feed.Timeout = 30 * time.Second
	c.start()
	command(t, "iptables", "-I", "INPUT", "-p", "tcp", "-m", "statistic", "--mode", "random", "--probability", "0.3", "-j", "DROP")
	began := c.feeder.report().Ledger.Acked
	c.feeder.await("events to come through", func(r report) bool {
		return r.Ledger.Acked > began+choose[uint64](20_000, 1000)
	})
	dropped, err := exec.Command("iptables", "-nvxL", "INPUT").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	var packets int
	if lines := strings.Split(string(dropped), "\n"); len(lines) > 2 {
		fmt.Sscan(lines[2], &packets)
	}
	if packets == 0 {
		t.Errorf("no packet was dropped:\n%s", dropped)
	}
	t.Logf("%d packets dropped", packets)
	command(t, "iptables", "-F", "INPUT")
	c.account()
}

// TestNamesAreGone has the name server end, and come again.
func TestNamesAreGone(t *testing.T) {
	if !inside(t) {
		return
	}
	resolv := filepath.Join(t.TempDir(), "resolv.conf")
	write(t, resolv, []byte("nameserver 127.0.0.1\noptions timeout:1 attempts:1\n"))
	if err := unix.Mount(resolv, "/etc/resolv.conf", "", unix.MS_BIND, ""); err != nil {
		t.Fatal(err)
	}
	stop := serveNames(t)
	c := newCell(t)
	_, port, err := net.SplitHostPort(c.endpoint.Address())
	if err != nil {
		t.Fatal(err)
	}
	c.feed.URL, c.feed.ServerName = "https://endpoint.example.com:"+port, "localhost"
	c.start()
	stop()
	c.endpoint.Endpoint.Kill() // which ends the connections: new ones need the name
	if err := c.endpoint.StartEndpoint(t.Context()); err != nil {
		t.Fatal(err)
	}
	c.hold(choose(time.Minute, 2*time.Second), "cannot be looked up")
	defer serveNames(t)()
	c.account()
}

// serveNames is a name server that knows one address for all names.
func serveNames(t *testing.T) (stop func()) {
	t.Helper()
	socket, err := net.ListenPacket("udp", "127.0.0.1:53")
	if err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		buf := make([]byte, 1500)
		for {
			n, from, err := socket.ReadFrom(buf)
			if err != nil {
				return
			}
			var m dnsmessage.Message
			if m.Unpack(buf[:n]) != nil || len(m.Questions) != 1 {
				continue
			}
			q := m.Questions[0]
			m.Response, m.Additionals = true, nil
			if q.Type == dnsmessage.TypeA {
				m.Answers = []dnsmessage.Resource{{
					Header: dnsmessage.ResourceHeader{Name: q.Name, Type: q.Type, Class: q.Class},
					Body:   &dnsmessage.AResource{A: [4]byte{127, 0, 0, 1}},
				}}
			}
			if answer, err := m.Pack(); err == nil {
				_, _ = socket.WriteTo(answer, from)
			}
		}
	}()
	return func() { socket.Close(); <-ended }
}

// TestDiskIsFull has the agent's file system run out while the endpoint is away, in several ways.
func TestDiskIsFull(t *testing.T) {
	need(t)
	for name, options := range map[string]string{"disk_full": "size=1500k", "inodes_exhausted": "nr_inodes=20"} {
		t.Run(name, func(t *testing.T) {
			c := newCell(t)
			mount(t, c.feed.Dir, options)
			c.feed.Rate = choose(2000, 5000)
			c.start()
			c.endpoint.Endpoint.Kill()
			c.feeder.await("events to be lost", func(r report) bool { return r.Ledger.Lost["spool/write"] > 1000 })
			if err := c.endpoint.StartEndpoint(t.Context()); err != nil {
				t.Fatal(err)
			}
			c.account("spool/write")
		})
	}
	t.Run("read_only", func(t *testing.T) {
		c := newCell(t)
		spool := filepath.Join(c.feed.Dir, "spool")
		mount(t, spool, "size=8m")
		c.start()
		c.endpoint.Endpoint.Kill()
		await(t, func() bool { // not while a file is open for writing
			return unix.Mount("tmpfs", spool, "tmpfs", unix.MS_REMOUNT|unix.MS_RDONLY, "size=8m") == nil
		})
		c.feeder.await("events to be lost", func(r report) bool { return r.Ledger.Lost["spool/write"] > 100 })
		if err := unix.Mount("tmpfs", spool, "tmpfs", unix.MS_REMOUNT, "size=8m"); err != nil {
			t.Fatal(err)
		}
		if err := c.endpoint.StartEndpoint(t.Context()); err != nil {
			t.Fatal(err)
		}
		c.account("spool/write")
	})
}

func await(t *testing.T, done func() bool) {
	t.Helper()
	for end := time.Now().Add(time.Minute); !done(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatal("waited a minute in vain")
		}
	}
}

// mount makes a folder a file system of its own.
func mount(t *testing.T, dir, options string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("tmpfs", dir, "tmpfs", 0, options); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := unix.Unmount(dir, 0); err != nil {
			t.Error(err)
		}
	})
}
