// Package ingest is the endpoint's way in: HTTP requests with batches from agents.
//
// It promises: a batch is answered with 200 only when the store has it; a request that is answered with 4xx has left
// nothing in the store; no request, and no number of requests at once, takes more memory than Config allows, however
// a body was made; no agent sends faster than Config.Limits allow, nor for a host that is not its own; and every answer is JSON, an error's with the reason.
package ingest

import (
	"context"
	"errors"
	"io"
	"log/slog"
	"mime"
	"net/http"
	"runtime"
	"sync/atomic"
	"time"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/auth"
	"github.com/taskguard/taskguard/sender/batch"
)

// Store keeps batches.
type Store interface {
	// Append stores a frame and returns true, or returns false when it has the batch already. A batch for which it
	// returned without an error is durable.
	Append(ctx context.Context, h *batch.Header, events int, frame []byte) (bool, error)
}

// Authenticator finds out who sends a request with a body, or refuses it with an *auth.Refusal.
type Authenticator interface {
	Authenticate(r *http.Request, body []byte) (auth.Identity, error)
}

// Config says where batches go and what they may cost.
type Config struct {
	Store   Store
	Version string // told by GET /v1/health
	// Ready says why batches cannot be stored now, for GET /readyz; nil when they can. A nil Ready means always.
	Ready func() error
	// Auth finds out who sends. Nil means that nobody is asked, and everybody may speak for every host.
	Auth Authenticator
	// Limits bound what one agent may send.
	Limits Limits
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
	limits Limits
	codec  *batch.Codec
	rates  *rates
	bodies budget
	// slots holds, for each batch that may be decoded now, a buffer to decompress it into.
	slots  chan []byte
	report reporter
	counts counts
	// draining says that the endpoint is about to stop: it takes batches, but wants no new agents.
	draining atomic.Bool
}

const (
	defaultMaxBodies  = 64 << 20
	defaultDecodeWait = 5 * time.Second
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
	limits := cfg.Limits.withDefaults()
	if err := limits.check(); err != nil {
		return nil, err
	}
	codec, err := batch.NewCodec()
	if err != nil {
		return nil, err
	}
	h := &Handler{
		cfg: cfg, limits: limits, codec: codec, rates: newRates(limits), bodies: budget{free: cfg.MaxBodies}, slots: make(chan []byte, cfg.MaxDecodes),
		report: reporter{log: cfg.Logger.With("component", "ingest")},
	}
	for range cfg.MaxDecodes {
		h.slots <- nil
	}
	return h, nil
}

// ServeHTTP implements http.Handler.
func (h *Handler) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	switch r.URL.Path {
	case "/v1/batches":
		h.only(http.MethodPost, h.postBatch)(w, r)
	case "/v1/health":
		h.only(http.MethodGet, h.getHealth)(w, r)
	case "/healthz":
		h.only(http.MethodGet, h.Live)(w, r)
	case "/readyz":
		h.only(http.MethodGet, h.CanStore)(w, r)
	default:
		h.refuse(w, r, refuse(http.StatusNotFound, "no such path: want /v1/batches, /v1/health, /healthz or /readyz"))
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

// getHealth is the agents' authenticated no-op.
func (h *Handler) getHealth(w http.ResponseWriter, r *http.Request) {
	if _, err := h.authenticate(r, nil); err != nil {
		h.refuse(w, r, err)
		return
	}
	answer(w, http.StatusOK, map[string]string{"status": "ok", "version": h.cfg.Version})
}

func (h *Handler) postBatch(w http.ResponseWriter, r *http.Request) {
	stored, err := h.receive(w, r)
	if err != nil {
		h.refuse(w, r, err)
		return
	}
	if stored {
		answer(w, http.StatusOK, map[string]string{"status": "stored"})
	} else {
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
	if size > h.limits.MaxBody {
		return false, tooLarge("body of %d bytes: want at most %d", size, h.limits.MaxBody)
	}
	if size < 0 {
		size = h.limits.MaxBody
	}
	if !h.bodies.take(size) {
		return false, busy("too many batches at once")
	}
	defer h.bodies.give(size)
	frame, err := h.readBody(w, r)
	if err != nil {
		return false, err
	}
	sender, err := h.authenticate(r, frame)
	if err != nil {
		return false, err
	}
	b, err := h.decode(r.Context(), frame, sender)
	if err != nil {
		return false, err
	}
	if err := sender.maySend(&b.Header); err != nil {
		return false, err
	}
	stored, err := h.store(r, b, frame)
	if err != nil {
		return false, err
	}
	h.report.contact(&b.Header, r.RemoteAddr)
	return stored, nil
}

// store stores a batch and counts it.
func (h *Handler) store(r *http.Request, b *batch.Batch, frame []byte) (bool, error) {
	stored, err := h.cfg.Store.Append(r.Context(), &b.Header, len(b.Events), frame)
	var partial interface {
		error
		StoredEvents() uint32
	}
	if errors.As(err, &partial) {
		return false, conflict(partial.Error(), partial.StoredEvents())
	}
	if r.Context().Err() == nil {
		h.report.store(err)
	}
	if err != nil {
		return false, busy("batch could not be stored now")
	}
	if stored {
		h.counts.stored.Add(1)
		h.counts.events.Add(uint64(len(b.Events)))
		h.counts.bytes.Add(uint64(len(frame)))
	} else {
		h.counts.repeats.Add(1)
	}
	return stored, nil
}

func (h *Handler) readBody(w http.ResponseWriter, r *http.Request) ([]byte, error) {
	body := http.MaxBytesReader(w, r.Body, h.limits.MaxBody)
	var frame []byte
	var err error
	if r.ContentLength > 0 {
		frame = make([]byte, r.ContentLength)
		_, err = io.ReadFull(body, frame)
	} else {
		frame, err = io.ReadAll(body)
	}
	var overrun *http.MaxBytesError
	var timeout interface{ Timeout() bool }
	switch {
	case errors.As(err, &overrun):
		return nil, tooLarge("body of more than %d bytes", h.limits.MaxBody)
	case errors.As(err, &timeout) && timeout.Timeout():
		return nil, refuse(http.StatusRequestTimeout, "body did not arrive in time")
	case err != nil:
		return nil, refuse(http.StatusBadRequest, "read body: %v", err)
	case len(frame) == 0:
		return nil, refuse(http.StatusBadRequest, "empty body")
	}
	return frame, nil
}

// decode decodes a whole batch, to know that whoever reads it from the store can, unless it exceeds the limits.
func (h *Handler) decode(ctx context.Context, frame []byte, from sender) (*batch.Batch, error) {
	ctx, cancel := context.WithTimeout(ctx, h.cfg.DecodeWait)
	defer cancel()
	var buf []byte
	select {
	case buf = <-h.slots:
	case <-ctx.Done():
		return nil, busy("too many batches at once")
	}
	defer func() {
		if cap(buf) > maxKeptBuffer {
			buf = nil
		}
		h.slots <- buf
	}()
	data, err := h.codec.Decompress(buf[:0], frame)
	if errors.Is(err, batch.ErrTooLarge) {
		return nil, tooLarge("%v", err)
	}
	if err != nil {
		return nil, malformed(err)
	}
	buf = data
	if err := h.allow(data, from, time.Now()); err != nil {
		return nil, err
	}
	b, err := batch.Decode(data)
	if err != nil {
		return nil, malformed(err)
	}
	return b, nil
}
