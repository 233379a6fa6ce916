package e2e

import (
	"crypto/sha256"
	"encoding/hex"
	"os"
	"os/exec"
	"slices"
	"testing"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/scripts/dockertest"
)

// What a container's processes run is known by its SHA-256: what is from the image, and what was added; also of
// processes that are long gone when their files are read, and in containers that are.
func TestContainerExecutablesAreHashed(t *testing.T) {
	d := dockertest.Start(t)
	d.Import(t, "shop:1")
	s := newStack(t, "docker.socket="+d.Socket)
	path, err := exec.LookPath("busybox")
	if err != nil {
		t.Fatal(err)
	}
	busybox, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	d.Run(t, "run", "--name", "hash-1", "--net", "none", "shop:1", "sh", "-c",
		`cat /bin/busybox >/tmp/true; echo x >>/tmp/true; chmod 755 /tmp/true; /tmp/true; sleep 2`)
	d.Run(t, "run", "--rm", "--name", "hash-2", "--net", "none", "shop:1", "true")
	want := map[string]string{
		"/bin/busybox": sumOf(busybox), "/tmp/true": sumOf(append(slices.Clone(busybox), "x\n"...)),
	}
	for name, paths := range map[string][]string{"hash-1": {"/bin/busybox", "/tmp/true"}, "hash-2": {"/bin/busybox"}} {
		var list []event.Event
		await(t, "the digests of "+name, func() bool {
			list = events(t, s, "--container", name, "--kind", "process.exec")
			return len(list) > 0 && !slices.ContainsFunc(list, func(e event.Event) bool {
				return e.Process.HashState == event.HashPending
			})
		})
		seen := map[string]bool{}
		for _, e := range list {
			p := e.Process
			seen[p.Exe] = true
			if sum, ok := want[p.Exe]; ok && (p.SHA256 != sum || p.HashState != "" || p.ExeUpperLayer != (p.Exe == "/tmp/true")) {
				t.Errorf("%s: %s %v: digest %+v, upper layer %v, want %s", name, p.Exe, p.Args.Split(), p.Digest,
					p.ExeUpperLayer, sum)
			}
		}
		for _, path := range paths {
			if !seen[path] {
				t.Errorf("%s: no exec of %s", name, path)
			}
		}
	}
}

func sumOf(content []byte) string {
	sum := sha256.Sum256(content)
	return hex.EncodeToString(sum[:])
}
