package ebpf

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
)

// The looks are a second apart; each row is what the kernel counts then, by cgroup, and what is told.
func TestThrottling(t *testing.T) {
	const file, fork = commonKindFILE_OPEN, commonKindPROCESS_FORK
	count := func(opens, forks uint64) (d drops) {
		d[file], d[fork] = opens, forks
		return d
	}
	type look struct {
		counted map[uint64]drops
		want    []string // phase cgroup opens/forks from-to
	}
	for _, test := range []struct {
		name  string
		looks []look
	}{
		{"a cgroup that keeps to its share", []look{{counted: map[uint64]drops{1: {}}}, {}, {}}},
		{"one burst", []look{
			{map[uint64]drops{1: {}}, nil},
			{map[uint64]drops{1: count(7, 0)}, []string{"start 1 7/0 1-2"}},
			{map[uint64]drops{1: count(7, 0)}, nil},
			{map[uint64]drops{1: count(7, 0)}, []string{"stop 1 7/0 1-2"}},
			{map[uint64]drops{1: count(7, 0)}, nil},
		}},
		{"a pause shorter than the quiet", []look{
			{map[uint64]drops{1: count(1, 0)}, []string{"start 1 1/0 0-1"}},
			{map[uint64]drops{1: count(1, 0)}, nil},
			{map[uint64]drops{1: count(5, 2)}, nil},
			{map[uint64]drops{1: count(5, 2)}, nil},
			{map[uint64]drops{1: count(5, 2)}, []string{"stop 1 5/2 0-3"}},
		}},
		{"a second time counts for itself", []look{
			{map[uint64]drops{1: count(3, 0)}, []string{"start 1 3/0 0-1"}},
			{map[uint64]drops{1: count(3, 0)}, nil},
			{map[uint64]drops{1: count(3, 0)}, []string{"stop 1 3/0 0-1"}},
			{map[uint64]drops{1: count(4, 0)}, []string{"start 1 1/0 3-4"}},
		}},
		{"a cgroup that the kernel forgets", []look{
			{map[uint64]drops{1: count(3, 0), 2: count(0, 4)}, []string{"start 1 3/0 0-1", "start 2 0/4 0-1"}},
			{map[uint64]drops{2: count(0, 6)}, nil},
			{map[uint64]drops{2: count(0, 6)}, []string{"stop 1 3/0 0-1"}},
			{nil, []string{"stop 2 0/6 0-2"}},
		}},
		{"a cgroup that the kernel forgets and meets again", []look{
			{map[uint64]drops{1: count(9, 0)}, []string{"start 1 9/0 0-1"}},
			{nil, nil},
			{map[uint64]drops{1: count(2, 0)}, nil},
			{nil, nil},
			{nil, []string{"stop 1 11/0 0-3"}},
		}},
	} {
		t.Run(test.name, func(t *testing.T) {
			began := time.Unix(1e9, 0)
			w := newThrottling(began)
			for i, l := range test.looks {
				var got []string
				w.look(began.Add(time.Duration(i+1)*time.Second), l.counted, func(phase string, id uint64, c *throttled) {
					got = append(got, fmt.Sprintf("%s %d %d/%d %v-%v", phase, id, c.dropped[file], c.dropped[fork],
						c.from.Sub(began).Seconds(), c.to.Sub(began).Seconds()))
				})
				if diff := cmp.Diff(l.want, got); diff != "" {
					t.Errorf("look %d (-want +got):\n%s", i+1, diff)
				}
			}
		})
	}
}

// Whatever cgroups come and go, no more is remembered than the kernel remembers and what has not stopped yet; and what
// starts, stops.
func TestThrottlingIsBounded(t *testing.T) {
	const perLook, looks = 1024, 50
	began := time.Unix(1e9, 0)
	w := newThrottling(began)
	phases := map[string]int{}
	tell := func(phase string, _ uint64, _ *throttled) { phases[phase]++ }
	for i := range looks {
		counted := map[uint64]drops{}
		for j := range perLook {
			counted[uint64(i*perLook+j)] = drops{commonKindFILE_OPEN: 1}
		}
		w.look(began.Add(time.Duration(i)*time.Second), counted, tell)
		if most := 3 * perLook; len(w.cgroups) > most {
			t.Fatalf("%d cgroups remembered, want at most %d", len(w.cgroups), most)
		}
	}
	w.end(tell)
	if phases["start"] != perLook*looks || phases["stop"] != perLook*looks || w.active != 0 {
		t.Errorf("%v, %d active, want %d of each and none", phases, w.active, perLook*looks)
	}
	w.look(began.Add(looks*time.Second), nil, tell)
	if len(w.cgroups) != 0 {
		t.Errorf("%d cgroups remembered that nobody knows", len(w.cgroups))
	}
}

func FuzzThrottling(f *testing.F) {
	f.Add([]byte{1, 2, 3, 0, 5, 9, 9})
	f.Fuzz(func(t *testing.T, steps []byte) {
		now := time.Unix(1e9, 0)
		w := newThrottling(now)
		var counted drops
		var dropped, told uint64
		var log strings.Builder
		losing := false
		tell := func(phase string, _ uint64, c *throttled) {
			fmt.Fprintf(&log, "%s ", phase)
			if (phase == "start") == losing {
				t.Fatalf("%s: the same again", log.String())
			}
			if losing = phase == "start"; !losing {
				told += c.dropped[commonKindFILE_OPEN]
			}
		}
		for _, n := range steps {
			counted[commonKindFILE_OPEN] += uint64(n / 2)
			dropped += uint64(n / 2)
			now = now.Add(time.Duration(1+n%2) * time.Second)
			w.look(now, map[uint64]drops{1: counted}, tell)
		}
		w.end(tell)
		if told != dropped || losing {
			t.Errorf("%d told of, %d dropped", told, dropped)
		}
	})
}
