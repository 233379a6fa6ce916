package main

import (
	"context"
	"crypto/rand"
	"fmt"
	"net/url"
	"os"
	"path/filepath"
	"slices"

	"github.com/prometheus/client_golang/prometheus"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/store"
	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/stream"
)

// validBucket reports whether a URL names a bucket that can be opened.
func validBucket(text string) bool {
	u, err := url.Parse(text)
	if err != nil {
		return false
	}
	switch u.Scheme {
	case "s3":
		return u.Host != ""
	case "file":
		return u.Host == "" && filepath.IsAbs(u.Path)
	}
	return false
}

// startStore starts the role store, if there is a bucket to store in; it returns nil if not.
func (c *config) startStore(ctx context.Context, s *serving, log *stream.Store) (*store.Store, error) {
	if c.Store.URL == "" || !slices.Contains(c.Roles, roleStore) {
		return nil, nil
	}
	dir := filepath.Join(c.DataDir, "store")
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("make folder of files that grow: %w", err)
	}
	role, err := store.New(ctx, store.Config{
		URL: c.Store.URL, Log: log, States: log, Leases: log, Partitions: stream.Partitions, Owner: replicaName(),
		Dir: dir, MaxFileBytes: c.Store.MaxBytes, MaxFileAge: c.Store.Interval, Logger: s.log,
	})
	if err != nil {
		return nil, err
	}
	s.start("bucket", func() error { return nil }, func() { role.Close() })
	s.startRole("store", role.Run)
	return role, nil
}

// replicaName tells this run of this endpoint from all others.
func replicaName() string {
	host, _ := os.Hostname() // it only helps whoever reads it
	return host + "-" + rand.Text()[:8]
}

// storeMetrics tells of the role store.
type storeMetrics struct{ role *store.Store }

// Describe implements prometheus.Collector: without descriptions the metrics are not checked in advance.
func (storeMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m storeMetrics) Collect(to chan<- prometheus.Metric) {
	if m.role == nil {
		return
	}
	st := m.role.Stats()
	for _, c := range []roleCount{
		{"events", "Events in files that were written to the bucket.", st.Events},
		{"files", "Files that were written to the bucket.", st.Files},
		{"bytes", "Bytes of files that were written to the bucket.", st.Bytes},
		{"discarded_messages", "Messages that the log had discarded before they were reached.", st.Discarded},
		{"damaged", "Batches and events that could not be read.", st.Damaged},
		{"failures", "Commits of a partition that were in vain, and done again.", st.Failures},
	} {
		to <- counter("taskguard_endpoint_store_"+c.name+"_total", c.help, c.value)
	}
}

// roleCount is what a role counts.
type roleCount struct {
	name, help string
	value      uint64
}
