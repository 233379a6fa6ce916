package audit

import (
	"os"
	"testing"
	"time"

	"github.com/elastic/go-libaudit/v2"
	"github.com/elastic/go-libaudit/v2/auparse"
)

// The last test of the package, as its file's name is the last: nothing can be tested of audit after it. That listening
// needs no daemon, which a locked configuration depends on, is tested on any kernel; to lock it, the kernel must be one
// that is thrown away afterwards.
func TestKernelLocked(t *testing.T) {
	t.Run("listening needs no daemon", func(t *testing.T) { listenAlone(t, control(t)) })
	if os.Getenv("TASKGUARD_THROWAWAY_KERNEL") == "1" {
		t.Run("locked", lockForGood)
	}
}

func listenAlone(t *testing.T, client *libaudit.AuditClient) {
	before, _ := snapshot(t, client)
	t.Cleanup(func() { restore(t, client, before) })
	if err := client.SetEnabled(true, libaudit.WaitForReply); err != nil {
		t.Fatal(err)
	}
	data, err := openSocket(readLogGroup, 1<<20)
	if err != nil {
		t.Fatal(err)
	}
	defer data.Close()
	if err := client.AddRule(ruleOf(t, "b64", "", testKey, os.Getpid(), "exit_group")); err != nil {
		t.Fatal(err)
	}
	child(t, "exit 0")
	for end := time.Now().Add(10 * time.Second); ; {
		typ, _, err := data.Next(end)
		if err != nil {
			t.Fatalf("no record: %v", err)
		}
		if typ == uint16(auparse.AUDIT_SYSCALL) {
			return
		}
	}
}
