package store

import (
	"errors"
	"io"
	"io/fs"
	"path/filepath"
	"strings"
	"testing"
	"testing/iotest"
)

func filesIn(t *testing.T, dir string) (names []string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err == nil && !entry.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if err != nil {
		t.Fatal(err)
	}
	return names
}

// In a folder a file is visible when it is whole, and nothing else is left.
func TestFolderBucket(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "made", "new")
	b, err := openBucket(t.Context(), "file://"+dir+"?prefix=sub/")
	if err != nil {
		t.Fatal(err)
	}
	defer b.Close()
	const name = "account=1/region=r/day=2026-11-24/hour=09/a.parquet"
	torn := io.MultiReader(strings.NewReader("half"), iotest.ErrReader(errors.New("torn")))
	if err := b.Put(t.Context(), name, torn); err == nil {
		t.Error("a torn file is put")
	}
	if left := filesIn(t, dir); len(left) != 0 {
		t.Errorf("left: %s", left)
	}
	if size, err := b.Size(t.Context(), name); err != nil || size != -1 {
		t.Errorf("size %d (%v), want none", size, err)
	}
	for _, content := range []string{"whole", "whole again"} {
		if err := b.Put(t.Context(), name, strings.NewReader(content)); err != nil {
			t.Fatal(err)
		}
		if size, err := b.Size(t.Context(), name); err != nil || size != int64(len(content)) {
			t.Errorf("size %d (%v), want %d", size, err, len(content))
		}
	}
	if got := filesIn(t, dir); len(got) != 1 || got[0] != filepath.Join(dir, "sub", name) {
		t.Errorf("files %s", got)
	}
}
