package hash

import (
	"bytes"
	"crypto/sha256"
	"encoding/binary"
	"encoding/hex"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"github.com/taskguard/taskguard/collector/event"
)

// Where the kernel holds a file to a digest, that is told, and files with the same one are read once.
func TestDigestOfVerityFile(t *testing.T) {
	needRoot(t)
	if _, err := os.Stat("/sys/fs/ext4/features/verity"); err != nil {
		if os.Getenv("TASKGUARD_THROWAWAY_KERNEL") != "" {
			t.Fatalf("no fs-verity in a kernel that is known to have it: %v", err)
		}
		t.Log("this kernel has no fs-verity")
		return
	}
	dir := verityMount(t)
	content := bytes.Repeat([]byte("verity!\n"), 4096/8)
	h := New(Config{MaxBytes: int64(len(content)), BytesPerSecond: 4})
	run(t, h)
	want := event.Digest{SHA256: sumOf(string(content)), FSVerity: "sha256:" + verityOf(content)}
	for _, name := range []string{"first", "second"} { // for which the budget does not suffice
		p := process(t, enableVerity(t, write(t, filepath.Join(dir, name), string(content))))
		h.Note(p)
		if got := settled(t, h, p.ExeVersion); got != want {
			t.Errorf("%s: digest %+v, want %+v", name, got, want)
		}
	}
	large := append(content, '\n')
	p := process(t, enableVerity(t, write(t, filepath.Join(dir, "large"), string(large))))
	h.Note(p)
	if got := settled(t, h, p.ExeVersion); got.HashState != event.HashTooLarge || !strings.HasPrefix(got.FSVerity, "sha256:") {
		t.Errorf("large: digest %+v", got)
	}
}

// verityMount mounts a file system that knows fs-verity until the test's end.
func verityMount(t *testing.T) string {
	t.Helper()
	dir := realDir(t)
	image, at := filepath.Join(dir, "image"), filepath.Join(dir, "at")
	do(t, os.WriteFile(image, nil, 0o600))
	do(t, os.Truncate(image, 16<<20))
	do(t, os.Mkdir(at, 0o755))
	for _, args := range [][]string{
		{"mke2fs", "-q", "-F", "-t", "ext4", "-O", "verity", "-b", "4096", image}, {"mount", "-t", "ext4", "-o", "loop", image, at},
	} {
		if out, err := exec.Command(args[0], args[1:]...).CombinedOutput(); err != nil {
			t.Fatalf("%v: %v: %s", args, err, out)
		}
	}
	t.Cleanup(func() { do(t, unix.Unmount(at, 0)) })
	return at
}

// enableVerity has the kernel hold a file to its digest (struct fsverity_enable_arg, include/uapi/linux/fsverity.h).
func enableVerity(t *testing.T, path string) string {
	t.Helper()
	file, err := os.Open(path)
	do(t, err)
	defer file.Close()
	arg := [16]uint64{1 | unix.FS_VERITY_HASH_ALG_SHA256<<32, 4096} // version, algorithm, block size; no salt, no signature
	if _, _, errno := unix.Syscall(unix.SYS_IOCTL, file.Fd(), unix.FS_IOC_ENABLE_VERITY, uintptr(unsafe.Pointer(&arg))); errno != 0 {
		t.Fatalf("enable fs-verity: %v", errno)
	}
	return path
}

// verityOf computes the digest of a file of one block (Documentation/filesystems/fsverity.rst): the SHA-256 of struct
// fsverity_descriptor, whose root hash is the block's.
func verityOf(block []byte) string {
	var d [256]byte
	d[0], d[1], d[2] = 1, unix.FS_VERITY_HASH_ALG_SHA256, 12
	binary.LittleEndian.PutUint64(d[8:], uint64(len(block)))
	root := sha256.Sum256(block)
	copy(d[16:], root[:])
	sum := sha256.Sum256(d[:])
	return hex.EncodeToString(sum[:])
}
