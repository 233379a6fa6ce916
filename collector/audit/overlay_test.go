package audit

import (
	"strings"
	"testing"
)

// overlayCreate is `echo hi >/tmp/x` in a container on overlayfs, which creates the file in a work directory, without
// a name, and then gives it one.
const overlayCreate = `type=SYSCALL msg=audit(1795391526.839:11235): arch=c000003e syscall=257 success=yes exit=3 a0=ffffff9c a1=2a954b58 a2=241 a3=1b6 items=6 ppid=12601 pid=12621 auid=4294967295 uid=0 gid=0 euid=0 suid=0 fsuid=0 egid=0 sgid=0 fsgid=0 tty=(none) ses=4294967295 comm="sh" exe="/bin/busybox" key="taskguard"
type=CWD msg=audit(1795391526.839:11235): cwd="/"
type=PATH msg=audit(1795391526.839:11235): item=0 name="/tmp/" inode=9986468 dev=00:27 mode=040755 ouid=0 ogid=0 rdev=00:00 nametype=PARENT cap_fp=0 cap_fi=0 cap_fe=0 cap_fver=0 cap_frootid=0
type=PATH msg=audit(1795391526.839:11235): item=1 name="/tmp/x" inode=9994786 dev=00:27 mode=0100644 ouid=0 ogid=0 rdev=00:00 nametype=CREATE cap_fp=0 cap_fi=0 cap_fe=0 cap_fver=0 cap_frootid=0
type=PATH msg=audit(1795391526.839:11235): item=2 name=(null) inode=9994309 dev=fe:00 mode=040000 ouid=0 ogid=0 rdev=00:00 nametype=PARENT cap_fp=0 cap_fi=0 cap_fe=0 cap_fver=0 cap_frootid=0
type=PATH msg=audit(1795391526.839:11235): item=3 name=(null) nametype=CREATE cap_fp=0 cap_fi=0 cap_fe=0 cap_fver=0 cap_frootid=0
type=PATH msg=audit(1795391526.839:11235): item=4 name=(null) inode=9994309 dev=fe:00 mode=040000 ouid=0 ogid=0 rdev=00:00 nametype=PARENT cap_fp=0 cap_fi=0 cap_fe=0 cap_fver=0 cap_frootid=0
type=PATH msg=audit(1795391526.839:11235): item=5 name=(null) inode=9994723 dev=fe:00 mode=040000 ouid=0 ogid=0 rdev=00:00 nametype=CREATE cap_fp=0 cap_fi=0 cap_fe=0 cap_fver=0 cap_frootid=0
type=PROCTITLE msg=audit(1795391526.839:11235): proctitle=7368
`

func TestOverlayCreate(t *testing.T) {
	got := replayLog(t, overlayCreate)
	want := `"file":{"path":"/tmp/x","flags":["O_WRONLY","O_CREAT","O_TRUNC"],"device":"0:39","inode":9994786}`
	if !strings.Contains(got, want) {
		t.Errorf("got  %s\nwant %s in it", got, want)
	}
}
