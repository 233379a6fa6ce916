package main

import (
	"context"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/ingest"
	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/stream"
)

// scrapeTimeout bounds how long the log is asked for its state.
const scrapeTimeout = 5 * time.Second

// metrics are what GET /metrics tells. It reads what the parts count anyhow, when it is asked.
type metrics struct {
	registry *prometheus.Registry
	// duration is how long requests of agents took, by status.
	duration *prometheus.HistogramVec
}

// newMetrics returns the metrics of the process, of requests, and of parts.
func newMetrics(parts ...prometheus.Collector) (*metrics, error) {
	m := &metrics{
		registry: prometheus.NewRegistry(),
		duration: prometheus.NewHistogramVec(prometheus.HistogramOpts{
			Name: "taskguard_endpoint_request_duration_seconds", Help: "Time from a request's header to its answer.",
			Buckets: []float64{.001, .0025, .005, .01, .025, .05, .1, .25, .5, 1, 2.5, 5, 10, 30},
		}, []string{"code"}),
	}
	parts = append(parts, collectors.NewGoCollector(), collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}), m.duration)
	for _, c := range parts {
		if err := m.registry.Register(c); err != nil {
			return nil, fmt.Errorf("register metrics: %w", err)
		}
	}
	return m, nil
}

// timed returns a handler whose requests are timed.
func (m *metrics) timed(next http.Handler) http.Handler {
	return promhttp.InstrumentHandlerDuration(m.duration, next)
}

// ingestMetrics tells of the requests.
type ingestMetrics struct{ handler *ingest.Handler }

// Describe implements prometheus.Collector: without descriptions the metrics are not checked in advance.
func (ingestMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m ingestMetrics) Collect(to chan<- prometheus.Metric) {
	n := m.handler.Counts()
	for outcome, count := range map[string]uint64{
		"stored": n.Stored, "repeat": n.Repeats, "refused": n.Refused, "limited": n.Limited, "unavailable": n.Unavailable,
	} {
		to <- counter("taskguard_endpoint_requests_total", "Requests of agents by what became of them.", count,
			"outcome", outcome)
	}
	to <- counter("taskguard_endpoint_events_total", "Events that were stored.", n.Events)
	to <- counter("taskguard_endpoint_received_bytes_total", "Bytes of stored batches as they came in.", n.Bytes)
}

// streamMetrics tells of the log.
type streamMetrics struct{ store *stream.Store }

// Describe implements prometheus.Collector, as ingestMetrics does.
func (streamMetrics) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (m streamMetrics) Collect(to chan<- prometheus.Metric) {
	ctx, cancel := context.WithTimeout(context.Background(), scrapeTimeout)
	defer cancel()
	st, err := m.store.Status(ctx)
	if err != nil {
		to <- gauge("taskguard_endpoint_log_up", "Whether the log answers.", 0)
		return
	}
	to <- gauge("taskguard_endpoint_log_up", "Whether the log answers.", 1)
	to <- gauge("taskguard_endpoint_log_batches", "Batches in the log.", float64(st.Batches))
	to <- gauge("taskguard_endpoint_log_bytes", "Bytes that the log takes on disk.", float64(st.Bytes))
	to <- gauge("taskguard_endpoint_log_max_bytes", "Bytes that the log may take.", float64(st.MaxBytes))
	to <- counter("taskguard_endpoint_log_stored_batches_total", "Batches ever stored in the log.", st.Stored)
	to <- counter("taskguard_endpoint_log_discarded_batches_total", "Batches that the log's limits discarded.", st.Discard)
	if !st.Oldest.IsZero() {
		to <- gauge("taskguard_endpoint_log_oldest_timestamp_seconds", "When the oldest batch in the log was stored.",
			float64(st.Oldest.UnixNano())/1e9)
	}
}

// counter and gauge make a metric with pairs of a label and its value.
func counter(name, help string, value uint64, labels ...string) prometheus.Metric {
	return metric(prometheus.CounterValue, name, help, float64(value), labels)
}

func gauge(name, help string, value float64, labels ...string) prometheus.Metric {
	return metric(prometheus.GaugeValue, name, help, value, labels)
}

func metric(kind prometheus.ValueType, name, help string, value float64, labels []string) prometheus.Metric {
	var names, values []string
	for i := 0; i+1 < len(labels); i += 2 {
		names, values = append(names, labels[i]), append(values, labels[i+1])
	}
	desc := prometheus.NewDesc(name, help, names, nil)
	m, err := prometheus.NewConstMetric(desc, kind, value, values...)
	if err != nil {
		return prometheus.NewInvalidMetric(desc, err)
	}
	return m
}

// listenMetrics serves metrics and health by plain HTTP, without asking who it is that reads them.
func listenMetrics(address string, m *metrics, handler *ingest.Handler, log *slog.Logger) (*listener, error) {
	socket, err := net.Listen("tcp", address)
	if err != nil {
		return nil, fmt.Errorf("listen for metrics: %w", err)
	}
	mux := http.NewServeMux()
	mux.Handle("GET /metrics", promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{
		ErrorLog: slog.NewLogLogger(log.Handler(), slog.LevelWarn), MaxRequestsInFlight: 4, Timeout: 2 * scrapeTimeout,
	}))
	mux.HandleFunc("GET /healthz", handler.Live)
	mux.HandleFunc("GET /readyz", handler.CanStore)
	l := newListener(mux, limitConns(socket, maxReaders), "")
	l.http.ReadTimeout, l.http.WriteTimeout = headerTimeout, answerTimeout
	l.http.ErrorLog = slog.NewLogLogger(log.Handler(), slog.LevelDebug)
	log.Info("serving metrics", "url", fmt.Sprintf("http://%s/metrics", socket.Addr()))
	return l, nil
}
