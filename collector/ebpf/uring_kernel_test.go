package ebpf

import (
	"encoding/json"
	"errors"
	"io"
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// requests is what the requests action has a ring do, without looking at what comes of it.
type requests struct {
	Setup    uint32 // flags of the ring
	Flags    uint8  // of each request
	Paths    []string
	Open     bool // for writing, instead of unlinked
	Unreaped bool // completions are not taken, and not waited for
	Stay     bool // until standard input ends
}

func actRequests(args []string) error {
	var q requests
	if err := json.Unmarshal([]byte(args[0]), &q); err != nil {
		return err
	}
	r, err := newRing(q.Setup)
	if err != nil {
		return err
	}
	cwd := unix.AT_FDCWD
	var keep []*byte
	for _, path := range q.Paths {
		name := mustBytes(path)
		keep = append(keep, name)
		s := sqe{Opcode: opUnlinkat, FD: int32(cwd), Address: uint64(pointer(name)), Flags: q.Flags}
		if q.Open {
			s.Opcode, s.OpFlags = opOpenat, unix.O_WRONLY
		}
		r.push(s)
		wait := 1
		if q.Unreaped {
			wait = 0
		}
		if err := r.enter(1, wait); err != nil {
			return err
		}
		if wait == 1 {
			if _, err := r.pop(); err != nil {
				return err
			}
		}
	}
	if err := say(len(keep)); err != nil {
		return err
	}
	if q.Stay {
		if _, err := io.Copy(io.Discard, os.Stdin); err != nil {
			return err
		}
	}
	return r.close()
}

func requestsAction(t *testing.T, q requests) []string {
	t.Helper()
	what, err := json.Marshal(q)
	if err != nil {
		t.Fatal(err)
	}
	return []string{"requests", string(what)}
}

// A thread of the kernel's that takes requests from memory makes no system call.
func TestRingThread(t *testing.T) {
	forRungs(t, []event.Kind{event.FileUnlink}, func(t *testing.T, o *observer) {
		if !ringsSeen(t, rungOf(t)) {
			return
		}
		path := filepath.Join(openTempDir(t), "file")
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		args := requestsAction(t, requests{Setup: setupThread, Paths: []string{path, path}})
		tr := o.trace(t, action(args[0], args[1:]...))
		got := tr.of(event.FileUnlink)
		if len(got) != 2 || got[0].Result != 0 || got[1].Result != int32(unix.ENOENT) {
			t.Fatalf("told of %+v", got)
		}
		for _, e := range got {
			if e.File.Path != path || e.Process.PID != uint32(tr.pid) {
				t.Errorf("told of %+v by %d", *e.File, e.Process.PID)
			}
		}
	})
}

// A request that asks for no completion is told of all the same; where nobody sees its end, as under way.
func TestRingSilent(t *testing.T) {
	forRungs(t, []event.Kind{event.FileUnlink}, func(t *testing.T, o *observer) {
		if !ringsSeen(t, rungOf(t)) || !skipsCompletions(t) {
			return
		}
		path := filepath.Join(openTempDir(t), "file")
		if err := os.WriteFile(path, nil, 0o644); err != nil {
			t.Fatal(err)
		}
		const skipSuccess = 1 << 6 // IOSQE_CQE_SKIP_SUCCESS
		args := requestsAction(t, requests{Flags: skipSuccess, Paths: []string{path}, Unreaped: true, Stay: true})
		cmd := action(args[0], args[1:]...)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		mark := o.mark()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		events := o.await(t, mark, "the unlink", func(e *event.Event) bool {
			return e.Kind == event.FileUnlink && e.File.Path == path
		})
		if err := errors.Join(stdin.Close(), cmd.Wait()); err != nil {
			t.Fatal(err)
		}
		want := int32(0)
		if rungOf(t) == rungTracepoint {
			want = int32(unix.EINPROGRESS)
		}
		if got := events[len(events)-1]; got.Result != want {
			t.Errorf("told of errno %d, want %d", got.Result, want)
		}
	})
}

// skipsCompletions tells whether requests of this kernel can ask for none.
func skipsCompletions(t *testing.T) bool {
	t.Helper()
	r, err := newRing(0)
	if err != nil {
		t.Fatal(err)
	}
	if err := r.close(); err != nil {
		t.Fatal(err)
	}
	skips := r.params.Features&featureSkip != 0
	if !skips {
		t.Log("before Linux 5.17 every request of io_uring has its completion")
	}
	return skips
}

// Completions that the caller does not take are not told of: what they are of is, when its request is used anew or at
// the end.
func TestRingUntaken(t *testing.T) {
	forRungs(t, []event.Kind{event.FileUnlink}, func(t *testing.T, o *observer) {
		if !ringsSeen(t, rungOf(t)) {
			return
		}
		// Where functions are probed a request is told of when the kernel works on it, which it need not do any more when
		// its ring is closed.
		q := requests{Unreaped: true, Stay: rungOf(t) != rungTracepoint}
		for range 200 { // a ring's queue of completions has 16
			q.Paths = append(q.Paths, "/none/x")
		}
		args := requestsAction(t, q)
		cmd := action(args[0], args[1:]...)
		stdin, err := cmd.StdinPipe()
		if err != nil {
			t.Fatal(err)
		}
		mark := o.mark()
		if err := cmd.Start(); err != nil {
			t.Fatal(err)
		}
		seen := 0
		defer func() {
			if seen != len(q.Paths) {
				t.Errorf("%d events of %d requests", seen, len(q.Paths))
			}
		}()
		o.until(t, "all of them", func() bool {
			seen = 0
			for _, e := range o.events[mark:] {
				if e.Kind == event.FileUnlink && e.File.Path == "/none/x" {
					seen++
				}
			}
			return seen >= len(q.Paths)
		})
		if err := errors.Join(stdin.Close(), cmd.Wait()); err != nil {
			t.Fatal(err)
		}
	})
}

// Requests that there is no room to remember are lost, and told of.
func TestRingRequestsAreBounded(t *testing.T) {
	o := observeLosing(t, rungTracepoint, event.FileUnlink)
	if !ringsSeen(t, rungTracepoint) {
		return
	}
	waiting := o.source.objects.shared[commonMapUringSmall]
	record := make([]byte, waiting.ValueSize())
	record[7] = 0x7f // since the distant future
	fill(t, waiting, record)
	args := requestsAction(t, requests{Paths: []string{"/none/x"}})
	if tr := o.trace(t, action(args[0], args[1:]...)); len(tr.of(event.FileUnlink)) != 0 {
		t.Error("the request was recorded")
	}
	o.until(t, "the loss", func() bool { return o.lost["file.unlink kernel/state_full"] == 1 })
}
