package main

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"net/http"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/coverage"
	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/ingest"
	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/stream"
	"github.com/taskguard/taskguard/collector/event"
)

const (
	// maxReaders bounds how many read at once. Each holds a few batches in memory.
	maxReaders = 16
	// errorTrailer ends an answer that began well and is not complete; it says why.
	errorTrailer = "Taskguard-Error"
)

// localHandler is the read API on the unix socket: GET /v1/events gives events as one JSON object a line, or with
// count=1 one object with their numbers; GET /v1/coverage gives the resources of the role coverage; GET /v1/status says
// how serve fares.
type localHandler struct {
	store   *stream.Store
	counts  func() ingest.Counts
	readers chan struct{}
}

func newLocalHandler(store *stream.Store, counts func() ingest.Counts) http.Handler {
	h := &localHandler{store: store, counts: counts, readers: make(chan struct{}, maxReaders)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/events", h.events)
	mux.HandleFunc("GET /v1/status", h.status)
	mux.HandleFunc("GET /v1/coverage", h.coverage)
	return mux
}

func (h *localHandler) status(w http.ResponseWriter, r *http.Request) {
	log, err := h.store.Status(r.Context())
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(map[string]any{"version": endpointVersion(), "requests": h.counts(), "log": log})
}

func (h *localHandler) coverage(w http.ResponseWriter, r *http.Request) {
	list, err := coverage.List(r.Context(), h.store)
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/json")
	_ = json.NewEncoder(w).Encode(list)
}

func (h *localHandler) events(w http.ResponseWriter, r *http.Request) {
	q, err := parseQuery(r.URL.Query())
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	select {
	case h.readers <- struct{}{}:
		defer func() { <-h.readers }()
	default:
		http.Error(w, fmt.Sprintf("%d others are reading: end one of them", maxReaders), http.StatusServiceUnavailable)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	w.Header().Set("Trailer", errorTrailer)
	if err := h.write(r.Context(), w, q); err != nil {
		w.Header().Set(errorTrailer, err.Error())
	}
}

// write writes what a query is for. It waits for a reader that is slow.
func (h *localHandler) write(ctx context.Context, w http.ResponseWriter, q query) error {
	out := bufio.NewWriterSize(w, 64<<10)
	encoder := json.NewEncoder(out)
	if q.count {
		n := counts{}
		gaps, err := readEvents(ctx, h.store, q, n, nil)
		if err != nil {
			return err
		}
		if err := encoder.Encode(n); err != nil {
			return err
		}
		return firstError(out.Flush(), gapsError(gaps))
	}
	flush := func() error { return nil }
	if q.follow {
		send := http.NewResponseController(w).Flush
		flush = func() error { return firstError(out.Flush(), send()) }
		if err := flush(); err != nil {
			return err
		}
	}
	gaps, err := readEvents(ctx, h.store, q, jsonLines{encoder}, flush)
	if err == nil && q.follow {
		err = fmt.Errorf("the endpoint stopped")
	}
	return firstError(out.Flush(), err, gapsError(gaps))
}

// jsonLines writes each event as its JSON form on a line. It is a sink.
type jsonLines struct{ encoder *json.Encoder }

func (j jsonLines) Print(e *event.Event) error { return j.encoder.Encode(e) }

func firstError(errs ...error) error {
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
