package main

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

// startRecorded starts a part that writes down when it is told to end, and when it has.
func (s *serving) startRecorded(name string, order *[]string) {
	told := make(chan struct{})
	s.start(name, func() error {
		<-told
		*order = append(*order, name+" ended")
		return nil
	}, func() {
		*order = append(*order, name+" told")
		close(told)
	})
}

func TestPartsEndInReverse(t *testing.T) {
	s := newServing(slog.New(slog.DiscardHandler))
	var order []string
	for _, name := range []string{"stream", "store", "agents"} {
		s.startRecorded(name, &order)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.wait(ctx); err != nil {
		t.Error(err)
	}
	s.stop()
	want := []string{"agents told", "agents ended", "store told", "store ended", "stream told", "stream ended"}
	if !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	s.stop() // nothing is left to stop
}

func TestPartThatFailsEndsServe(t *testing.T) {
	disk := errors.New("disk on fire")
	failed := make(chan struct{})
	close(failed)
	for name, c := range map[string]struct {
		start func(s *serving)
		want  string
	}{
		"part":           {func(s *serving) { s.start("x", func() error { return disk }, func() {}) }, "x: disk on fire"},
		"role":           {func(s *serving) { s.startRole("x", func(context.Context) error { return disk }) }, "x: disk on fire"},
		"role that ends": {func(s *serving) { s.startRole("x", func(context.Context) error { return nil }) }, "x: ended by itself"},
		"log": {func(s *serving) {
			s.start("stream", func() error { return untilFailed(failed, nil) }, func() {})
		}, "repair the disk"},
	} {
		s := newServing(slog.New(slog.DiscardHandler))
		var order []string
		s.startRecorded("other", &order)
		c.start(s)
		err := s.wait(t.Context())
		if err == nil || exitCode(err) != 1 || !strings.Contains(err.Error(), c.want) {
			t.Errorf("%s: %v, want exit 1 and %q", name, err, c.want)
		}
		s.stop()
		if len(order) != 2 {
			t.Errorf("%s: the other part was not ended: %v", name, order)
		}
	}
}

func TestRoleEndsWell(t *testing.T) {
	s := newServing(slog.New(slog.DiscardHandler))
	s.startRole("x", func(ctx context.Context) error {
		<-ctx.Done()
		return ctx.Err()
	})
	s.stop()
	select {
	case err := <-s.ended:
		t.Errorf("a role that was told to end failed: %v", err)
	default:
	}
}

// A certificate is in use as soon as its files are, and what cannot be used is not.
func TestCertificateIsReread(t *testing.T) {
	dir := t.TempDir()
	cert, key := filepath.Join(dir, "server.pem"), filepath.Join(dir, "server-key.pem")
	make1 := func() {
		t.Helper()
		if err := writeSelfSigned(dir, []string{"localhost"}, time.Now()); err != nil {
			t.Fatal(err)
		}
	}
	make1()
	f, err := openCertificate(cert, key, 0, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	serial := func() string {
		t.Helper()
		got, err := f.get(nil)
		if err != nil {
			t.Fatal(err)
		}
		return got.Leaf.SerialNumber.String() + string(got.Certificate[0])
	}
	// later makes the files look changed also where the clock of files is coarse.
	age := 0
	later := func(path string) {
		t.Helper()
		age++
		if err := os.Chtimes(path, time.Time{}, time.Now().Add(time.Duration(age)*time.Hour)); err != nil {
			t.Fatal(err)
		}
	}
	first := serial()
	if serial() != first {
		t.Error("changed without a reason")
	}

	oldKey, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	make1()
	newKey, err := os.ReadFile(key)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(key, oldKey, 0o600); err != nil { // the certificate is new, the key is not yet
		t.Fatal(err)
	}
	later(cert)
	if serial() != first {
		t.Error("a certificate without its key was used")
	}
	if err := os.WriteFile(key, newKey, 0o600); err != nil {
		t.Fatal(err)
	}
	later(key)
	second := serial()
	if second == first {
		t.Error("the new certificate is not used")
	}

	for _, path := range []string{cert, key} {
		if err := os.Remove(path); err != nil {
			t.Fatal(err)
		}
	}
	if serial() != second {
		t.Error("without files it is not the last that was good")
	}
}
