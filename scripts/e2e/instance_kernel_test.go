package e2e

import (
	"cmp"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/scripts/imdstest"
	"github.com/taskguard/taskguard/scripts/stack"
)

// enter runs the test in a network namespace of its own, with the programs that are built.
func enter(t *testing.T) (inside bool) {
	t.Helper()
	need(t, "kernel", needRoot())
	return imdstest.Enter(t, "TASKGUARD_BIN="+built.bin(t))
}

func TestAgentTellsOfItsInstance(t *testing.T) {
	if !enter(t) {
		return
	}
	imdstest.Serve(t, "", "--imdsv2")
	s := newStack(t, "host.imds=auto")
	// The start tells what the agent waits for; what it asks for in the background may follow.
	wantMockInstance(t, s, startOf(t, s).Agent.Instance)
	if countPrograms(t, s.Agent.PID()) == 0 {
		t.Error("the agent has no BPF program")
	}
	await(t, "all that the service tells", func() bool {
		i := mustStatus(t, s).Instance
		return i.AvailabilityZoneID == "use1-az4" && strings.HasSuffix(i.InstanceProfileARN, ":instance-profile/baskinc-role") &&
			len(i.Interfaces) == 1 && i.Interfaces[0].VPCID == "vpc-d295a6a7" && i.Interfaces[0].SubnetID == "subnet-0ac62554" &&
			cmp.Or(i.Interfaces[0].PrivateIPs...) == netip.MustParseAddr("172.16.34.43") &&
			len(i.Tags) == 2 && i.Tags[0] == event.Tag{Key: "Name", Value: "test-instance"}
	})
}

// An instance that is tagged to be left out is not observed, and says so in every place where one would look.
func TestTaggedInstanceIsNotObserved(t *testing.T) {
	if !enter(t) {
		return
	}
	imdstest.Serve(t, `{"metadata": {"paths": {"tags-instance-test": "/latest/meta-data/tags/instance/TaskGuardManaged"},
		"values": {"tags-instance-test": "false"}}}`, "--imdsv2")
	s := newStack(t, "host.imds=auto")
	startStorm(t, 100, 0).wait(t)
	start := startOf(t, s)
	wantMockInstance(t, s, start.Agent.Instance)
	const reason = "excluded: the instance is tagged TaskGuardManaged=false"
	if len(start.Agent.Sources) == 0 {
		t.Error("the start tells of no source")
	}
	for _, source := range start.Agent.Sources {
		if source.Via != "off" || !source.Healthy || source.Reason != reason {
			t.Errorf("the start tells of %+v", source)
		}
	}
	status := mustStatus(t, s)
	for kind, source := range status.Sources {
		if source.Via != "off" || !source.Healthy || source.Reason != reason {
			t.Errorf("%s: %+v", kind, source)
		}
	}
	counts, err := s.Counts(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for kind, n := range counts {
		if !strings.HasPrefix(kind, "agent.") {
			t.Errorf("the endpoint has %d of %s", n, kind)
		}
	}
	if log := s.Agent.Tail(20); !strings.Contains(log, reason) || !strings.Contains(log, `msg="observing nothing"`) {
		t.Errorf("the log does not say why nothing is observed:\n%s", log)
	}
	if n := countPrograms(t, s.Agent.PID()); n > 0 {
		t.Errorf("the agent has %d BPF programs", n)
	}
}

// A host whose metadata service cannot be reached is observed all the same, and at once: that the agent is ready while
// packets still vanish shows that it does not wait for an answer, for which it would wait two minutes.
func TestStartDoesNotWaitForMetadata(t *testing.T) {
	if !enter(t) {
		return
	}
	for name, test := range map[string]struct {
		hide   func(t testing.TB)
		reason string
	}{
		"packets vanish": {func(t testing.TB) { imdstest.Blackhole(t) }, "HttpPutResponseHopLimit"},
		"nobody listens": {imdstest.Refuse, "connection refused"},
	} {
		t.Run(name, func(t *testing.T) {
			test.hide(t)
			s := newStack(t, "host.imds=auto")
			status := mustStatus(t, s)
			if status.Host.InstanceID != "" || !strings.Contains(status.IMDS, test.reason) {
				t.Errorf("instance %q, %q", status.Host.InstanceID, status.IMDS)
			}
			storm := startStorm(t, 100, 0)
			storm.wait(t)
			wantNothingLost(t, s)
			storm.wantEachOnce(t, s)
			start := startOf(t, s)
			if i := start.Agent.Instance; i == nil || i.Kernel == "" || i.ImageID != "" {
				t.Errorf("the start tells of %+v", i)
			}
			if start.Host.Hostname == "" || start.Host.InstanceID != "" {
				t.Errorf("the start is of the host %+v", start.Host)
			}
		})
	}
}

// startOf returns the agent.start that the endpoint has.
func startOf(t *testing.T, s *stack.Stack) event.Event {
	t.Helper()
	if _, err := s.Delivered(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	list := events(t, s, "--kind", "agent.start")
	if len(list) != 1 || list[0].Agent == nil || list[0].Host == nil {
		t.Fatalf("the endpoint has %d agent.start: %+v", len(list), list)
	}
	return list[0]
}

// wantMockInstance checks what the agent knows of its instance before it starts to observe.
func wantMockInstance(t *testing.T, s *stack.Stack, told *event.Instance) {
	t.Helper()
	status := mustStatus(t, s)
	for _, i := range []*event.Instance{told, &status.Instance} {
		if i == nil || i.Type != "m4.xlarge" || i.ImageID != "ami-0b69ea66ff7391e80" || i.AvailabilityZone != "us-east-1f" ||
			!i.LaunchTime.Equal(time.Date(2019, 10, 31, 7, 2, 24, 0, time.UTC)) {
			t.Errorf("instance %+v", i)
		}
	}
	if h := status.Host; h.InstanceID != "i-1234567890abcdef0" || h.AccountID != "0123456789" || h.Region != "us-east-1" ||
		status.IMDS != "instance metadata answers" {
		t.Errorf("host %+v, %q", h, status.IMDS)
	}
	if h := startOf(t, s).Host; h.InstanceID != "i-1234567890abcdef0" {
		t.Errorf("the endpoint has events of the host %+v", h)
	}
}

// countPrograms counts the BPF programs that a process holds.
func countPrograms(t *testing.T, pid int) (n int) {
	t.Helper()
	files, err := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", pid))
	if err != nil || len(files) == 0 {
		t.Fatalf("%d files of process %d, %v", len(files), pid, err)
	}
	for _, file := range files {
		// One that was closed meanwhile is none.
		if text, err := os.ReadFile(file); err == nil && strings.Contains(string(text), "prog_type:") {
			n++
		}
	}
	return n
}
