package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

// local serves status and events to this host's root, by HTTP on a unix socket: GET /v1/status is a JSON object, GET
// /v1/containers is one container a line, GET /v1/events is one event a line, ?follow=1 those to come instead of the
// newest ones, ?kind=K (repeated) only those. A client that falls behind those to come misses some: an agent.loss event
// at the stage "live" stands in their place.
type local struct {
	server *http.Server
	agent  *agent
	codec  *batch.Codec
	done   chan error
}

func listenLocal(a *agent) (*local, error) {
	if err := os.MkdirAll(filepath.Dir(a.cfg.Socket), 0o700); err != nil {
		return nil, fmt.Errorf("create socket directory: %w", err)
	}
	if conn, err := net.Dial("unix", a.cfg.Socket); err == nil {
		return nil, errors.Join(fmt.Errorf("listen on %s: another agent answers there", a.cfg.Socket), conn.Close())
	}
	if err := os.Remove(a.cfg.Socket); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove stale socket: %w", err)
	}
	listener, err := net.Listen("unix", a.cfg.Socket)
	if err != nil {
		return nil, fmt.Errorf("listen for operators: %w", err)
	}
	if err := os.Chmod(a.cfg.Socket, 0o600); err != nil {
		return nil, errors.Join(fmt.Errorf("restrict socket: %w", err), listener.Close())
	}
	codec, err := batch.NewCodec()
	if err != nil {
		return nil, errors.Join(err, listener.Close())
	}
	l := &local{agent: a, codec: codec, done: make(chan error, 1)}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /v1/status", l.status)
	mux.HandleFunc("GET /v1/containers", l.containers)
	mux.HandleFunc("GET /v1/events", l.events)
	l.server = &http.Server{Handler: mux, ReadHeaderTimeout: 5 * time.Second, MaxHeaderBytes: 16 << 10}
	go func() { l.done <- l.server.Serve(listener) }()
	return l, nil
}

// close ends the streams under way and removes the socket.
func (l *local) close() error {
	err := l.server.Close()
	if served := <-l.done; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}

func (l *local) status(w http.ResponseWriter, _ *http.Request) {
	w.Header().Set("Content-Type", "application/json")
	if err := json.NewEncoder(w).Encode(l.agent.status()); err != nil {
		l.agent.log.Debug("status not delivered", "error", err)
	}
}

func (l *local) events(w http.ResponseWriter, r *http.Request) {
	kinds, err := parseKinds(r.URL.Query()["kind"])
	if err != nil {
		http.Error(w, err.Error(), http.StatusBadRequest)
		return
	}
	w.Header().Set("Content-Type", "application/x-ndjson")
	out := json.NewEncoder(w)
	if r.URL.Query().Get("follow") == "" {
		for _, frame := range l.agent.recent.all() {
			if err := l.write(out, frame, kinds); err != nil {
				return
			}
		}
		return
	}
	l.follow(r.Context(), w, out, kinds)
}

// follow writes what is sealed from now on until the client goes.
func (l *local) follow(ctx context.Context, w http.ResponseWriter, out *json.Encoder, kinds []event.Kind) {
	frames, cancel, err := l.agent.sender.Subscribe()
	if err != nil {
		http.Error(w, err.Error(), http.StatusServiceUnavailable)
		return
	}
	defer cancel()
	flush := http.NewResponseController(w)
	for {
		if err := flush.Flush(); err != nil {
			return
		}
		select {
		case <-ctx.Done():
			return
		case frame, ok := <-frames:
			if !ok { // the agent stops
				_ = l.writeMissed(out, cancel(), kinds) // the client may be gone, and there is nobody else to tell
				return
			}
			if l.writeMissed(out, frame.Missed, kinds) != nil || l.write(out, frame.Data, kinds) != nil {
				return
			}
		}
	}
}

// stageLive is where events are lost that a client of this socket was too slow for. They are lost to nobody else.
const stageLive = "live"

// writeMissed tells of the events that a client missed, as far as it asked for them.
func (l *local) writeMissed(out *json.Encoder, missed map[event.Kind]uint64, kinds []event.Kind) error {
	host := l.agent.host.Identity()
	for _, kind := range slices.Sorted(maps.Keys(missed)) {
		if len(kinds) > 0 && !slices.Contains(kinds, kind) {
			continue
		}
		if err := out.Encode(&event.Event{Time: time.Now(), Kind: event.AgentLoss, Host: &host, Agent: &event.Agent{
			Stage: stageLive, Cause: "client_slow", Lost: kind, Count: missed[kind],
		}}); err != nil {
			return err
		}
	}
	return nil
}

func (l *local) write(out *json.Encoder, frame []byte, kinds []event.Kind) error {
	data, err := l.codec.Decompress(nil, frame)
	if err != nil {
		return err
	}
	b, err := batch.Decode(data)
	if err != nil {
		return err
	}
	for i := range b.Events {
		if len(kinds) > 0 && !slices.Contains(kinds, b.Events[i].Kind) {
			continue
		}
		if err := out.Encode(&b.Events[i]); err != nil {
			return err
		}
	}
	return nil
}

func parseKinds(names []string) ([]event.Kind, error) {
	var kinds []event.Kind
	for _, name := range names {
		kind, err := event.ParseKind(name)
		if err != nil {
			return nil, err
		}
		kinds = append(kinds, kind)
	}
	return kinds, nil
}
