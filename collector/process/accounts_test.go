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
			if len(users) != 0 {
				t.Errorf("read %v", users)
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
	if n := len(a.places[""].users); n != 10 {
		t.Errorf("%d names", n)
	}
}

// Containers full of users push each other out, and never the host.
func TestAccountsOfAllAreBounded(t *testing.T) {
	proc := t.TempDir()
	fakeRoot(t, proc, 1, 0, map[string]string{"etc/passwd": "a:x:1:\nb:x:2:\n", "etc/group": "c:x:1:\n"})
	a := NewAccounts(AccountsConfig{ProcRoot: proc, MaxTotal: 10})
	for _, container := range []string{"", "1", "2", "3", "4", "5"} {
		a.Note(container, 1, 0)
		a.learn(<-a.queue)
		wantUser(t, a, container, 2, "b")
	}
	wantUser(t, a, "", 1, "a")
	names := 0
	for _, p := range a.places {
		names += p.names()
	}
	if s := a.Stats(); s.Names != 9 || s.Names != names || s.Evicted != 3 {
		t.Errorf("%+v, %d names", s, names)
	}
}
