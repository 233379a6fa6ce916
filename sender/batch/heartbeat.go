package batch

import (
	"math"
	"strings"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch/batchpb"
)

func appendHeartbeat(m []byte, h *event.Heartbeat) []byte {
	m = appendUint(m, 1, h.UptimeSeconds)
	m = appendFixed(m, 2, math.Float64bits(h.CPUSeconds))
	m = appendUint(m, 3, h.MemoryBytes)
	m = appendText(m, 4, h.ConfigHash)
	m = appendUint(m, 5, h.SpoolBatches)
	m = appendUint(m, 6, h.SpoolEvents)
	m = appendUint(m, 7, uint64(h.SpoolBytes))
	m = appendUint(m, 8, uint64(h.SpoolMaxBytes))
	m = appendUint(m, 9, h.Observed)
	m = appendUint(m, 10, h.Acked)
	m = appendUint(m, 11, h.Lost)
	for _, issue := range h.Issues {
		m = protowire.AppendTag(m, 12, protowire.BytesType)
		m = protowire.AppendString(m, strings.ToValidUTF8(issue, "\uFFFD"))
	}
	return m
}

func (d *decoder) heartbeat(h *batchpb.Heartbeat) *event.Heartbeat {
	if h == nil {
		return nil
	}
	if math.IsNaN(h.CpuSeconds) || math.IsInf(h.CpuSeconds, 0) {
		d.fail("heartbeat's cpu_seconds is %v, want a finite number", h.CpuSeconds) // JSON has no other
	}
	return &event.Heartbeat{
		UptimeSeconds: h.UptimeSeconds, CPUSeconds: h.CpuSeconds, MemoryBytes: h.MemoryBytes, ConfigHash: h.ConfigHash,
		SpoolBatches: h.SpoolBatches, SpoolEvents: h.SpoolEvents, SpoolBytes: h.SpoolBytes, SpoolMaxBytes: h.SpoolMaxBytes,
		Observed: h.Observed, Acked: h.Acked, Lost: h.Lost, Issues: h.Issues,
	}
}
