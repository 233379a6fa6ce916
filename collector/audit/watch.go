package audit

import (
	"context"
	"fmt"
	"os"
	"time"

	"github.com/elastic/go-libaudit/v2"

	"github.com/taskguard/taskguard/collector"
)

// watcher looks at the kernel's audit status from time to time, beside the goroutine that reads records.
type watcher struct {
	source *Source
	sink   collector.Sink
	lost   uint32 // the kernel's count of lost records, as far as it was reported
}

func (w *watcher) run(ctx context.Context) {
	ticker := time.NewTicker(watchInterval)
	defer ticker.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-ticker.C:
			w.source.trip(w.look())
		}
	}
}

// look returns why no records can come, "" when they can.
func (w *watcher) look() string {
	status, err := w.countLost()
	if err != nil {
		return err.Error()
	}
	w.source.describe(status)
	if reason := trouble(status, w.source.currentMode()); reason != "" {
		return reason
	}
	mended, err := w.source.kernel.mend()
	if mended {
		w.source.config.Logger.Warn("audit rules were put back that somebody had removed")
	}
	if err != nil {
		return err.Error()
	}
	return ""
}

// countLost reports what the kernel has lost since the last time.
func (w *watcher) countLost() (*libaudit.AuditStatus, error) {
	status, err := w.source.kernel.status()
	if err != nil {
		return nil, err
	}
	if n := lostSince(w.lost, status.Lost); n > 0 {
		w.sink.Lost(0, stageKernel, causeBacklog, uint64(n))
	}
	w.lost = status.Lost
	return status, nil
}

// lostSince returns how much the kernel's counter rose: it wraps around, and auditctl --reset-lost sets it to 0.
func lostSince(before, now uint32) uint32 {
	if n := now - before; n < 1<<31 {
		return n
	}
	return now
}

// trouble says why no records can come, "" when they can.
func trouble(status *libaudit.AuditStatus, m mode) string {
	switch {
	case status.Enabled == 0:
		return "audit was switched off by somebody: run auditctl -e 1"
	case m == unicast && status.PID != uint32(os.Getpid()):
		return fmt.Sprintf("another process took the place of audit daemon (pid %d): restart the agent", status.PID)
	}
	return ""
}
