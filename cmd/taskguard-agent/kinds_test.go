package main

import (
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/collector/container"
	"github.com/taskguard/taskguard/collector/event"
)

func TestKindTable(t *testing.T) {
	table := kindTable{Kinds: map[string]kindStatus{}, Sources: map[string]sourceStatus{}}
	for _, kind := range observable() {
		table.Sources[kind.String()] = sourceStatus{Via: "ebpf/kprobe", Healthy: true, SelfTest: &verdict{Result: passed}}
	}
	table.Kinds["agent.start"] = kindStatus{Observed: 1}
	table.Kinds["recovered"] = kindStatus{Observed: 9}
	table.Kinds["process.exec"] = kindStatus{Observed: 120, Lost: 3, Filtered: 7}
	table.Sources["file.open"] = sourceStatus{Via: "off", Healthy: true, Reason: offByConfiguration}
	table.Sources["module.load"] = sourceStatus{
		Via: "ebpf/kprobe", Healthy: true, SelfTest: &verdict{Result: unsupported, Reason: "this kernel does not have it"},
	}
	table.Sources["net.send"] = sourceStatus{
		Via: "ebpf/kprobe", Reason: "self-test: no \x1b[31mevent", SelfTest: &verdict{Result: failed},
	}
	for _, kind := range container.Kinds() {
		table.Sources[kind.String()] = sourceStatus{Via: "docker", Healthy: true}
	}
	table.Sources["dns.query"] = sourceStatus{Via: "ebpf/cgroup", Healthy: true}
	for _, kind := range []string{"memory.map", "memory.protect", "memory.vm_read", "memory.vm_write"} {
		table.Sources[kind] = sourceStatus{Via: "off", Reason: "lockdown"}
	}
	const long = "fentry: not permitted; kprobe: not in this kernel, whatever it is called"
	for _, kind := range []string{"file.rename", "file.link"} {
		table.Kinds[kind] = kindStatus{Observed: 4}
		table.Sources[kind] = sourceStatus{
			Via: "ebpf/kprobe", Healthy: true, Reason: long, SelfTest: &verdict{Result: passed},
		}
	}
	var out strings.Builder
	if err := table.print(&out, false); err != nil {
		t.Fatal(err)
	}
	want := `KIND          VIA          HEALTH     EVENTS  LOST  FILTERED  REASON
process.exec  ebpf/kprobe  ok         120     3     7         
agent.start   agent        ok         1       0     0         
file.rename   ebpf/kprobe  ok         4       0     0         [1]
file.link     ebpf/kprobe  ok         4       0     0         [1]
net.send      ebpf/kprobe  unhealthy  0       0     0         self-test: no \x1b[31mevent
recovered     agent        ok         9       0     0         

[1] fentry: not permitted; kprobe: not in this kernel, whatever it is called

docker, ok, no event yet:
  container.create container.start container.exec container.stop

ebpf/cgroup, untested, no event yet:
  dns.query

ebpf/kprobe, ok, no event yet:
  process.fork process.exit net.connect dns.response process.setid process.ptrace process.dup
  process.namespace file.symlink file.unlink file.chmod file.chown fs.mount fs.umount
  memory.memfd memory.userfaultfd bpf.load iouring.setup net.socket net.accept net.bind
  net.listen

ebpf/kprobe, unsupported, no event yet (self-test: this kernel does not have it):
  module.load

off (off by configuration):
  file.open

off, unhealthy (lockdown):
  memory.map memory.protect memory.vm_read memory.vm_write
`
	if diff := cmp.Diff(want, out.String()); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
	out.Reset()
	if err := table.print(&out, true); err != nil {
		t.Fatal(err)
	}
	if !strings.Contains(out.String(), red+"unhealthy") || strings.Contains(out.String(), red+"event") {
		t.Errorf("colours:\n%q", out.String())
	}
}

func TestUntestedKernel(t *testing.T) {
	for release, want := range map[string]string{
		"6.18.5-cloud-amd64": "", "5.10.0-46-amd64": "", "6.18": "", "what": "", "": "",
		"6.20.0-rc1":   "kernel 6.20 is newer than the newest tested (6.18)",
		"6.19-rc2+":    "kernel 6.19 is newer than the newest tested (6.18)",
		"7.0.1-custom": "kernel 7.0 is newer than the newest tested (6.18)",
	} {
		if got := untestedKernel(release); got != want {
			t.Errorf("%s: %q, want %q", release, got, want)
		}
	}
}

// States that differ in their kinds only are told of in one line.
func TestGroupStates(t *testing.T) {
	groups := groupStates([]event.SourceState{
		{Kind: event.FileOpen, Via: "a", Healthy: true}, {Kind: event.FSMount, Via: "b"},
		{Kind: event.NetBind, Via: "a", Healthy: true}, {Kind: event.NetSend, Via: "a", Healthy: true, Reason: "r"},
	})
	var got []string
	for _, g := range groups {
		got = append(got, g.Via+g.Reason+" "+kindList(g.kinds))
	}
	if diff := cmp.Diff([]string{"a file.open net.bind", "b fs.mount", "ar net.send"}, got); diff != "" {
		t.Errorf("(-want +got):\n%s", diff)
	}
}
