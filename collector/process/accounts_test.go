package process

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"golang.org/x/sys/unix"
)

// fakeRoot makes a process in a /proc of the test's own, with a root directory and ids that begin at base.
func fakeRoot(t *testing.T, proc string, pid int, base uint32, files map[string]string) string {
	t.Helper()
	dir := filepath.Join(proc, fmt.Sprint(pid))
	root := filepath.Join(t.TempDir(), "root")
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	must(os.MkdirAll(filepath.Join(root, "etc"), 0o755))
	must(os.MkdirAll(dir, 0o755))
	must(os.Symlink(root, filepath.Join(dir, "root")))
	for _, name := range []string{"uid_map", "gid_map"} {
		must(os.WriteFile(filepath.Join(dir, name), fmt.Appendf(nil, "%10d %10d %10d\n", 0, base, 65536), 0o600))
	}
	stat := fmt.Sprintf("%d (sh) S 1 1 1 0 -1 4194304 0 0 0 0 0 0 0 0 20 0 1 0 %d 0 0", pid, 100*pid)
	must(os.WriteFile(filepath.Join(dir, "stat"), []byte(stat), 0o600))
	for name, content := range files {
		must(os.WriteFile(filepath.Join(root, name), []byte(content), 0o600))
	}
	return root
}

// startOf is when the process of fakeRoot started.
func startOf(pid int) uint64 { return uint64(100*pid) * tick }

// runAccounts has one read until the test ends.
func runAccounts(t *testing.T, cfg AccountsConfig) *Accounts {
	t.Helper()
	a := NewAccounts(cfg)
	ctx, stop := context.WithCancel(t.Context())
	var running sync.WaitGroup
	running.Go(func() { a.Run(ctx) })
	t.Cleanup(func() { stop(); running.Wait() })
	return a
}

// wantUser waits for a name.
func wantUser(t *testing.T, a *Accounts, container string, id uint32, want string) {
	t.Helper()
	got := ""
	for deadline := time.Now().Add(10 * time.Second); time.Now().Before(deadline); time.Sleep(time.Millisecond) {
		if got = a.User(container, id); got == want && a.Stats().Read > 0 {
			return
		}
	}
	t.Errorf("user %d of %q is %q, want %q (%+v)", id, container, got, want, a.Stats())
}

func TestAccounts(t *testing.T) {
	proc := t.TempDir()
	fakeRoot(t, proc, 1, 0, map[string]string{
		"etc/passwd": "root:x:0:0:root:/root:/bin/sh\ntoor:x:0:0::/:\nbroken\n:x:5:\nshop:x:1000:1000::/:\n" +
			strings.Repeat("n", 100) + ":x:7:7::/:\nneg:x:-1:0\n",
		"etc/group": "root:x:0:\nstaff:x:50:a,b\n",
	})
	fakeRoot(t, proc, 2, 0, map[string]string{"etc/passwd": "app:x:1000:1000::/:\n"})
	fakeRoot(t, proc, 3, 100000, map[string]string{"etc/passwd": "root:x:0:0::/:\n"})
	a := runAccounts(t, AccountsConfig{ProcRoot: proc})
	if got := a.User("", 0); got != "" {
		t.Errorf("%q before anything was read", got)
	}
	a.Note("", 1, startOf(1))
	a.Note("c2", 2, startOf(2))
	a.Note("c3", 3, 0)
	wantUser(t, a, "", 0, "root") // not toor
	wantUser(t, a, "", 1000, "shop")
	wantUser(t, a, "", 5, "")
	wantUser(t, a, "", 7, "")
	wantUser(t, a, "", 1<<32-1, "")
	if got := a.Group("", 50); got != "staff" {
		t.Errorf("group 50 is %q", got)
	}
	// The same id is another user in a container, and the same user has another id in one with ids of its own.
	wantUser(t, a, "c2", 1000, "app")
	wantUser(t, a, "c2", 0, "")
	wantUser(t, a, "c3", 100000, "root")
	wantUser(t, a, "c3", 0, "")
	if got := a.Group("c2", 1000); got != "" {
		t.Errorf("group of a container without groups is %q", got)
	}
}

// A container cannot have a file of the host read, nor a device, nor anything that blocks.
func TestAccountsStayInside(t *testing.T) {
	outside := filepath.Join(t.TempDir(), "passwd")
	if err := os.WriteFile(outside, []byte("host:x:0:0::/:\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	for name, make := range map[string]func(path string) error{
		"link out":   func(path string) error { return os.Symlink(outside, path) },
		"magic link": func(path string) error { return os.Symlink("/proc/self/root"+outside, path) },
		"fifo":       func(path string) error { return unix.Mkfifo(path, 0o600) },
		"directory":  func(path string) error { return os.Mkdir(path, 0o700) },
		"loop":       func(path string) error { return os.Symlink("passwd", path) },
	} {
		t.Run(name, func(t *testing.T) {
			proc := t.TempDir()
			root := fakeRoot(t, proc, 1, 0, map[string]string{"etc/group": "in:x:0:\n"})
			if err := make(filepath.Join(root, "etc/passwd")); err != nil {
				t.Fatal(err)
			}
			a := NewAccounts(AccountsConfig{ProcRoot: proc})
			users, _, _ := a.read(view{"", 1, 0})
			if users.read() && users.lines.Value() != "" {
				t.Errorf("read %q", users.lines.Value())
			}
		})
	}
}

func TestAccountsOfAProcessThatIsGone(t *testing.T) {
	proc := t.TempDir()
	fakeRoot(t, proc, 1, 0, map[string]string{"etc/passwd": "root:x:0:0::/:\n"})
	a := NewAccounts(AccountsConfig{ProcRoot: proc})
	a.Note("c", 2, 0)              // never was
	a.learn(<-a.queue)             //
	a.Note("c", 1, startOf(1)+1e9) // its pid has been used again
	a.learn(<-a.queue)
	if s := a.Stats(); s.Vanished != 2 || s.Read != 0 || a.User("c", 0) != "" {
		t.Errorf("%+v", s)
	}
	a.Note("c", 2, 0)
	a.Note("c", 1, startOf(1)) // while the first waits
	a.learn(<-a.queue)
	a.learn(<-a.queue)
	if s := a.Stats(); s.Read != 1 || a.User("c", 0) != "root" {
		t.Errorf("%+v", s)
	}
}

func TestAccountsAreReadAgain(t *testing.T) {
	proc := t.TempDir()
	root := fakeRoot(t, proc, 1, 0, map[string]string{"etc/passwd": "root:x:0:0::/:\n"})
	a := NewAccounts(AccountsConfig{ProcRoot: proc})
	a.Note("c", 1, startOf(1))
	a.learn(<-a.queue)
	if err := os.WriteFile(filepath.Join(root, "etc/passwd"), []byte("root:x:0:0::/:\nnew:x:5:5::/:\n"), 0o600); err != nil {
		t.Fatal(err)
	}
	if a.User("c", 5) != "" || len(a.queue) != 0 {
		t.Error("read again at once")
	}
	a.places["c"].readAt = time.Now().Add(-accountsAgain)
	if a.User("c", 0); len(a.queue) != 0 {
		t.Error("read again for a name that is known")
	}
	a.User("c", 5)
	a.learn(<-a.queue)
	if got := a.User("c", 5); got != "new" {
		t.Errorf("%q", got)
	}
}

func TestAccountsAreBounded(t *testing.T) {
	proc := t.TempDir()
	var many strings.Builder
	for i := range 100 {
		fmt.Fprintf(&many, "u%d:x:%d:0::/:\n", i, i)
	}
	fakeRoot(t, proc, 1, 0, map[string]string{"etc/passwd": many.String()})
	a := NewAccounts(AccountsConfig{ProcRoot: proc, MaxPlaces: 3, MaxNames: 10})
	a.Note("", 1, 0)
	for i := range 1000 {
		a.Note(fmt.Sprint(i), 1, 0)
	}
	if s := a.Stats(); s.Places != 3 || s.Evicted != 998 || len(a.queue) != maxViews {
		t.Errorf("%+v, %d wait", s, len(a.queue))
	}
	a.learn(view{"", 1, 0})
	if n := strings.Count(a.places[""].users.lines.Value(), "\n"); n != 10 {
		t.Errorf("%d names", n)
	}
}

// Containers full of users push each other out, and never the host. What several have alike counts once.
func TestAccountsOfAllAreBounded(t *testing.T) {
	proc := t.TempDir()
	const containers = 6
	for i := range uint32(containers) {
		fakeRoot(t, proc, 10+int(i), 0, map[string]string{"etc/passwd": fmt.Sprintf("alone%d:x:1:\nb:x:2:\n", i)})
		fakeRoot(t, proc, 20+int(i), 0, map[string]string{"etc/passwd": "alike:x:1:\n"})
	}
	a := NewAccounts(AccountsConfig{ProcRoot: proc, MaxBytes: 3*len("1:alone0\n2:b\n") + len("1:alike\n")})
	learn := func(container string, pid uint32, name string) {
		t.Helper()
		a.Note(container, pid, 0)
		a.learn(<-a.queue)
		wantUser(t, a, container, 1, name)
	}
	learn("", 10, "alone0")
	for i := range uint32(containers) {
		learn(fmt.Sprint("alike", i), 20+i, "alike")
	}
	if s := a.Stats(); s.Evicted != 0 {
		t.Errorf("%+v: some that have all alike were forgotten", s)
	}
	for i := range uint32(containers) {
		learn(fmt.Sprint("alone", i), 10+i, fmt.Sprint("alone", i))
		if s := a.Stats(); s.Bytes > a.cfg.MaxBytes {
			t.Errorf("%+v, want at most %d bytes", s, a.cfg.MaxBytes)
		}
	}
	wantUser(t, a, "", 1, "alone0")
	if s := a.Stats(); s.Evicted == 0 {
		t.Errorf("%+v: none was forgotten", s)
	}
	for container := range a.places {
		if container != "" {
			a.remove(container)
		}
	}
	if want := len("1:alone0\n2:b\n"); a.bytes != want || len(a.kept) != 2 {
		t.Errorf("%d bytes of %d lists are left, want %d of 2", a.bytes, len(a.kept), want)
	}
}

// Containers with the same files share what was read.
func TestNamesAreShared(t *testing.T) {
	a := NewAccounts(AccountsConfig{})
	const file = "root:x:0:0::/root:/bin/sh\nweb:x:10:10::/:/bin/sh\nwww:x:1:1::/:/bin/sh\n"
	ids := idMap{{0, 0, 100}}
	one, other := a.parse(strings.NewReader(file), ids), a.parse(strings.NewReader(file), ids)
	if one != other || !one.read() {
		t.Error("two readings of one file are not the same")
	}
	for id, want := range map[uint32]string{0: "root", 1: "www", 10: "web", 100: ""} {
		if got, ok := one.of(id); got != want || ok != (want != "") {
			t.Errorf("%d is %q, %v; want %q", id, got, ok, want)
		}
	}
}
