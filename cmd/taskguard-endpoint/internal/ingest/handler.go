// Package ingest is the endpoint's way in: HTTP requests with batches from agents.
//
// It promises: a batch is answered with 200 only when the store has it; a request that is answered with 4xx has left
// nothing in the store; no request, and no number of requests at once, takes more memory than Config allows, however
// a body was made; and every answer is JSON, an error's with the reason.
package ingest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"runtime"
	"strconv"
	"time"

	"github.com/taskguard/taskguard/sender/batch"
)

// Store keeps batches.
type Store interface {
	// Append stores a frame and returns true, or returns false when it has the batch already. A batch for which it
	// returned without an error is durable.
	Append(ctx context.Context, h *batch.Header, frame []byte) (bool, error)
}

// Config says where batches go and what they may cost.
type Config struct {
	Store   Store
	Version string // told by GET /v1/health
	// MaxBodies bounds the bytes of all bodies that are being received or stored at once. 0 means 64 MiB.
	MaxBodies int64
	// MaxDecodes bounds how many batches are decoded at once, at up to some 180 MiB each for hostile ones. 0 means
	// one per processor.
	MaxDecodes int
	// DecodeWait is how long a batch waits for its turn to be decoded. 0 means 5 s.
	DecodeWait time.Duration
	// Logger takes what the operator should know. Nil discards.
	Logger *slog.Logger
}

// Handler answers agents. Make one with New.
type Handler struct {
	cfg    Config
	codec  *batch.Codec
	bodies budget
	// slots holds, for each batch that may be decoded now, a buffer to decompress it into.
	slots  chan []byte
	report reporter
	counts counts
}

const (
	defaultMaxBodies  = 64 << 20
	defaultDecodeWait = 5 * time.Second
	// retryAfter is what agents are told to wait when the endpoint cannot take a batch now, in seconds.
	retryAfter = 5
	// maxKeptBuffer bounds the buffer a slot keeps between two batches.
	maxKeptBuffer = 1 << 20
)

// New returns a handler.
func New(cfg Config) (*Handler, error) {
	if cfg.MaxBodies == 0 {
		cfg.MaxBodies = defaultMaxBodies
	}
	if cfg.MaxDecodes == 0 {
		cfg.MaxDecodes = runtime.GOMAXPROCS(0)
	}
	if cfg.DecodeWait == 0 {
		cfg.DecodeWait = defaultDecodeWait
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	codec, err := batch.NewCodec()
	if err != nil {
		return nil, err
	}
	h := &Handler{
		cfg: cfg, codec: codec, bodies: budget{free: cfg.MaxBodies}, slots: make(chan []byte, cfg.MaxDecodes),
		report: reporter{log: cfg.Logger.With("component", "ingest")},
	}
	for range cfg.MaxDecodes {
		h.slots <- nil
	}
	return h, nil
}

// refusal is an answer other than 200. Its reason is sent to the agent.
type refusal struct {
	status int
	reason string
}

func (r *refusal) Error() string { return r.reason }

func refuse(status int, format string, args ...any) *refusal {
	return &refusal{status, fmt.Sprintf(format, args...)}
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/v1/batches":
		h.only(http.MethodPost, h.postBatch)(w, r)
	case "/v1/health":
		h.only(http.MethodGet, h.getHealth)(w, r)
	default:
		h.refuse(w, r, refuse(http.StatusNotFound, "no such path: want /v1/batches or /v1/health"))
	}
}

func (h *Handler) only(method string, next http.HandlerFunc) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		if r.Method != method {
			w.Header().Set("Allow", method)
			h.refuse(w, r, refuse(http.StatusMethodNotAllowed, "method %s: want %s", r.Method, method))
			return
		}
		next(w, r)
	}
}

func (h *Handler) getHealth(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]string{"status": "ok", "version": h.cfg.Version})
}

func (h *Handler) postBatch(w http.ResponseWriter, r *http.Request) {
	stored, err := h.receive(w, r)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	if stored {
		h.counts.stored.Add(1)
		answer(w, http.StatusOK, map[string]string{"status": "stored"})
	} else {
		h.counts.repeats.Add(1)
		answer(w, http.StatusOK, map[string]string{"status": "repeat"})
	}
}

// receive takes one batch from its request to the store.
func (h *Handler) receive(w http.ResponseWriter, r *http.Request) (bool, error) {
	if media, _, err := mime.ParseMediaType(r.Header.Get("Content-Type")); err != nil || media != batch.ContentType {
		return false, refuse(http.StatusUnsupportedMediaType, "content type %q: want %s",
			r.Header.Get("Content-Type"), batch.ContentType)
	}
	size := r.ContentLength
	if size > batch.MaxCompressed {
		return false, refuse(http.StatusRequestEntityTooLarge, "body of %d bytes: want at most %d", size,
			batch.MaxCompressed)
	}
	if size < 0 {
		size = batch.MaxCompressed
	}
	if !h.bodies.take(size) {
		return false, refuse(http.StatusServiceUnavailable, "too many batches at once")
	}
	defer h.bodies.give(size)
	frame, err := readBody(w, r)
	if err != nil {
		return false, err
	}
	header, err := h.decode(r.Context(), frame)
	if err != nil {
		return false, err
	}
	stored, err := h.cfg.Store.Append(r.Context(), header, frame)
	if r.Context().Err() == nil {
		h.report.store(err)
	}
	if err != nil {
		return false, refuse(http.StatusServiceUnavailable, "batch could not be stored now")
	}
	h.report.contact(header, r.RemoteAddr)
	return stored, nil
}

func readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body := http.MaxBytesReader(w, r.Body, batch.MaxCompressed)
	var frame []byte
	var err error
	if r.ContentLength > 0 {
		frame = make([]byte, r.ContentLength)
		_, err = io.ReadFull(body, frame)
	} else {
		frame, err = io.ReadAll(body)
	}
	var tooLarge *http.MaxBytesError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &tooLarge):
		return nil, refuse(http.StatusRequestEntityTooLarge, "body of more than %d bytes", batch.MaxCompressed)
	case errors.As(err, &timeout) && timeout.Timeout():
		return nil, refuse(http.StatusRequestTimeout, "body did not arrive in time")
	case err != nil:
		return nil, refuse(http.StatusBadRequest, "read body: %v", err)
	case len(frame) == 0:
		return nil, refuse(http.StatusBadRequest, "empty body")
	}
	return frame, nil
}

// decode decodes a whole batch, to know that whoever reads it from the store can, and returns its header.
func (h *Handler) decode(ctx context.Context, frame []byte) (*batch.Header, error) {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.DecodeWait)
	defer cancel()
	var buf []byte
	select {
	case buf = <-h.slots:
	case <-ctx.Done():
		return nil, refuse(http.StatusServiceUnavailable, "too many batches at once")
	}
	defer func() {
		if cap(buf) > maxKeptBuffer {
			buf = nil
		}
		h.slots <- buf
	}()
	data, err := h.codec.Decompress(buf[:0], frame)
	if errors.Is(err, batch.ErrTooLarge) {
		return nil, refuse(http.StatusRequestEntityTooLarge, "%v", err)
	}
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	buf = data
	b, err := batch.Decode(data)
	if err != nil {
		return nil, refuse(http.StatusBadRequest, "%v", err)
	}
	return &b.Header, nil
}

func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	answerTo := &refusal{http.StatusInternalServerError, "internal error"}
	errors.As(err, &answerTo)
	h.counts.refused(answerTo.status)
	h.report.refusal(answerTo, r.RemoteAddr)
	if answerTo.status == http.StatusServiceUnavailable {
		w.Header().Set("Retry-After", strconv.Itoa(retryAfter))
	}
	answer(w, answerTo.status, map[string]string{"error": answerTo.reason})
}

func answer(w http.ResponseWriter, status int, body map[string]string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone if this fails
}
