package auditd_test

import (
	"os"
	"os/exec"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskguard/taskguard/scripts/auditd"
)

func TestAuditd(t *testing.T) {
	if err := auditd.Available(); err != nil {
		if slices.Contains(strings.Split(os.Getenv("TASKGUARD_REQUIRE"), ","), "kernel") {
			t.Fatal(err)
		}
		t.Skip(err)
	}
	before, err := exec.Command("auditctl", "-l").CombinedOutput()
	if err != nil {
		t.Fatal(err)
	}
	d, err := auditd.Start(t.TempDir(), "auditd-test")
	if err != nil {
		t.Fatal(err)
	}
	if has, err := d.HasRule(); err != nil || !has {
		t.Errorf("has rule: %v, %v", has, err)
	}
	if err := exec.Command("/bin/true", "seen-by-auditd").Run(); err != nil {
		t.Error(err)
	}
	deadline := time.Now().Add(20 * time.Second)
	for {
		log, err := os.ReadFile(d.Log)
		if err == nil && strings.Contains(string(log), `a1="seen-by-auditd"`) {
			break
		}
		if time.Now().After(deadline) {
			t.Errorf("the command is not in the log: %v, %d bytes", err, len(log))
			break
		}
		time.Sleep(20 * time.Millisecond)
	}
	if err := d.Stop(); err != nil {
		t.Error(err)
	}
	after, err := exec.Command("auditctl", "-l").CombinedOutput()
	if err != nil || string(after) != string(before) {
		t.Errorf("rules are now %q, were %q; %v", after, before, err)
	}
}
