package container

import (
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/taskguard/taskguard/collector/event"
)

// fat has everything as long as it may be by itself.
func fat() event.Container {
	long := strings.Repeat("x", maxValue)
	c := event.Container{ID: id1, Name: long, Command: event.Argv(long), Posture: &event.Posture{User: long}}
	for i := range maxMounts {
		c.Mounts = append(c.Mounts, event.ContainerMount{Source: long, Destination: fmt.Sprint(i)})
		c.Ports = append(c.Ports, event.Port{Port: uint16(i)})
	}
	for i := range maxNames {
		c.Labels = append(c.Labels, event.Tag{Key: fmt.Sprint(i), Value: long})
		c.Networks = append(c.Networks, event.Network{Name: fmt.Sprint(i)})
		c.Posture.Credentials = append(c.Posture.Credentials, event.Credential{Name: fmt.Sprint("PASSWORD", i), Kind: "password"})
		c.Posture.Devices = append(c.Posture.Devices, "/dev/"+fmt.Sprint(i))
	}
	return c
}

// Law: a description has a bounded size, and what says most of its posture is cut last.
func TestDescriptionIsBounded(t *testing.T) {
	for limit := 0; limit < 40<<10; limit += 97 {
		c := fat()
		trim(&c, limit)
		if size := sizeOf(&c); size > max(limit, textSize(&c)) {
			t.Fatalf("%d bytes, want at most %d", size, limit)
		}
		whole := []bool{
			len(c.Labels) == maxNames, len(c.Mounts) == maxMounts, len(c.Networks) == maxNames, len(c.Ports) == maxMounts,
			len(c.Posture.Credentials) == maxNames, len(c.Posture.Devices) == maxNames,
		}
		for i := 1; i < len(whole); i++ {
			if whole[i-1] && !whole[i] {
				t.Fatalf("at %d bytes, lists are whole: %v", limit, whole)
			}
		}
		if c.Truncated == whole[0] {
			t.Fatalf("at %d bytes, truncated is %v", limit, c.Truncated)
		}
	}
}

// Law: what is known of all containers has a bounded size, which is counted exactly; each is still told apart.
func TestDescriptionsAreBounded(t *testing.T) {
	tracker := newTracker(t, Config{Docker: "unix:///fake", MaxContainers: 3000})
	ids := make([]string, 3000)
	for i := range ids {
		ids[i] = fmt.Sprintf("%064x", i)
		f := facts{Container: fat()}
		f.Name = fmt.Sprint("web-", i)
		trim(&f.Container, maxDescription)
		tracker.note(ids[i], f, time.Now())
		tracker.settle(ids[i], f)
	}
	sum := 0
	for i, id := range ids {
		c := tracker.containers[id]
		sum += sizeOf(c.known)
		if c.known.Name != fmt.Sprint("web-", i) || !c.known.Truncated || c.known.Posture == nil {
			t.Fatalf("container %d: %+v", i, c.known)
		}
	}
	if tracker.bytes != sum || sum > maxDescriptions+len(ids)*textSize(tracker.containers[ids[0]].known) {
		t.Errorf("%d bytes counted, %d kept, want at most about %d", tracker.bytes, sum, maxDescriptions)
	}
	if n := tracker.Stats().DescriptionsCut; n == 0 {
		t.Error("none was cut")
	}
	for _, c := range tracker.containers {
		tracker.drop(c)
	}
	if tracker.bytes != 0 {
		t.Errorf("%d bytes are counted of none", tracker.bytes)
	}
}
