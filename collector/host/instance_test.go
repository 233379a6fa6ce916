package host

import (
	"context"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/google/go-cmp/cmp"
	"github.com/google/go-cmp/cmp/cmpopts"

	"github.com/taskguard/taskguard/collector/event"
)

// metadata is what the service of an instance with two interfaces and tags has.
func metadata() map[string]string {
	return map[string]string{
		"placement/availability-zone-id": "euc1-az2",
		"iam/info":                       `{"Code":"Success","LastUpdated":"2026-11-23T10:00:00Z","InstanceProfileArn":"arn:aws:iam::123456789012:instance-profile/ecs","InstanceProfileId":"AIPA0"}`,
		"network/interfaces/macs/":       "0a:00:00:00:00:02/\n0a:00:00:00:00:01/",
		"network/interfaces/macs/0a:00:00:00:00:01/device-number":      "0",
		"network/interfaces/macs/0a:00:00:00:00:01/interface-id":       "eni-1",
		"network/interfaces/macs/0a:00:00:00:00:01/vpc-id":             "vpc-1",
		"network/interfaces/macs/0a:00:00:00:00:01/subnet-id":          "subnet-1",
		"network/interfaces/macs/0a:00:00:00:00:01/security-group-ids": "sg-1\nsg-2",
		"network/interfaces/macs/0a:00:00:00:00:01/local-ipv4s":        "10.0.0.10\n10.0.0.11",
		"network/interfaces/macs/0a:00:00:00:00:01/public-ipv4s":       "192.0.2.1",
		"network/interfaces/macs/0a:00:00:00:00:01/ipv6s":              "2001:db8::1",
		"network/interfaces/macs/0a:00:00:00:00:02/device-number":      "1",
		"network/interfaces/macs/0a:00:00:00:00:02/interface-id":       "eni-2",
		"tags/instance/":     "Name\nteam",
		"tags/instance/Name": "web",
		"tags/instance/team": "shop",
	}
}

func instance() event.Instance {
	return event.Instance{
		Type: "m6i.large", ImageID: "ami-0123456789abcdef0", AvailabilityZone: "eu-central-1a", AvailabilityZoneID: "euc1-az2",
		LaunchTime:         time.Date(2026, 11, 22, 10, 0, 0, 0, time.UTC),
		InstanceProfileARN: "arn:aws:iam::123456789012:instance-profile/ecs",
		Interfaces: []event.Interface{
			{
				ID: "eni-1", MAC: "0a:00:00:00:00:01", VPCID: "vpc-1", SubnetID: "subnet-1", SecurityGroups: []string{"sg-1", "sg-2"},
				PrivateIPs: []netip.Addr{netip.MustParseAddr("10.0.0.10"), netip.MustParseAddr("10.0.0.11")},
				PublicIPs:  []netip.Addr{netip.MustParseAddr("192.0.2.1")}, IPv6s: []netip.Addr{netip.MustParseAddr("2001:db8::1")},
			},
			{ID: "eni-2", MAC: "0a:00:00:00:00:02"},
		},
		Tags: []event.Tag{{Key: "Name", Value: "web"}, {Key: "team", Value: "shop"}},
	}
}

// wantInstance compares what the metadata service tells.
func wantInstance(t *testing.T, want, got event.Instance) {
	t.Helper()
	if diff := cmp.Diff(want, got, cmpopts.EquateComparable(netip.Addr{}),
		cmpopts.IgnoreFields(event.Instance{}, "Architecture", "Kernel", "OS", "CPUs", "MemoryBytes")); diff != "" {
		t.Error(diff)
	}
}

// network is one in which time is simulated. What it leads to can be changed, nil is nowhere.
type network struct {
	mu      sync.Mutex
	handler http.Handler
}

func (n *network) set(handler http.Handler) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.handler = handler
}

func (n *network) RoundTrip(r *http.Request) (*http.Response, error) {
	n.mu.Lock()
	handler := n.handler
	n.mu.Unlock()
	if handler == nil {
		<-r.Context().Done()
		return nil, r.Context().Err()
	}
	w := httptest.NewRecorder()
	handler.ServeHTTP(w, r)
	return w.Result(), nil
}

// opened runs a test with a host on a simulated network.
func opened(t *testing.T, handler http.Handler, test func(t *testing.T, h *Host, n *network)) {
	t.Helper()
	c, _ := fixture(t, nil)
	synctest.Test(t, func(t *testing.T) {
		n := &network{handler: handler}
		c.IMDS, c.transport = true, n
		h, err := Open(t.Context(), c)
		if err != nil {
			t.Fatal(err)
		}
		ctx, stop := context.WithCancel(t.Context())
		var running sync.WaitGroup
		running.Go(func() { h.Run(ctx) })
		test(t, h, n)
		stop()
		running.Wait()
	})
}

func TestInstance(t *testing.T) {
	opened(t, answers(t, document, metadata()), func(t *testing.T, h *Host, _ *network) {
		synctest.Wait()
		wantInstance(t, instance(), h.Instance())
		if h.Reason() != "instance metadata answers" || !h.Answers() || h.Excluded() {
			t.Errorf("%q, excluded %v", h.Reason(), h.Excluded())
		}
	})
}

// Each field that the service does not have is absent, and takes no other with it.
func TestInstanceByField(t *testing.T) {
	for path, without := range map[string]func(i *event.Instance){
		"placement/availability-zone-id":                   func(i *event.Instance) { i.AvailabilityZoneID = "" },
		"iam/info":                                         func(i *event.Instance) { i.InstanceProfileARN = "" },
		"network/interfaces/macs/":                         func(i *event.Instance) { i.Interfaces = nil },
		"network/interfaces/macs/0a:00:00:00:00:01/vpc-id": func(i *event.Instance) { i.Interfaces[0].VPCID = "" },
		"network/interfaces/macs/0a:00:00:00:00:01/ipv6s":  func(i *event.Instance) { i.Interfaces[0].IPv6s = nil },
		"tags/instance/":                                   func(i *event.Instance) { i.Tags = nil },
		"tags/instance/Name":                               func(i *event.Instance) { i.Tags[0].Value = "" },
	} {
		t.Run(path, func(t *testing.T) {
			tree, want := metadata(), instance()
			delete(tree, path)
			without(&want)
			opened(t, answers(t, document, tree), func(t *testing.T, h *Host, _ *network) {
				synctest.Wait()
				got := h.Instance()
				if len(got.Interfaces) == 0 {
					got.Interfaces = nil
				}
				wantInstance(t, want, got)
			})
		})
	}
}

// What the service could not tell at the start is known as soon as it can, and what changes is.
func TestInstanceIsAskedAgain(t *testing.T) {
	opened(t, nil, func(t *testing.T, h *Host, n *network) {
		if got := diff(asMachine(t), h.Identity()); got != "" {
			t.Error(got)
		}
		if !strings.Contains(h.Reason(), "HttpPutResponseHopLimit") || h.Answers() {
			t.Errorf("reason %q", h.Reason())
		}
		time.Sleep(time.Minute)
		n.set(answers(t, document, metadata()))
		time.Sleep(retryInterval + refreshTimeout)
		if got := diff(asInstance(t), h.Identity()); got != "" {
			t.Error(got)
		}
		wantInstance(t, instance(), h.Instance())
		tree, want := metadata(), instance()
		tree["tags/instance/team"], want.Tags[1].Value = "ops", "ops"
		n.set(answers(t, document, tree))
		time.Sleep(refreshInterval)
		wantInstance(t, want, h.Instance())
		for path := range tree { // what is refused this time stays as it was
			n.set(refusing(answers(t, document, tree), path))
			time.Sleep(refreshInterval)
			wantInstance(t, want, h.Instance())
		}
		n.set(nil) // what was known stays
		time.Sleep(time.Hour)
		wantInstance(t, want, h.Instance())
		if got := diff(asInstance(t), h.Identity()); got != "" {
			t.Error(got)
		}
	})
}

// refusing is a service that fails at one path.
func refusing(service http.Handler, path string) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if strings.HasSuffix(r.URL.Path, "/"+path) {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		service.ServeHTTP(w, r)
	})
}

// The tag TaskGuardManaged counts at the start, and when it changes.
func TestExcluded(t *testing.T) {
	tagged := func(value string) http.Handler {
		return answers(t, document, metadata(), map[string]string{"tags/instance/" + ManagedTag: value})
	}
	opened(t, tagged("false"), func(t *testing.T, h *Host, n *network) {
		if !h.Excluded() {
			t.Error("not excluded at the start")
		}
		<-h.Changed()
		n.set(nil)
		time.Sleep(time.Hour)
		if !h.Excluded() {
			t.Error("not excluded any more because nobody says so")
		}
		n.set(tagged("true"))
		<-h.Changed()
		if h.Excluded() {
			t.Error("still excluded")
		}
		n.set(tagged("False")) // keys and values are case-sensitive
		time.Sleep(time.Hour)
		if h.Excluded() {
			t.Error("excluded by another value")
		}
		n.set(tagged("false"))
		<-h.Changed()
		if !h.Excluded() {
			t.Error("not excluded")
		}
	})
}

func TestMetadataIsBounded(t *testing.T) {
	tree := metadata()
	long := strings.Repeat("x", 2*maxAnswer)
	tree["placement/availability-zone-id"] = long
	tree["tags/instance/"] = strings.Repeat("Name\n", 1000)
	tree["tags/instance/Name"] = long
	tree["network/interfaces/macs/"] = strings.Repeat("0a:00:00:00:00:01/\n", 1000)
	tree["network/interfaces/macs/0a:00:00:00:00:01/local-ipv4s"] = strings.Repeat("10.0.0.1\n", 1000)
	tree["network/interfaces/macs/0a:00:00:00:00:01/ipv6s"] = "nonsense\nfe80::1%eth0"
	opened(t, answers(t, document, tree), func(t *testing.T, h *Host, _ *network) {
		synctest.Wait()
		i := h.Instance()
		if len(i.AvailabilityZoneID) != maxText || len(i.Tags) != maxTags || len(i.Tags[0].Value) != maxText ||
			len(i.Interfaces) != maxInterfaces || len(i.Interfaces[0].PrivateIPs) != maxAddresses {
			t.Errorf("%d %d %d %d", len(i.AvailabilityZoneID), len(i.Tags), len(i.Interfaces), len(i.Interfaces[0].PrivateIPs))
		}
		if ips := i.Interfaces[0].IPv6s; len(ips) != 1 || ips[0] != netip.MustParseAddr("fe80::1") {
			t.Errorf("%v", ips)
		}
	})
}

func TestSystem(t *testing.T) {
	c, _ := fixture(t, map[string]string{"etc/os-release": "ID=\"amzn\"\nPRETTY_NAME=\"Amazon Linux 2023.6\"\n"})
	i := systemOf(c)
	if i.OS != "Amazon Linux 2023.6" || i.Kernel == "" || i.Architecture == "" || i.CPUs == 0 || i.MemoryBytes < 1<<26 {
		t.Errorf("%+v", i)
	}
	for in, want := range map[string]string{"PRETTY_NAME='A b'": "A b", "PRETTY_NAME=A": "A", "": ""} {
		c, _ := fixture(t, map[string]string{"etc/os-release": in})
		if got := systemOf(c).OS; got != want {
			t.Errorf("%q: %q", in, got)
		}
	}
}
