package imdstest_test

import (
	"context"
	"net/http"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/host"
	"github.com/taskguard/taskguard/scripts/imdstest"
)

// Two tags are all that the mock can have: these are without any, and with one that leaves the instance out.
const (
	withoutTags = `{"metadata": {"paths": {"tags-instance-name": "", "tags-instance-test": ""}}}`
	leftOut     = `{"metadata": {"paths": {"tags-instance-test": "/latest/meta-data/tags/instance/TaskGuardManaged"},
		"values": {"tags-instance-test": "false"}}}`
)

// mockIdentity and mockInstance are what the mock tells, unless it is configured otherwise.
func mockIdentity() event.Host {
	return event.Host{InstanceID: "i-1234567890abcdef0", AccountID: "0123456789", Region: "us-east-1"}
}

func mockInstance() event.Instance {
	return event.Instance{
		Type: "m4.xlarge", ImageID: "ami-0b69ea66ff7391e80", AvailabilityZone: "us-east-1f", AvailabilityZoneID: "use1-az4",
		LaunchTime:         time.Date(2019, 10, 31, 7, 2, 24, 0, time.UTC),
		InstanceProfileARN: "arn:aws:iam::896453262835:instance-profile/baskinc-role",
		Interfaces: []event.Interface{{
			ID: "eni-0f95d3625f5c521cc", MAC: "0e:49:61:0f:c3:11", VPCID: "vpc-d295a6a7", SubnetID: "subnet-0ac62554",
			SecurityGroups: []string{"sg-0b07f8f6cb485d4df"},
			PrivateIPs:     []netip.Addr{netip.MustParseAddr("172.16.34.43")},
			PublicIPs:      []netip.Addr{netip.MustParseAddr("192.0.2.54")},
			IPv6s:          []netip.Addr{netip.MustParseAddr("2001:db8:8:4::2")},
		}},
		Tags: []event.Tag{{Key: "Name", Value: "test-instance"}, {Key: "Test", Value: "test-tag"}},
	}
}

// TestHostByMetadataService asks AWS's mock, at the address where every instance has its service, as the agent does:
// nothing is configured. The mock has no instance with several interfaces, none without an instance profile, and no
// service that is switched off (403) or that a packet's hop limit keeps from answering: collector/host's own tests have.
func TestHostByMetadataService(t *testing.T) {
	if !imdstest.Enter(t) {
		return
	}
	t.Run("version 2 only", func(t *testing.T) {
		imdstest.Serve(t, "", "--imdsv2")
		response, err := http.Get("http://" + imdstest.Address + "/latest/meta-data/instance-id")
		if err != nil {
			t.Fatal(err)
		}
		if response.Body.Close(); response.StatusCode != http.StatusUnauthorized {
			t.Errorf("without a token: %s", response.Status)
		}
		wantInstance(t, open(t), mockInstance())
	})
	t.Run("versions 1 and 2", func(t *testing.T) {
		imdstest.Serve(t, "")
		wantInstance(t, open(t), mockInstance())
	})
	t.Run("without tags", func(t *testing.T) {
		imdstest.Serve(t, withoutTags, "--imdsv2")
		want := mockInstance()
		want.Tags = nil
		h := open(t)
		wantInstance(t, h, want)
		if h.Excluded() {
			t.Error("excluded without a tag")
		}
	})
	t.Run("left out by its tag", func(t *testing.T) {
		imdstest.Serve(t, leftOut, "--imdsv2")
		h := open(t)
		if !h.Excluded() {
			t.Error("not excluded when it was opened")
		}
		want := mockInstance()
		want.Tags[1] = event.Tag{Key: host.ManagedTag, Value: "false"}
		wantInstance(t, h, want)
	})
	t.Run("nobody listens", func(t *testing.T) {
		imdstest.Refuse(t)
		wantNoInstance(t, open(t), "connection refused")
	})
	t.Run("no way there", func(t *testing.T) {
		wantNoInstance(t, open(t), "network is unreachable")
	})
	t.Run("packets vanish for a while", func(t *testing.T) {
		end := imdstest.Blackhole(t)
		// A connection to it would be tried for two minutes: that the host is open shows that nothing waits for it.
		h := open(t)
		wantNoInstance(t, h, "HttpPutResponseHopLimit")
		end()
		imdstest.Serve(t, "", "--imdsv2")
		wantInstance(t, h, mockInstance())
	})
}

// open opens a host, which then asks until the test ends.
func open(t *testing.T) *host.Host {
	t.Helper()
	h, err := host.Open(t.Context(), host.Config{IMDS: true})
	if err != nil {
		t.Fatal(err)
	}
	ctx, stop := context.WithCancel(context.Background())
	var asking sync.WaitGroup
	asking.Go(func() { h.Run(ctx) })
	t.Cleanup(func() {
		stop()
		asking.Wait()
	})
	return h
}

// wantInstance waits until all is known that the service tells.
func wantInstance(t *testing.T, h *host.Host, want event.Instance) {
	t.Helper()
	instance := func() string {
		return cmp.Diff(want, h.Instance(), cmpopts.EquateComparable(netip.Addr{}),
			cmpopts.IgnoreFields(event.Instance{}, "Architecture", "Kernel", "OS", "CPUs", "MemoryBytes"))
	}
	for deadline := time.Now().Add(2 * time.Minute); instance() != "" && time.Now().Before(deadline); {
		time.Sleep(20 * time.Millisecond)
	}
	if diff := instance(); diff != "" {
		t.Error(diff)
	}
	if diff := cmp.Diff(mockIdentity(), h.Identity(), cmpopts.IgnoreFields(event.Host{}, "BootID", "BootTime", "Hostname")); diff != "" {
		t.Error(diff)
	}
	if h.Reason() != "instance metadata answers" {
		t.Errorf("reason %q", h.Reason())
	}
}

// wantNoInstance checks that the host is known by what it tells itself, and says why.
func wantNoInstance(t *testing.T, h *host.Host, reason string) {
	t.Helper()
	if i := h.Identity(); i.InstanceID != "" || i.Hostname == "" || i.BootID == (event.ID{}) {
		t.Errorf("%+v", i)
	}
	if !strings.Contains(h.Reason(), reason) || h.Excluded() {
		t.Errorf("reason %q, excluded %v", h.Reason(), h.Excluded())
	}
}
