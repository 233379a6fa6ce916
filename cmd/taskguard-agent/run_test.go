package main

import (
	"errors"
	"io"
	"log/slog"
	"net"
	"net/http"
	"net/http/httptest"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/host"
)

// When the instance's tag changes the agent goes on: systemd, which kills what says that it stops and does not, must not
// be told so.
func TestChangedTagIsNoStop(t *testing.T) {
	const document = `{"instanceId": "i-0", "accountId": "123456789012", "region": "eu-central-1"}`
	ready := make(chan struct{})
	var asked atomic.Int32
	service := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case strings.HasSuffix(r.URL.Path, "/api/token"):
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "600")
			io.WriteString(w, "token")
		case strings.HasSuffix(r.URL.Path, "/instance-identity/document"):
			io.WriteString(w, document)
		case !strings.HasSuffix(r.URL.Path, "/tags/instance/"+host.ManagedTag):
			http.NotFound(w, r)
		case asked.Add(1) == 1:
			io.WriteString(w, "false")
		default:
			<-ready
			io.WriteString(w, "true")
		}
	}))
	defer service.Close()
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", service.URL)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "")
	path := filepath.Join(t.TempDir(), "notify")
	socket, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: path, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	defer socket.Close()
	t.Setenv("NOTIFY_SOCKET", path)

	cfg := defaultConfig()
	cfg.StateDir, cfg.Socket, cfg.EndpointURL = t.TempDir(), filepath.Join(t.TempDir(), "agent.sock"), "https://127.0.0.1:1"
	cfg.EBPF, cfg.Audit, cfg.DockerSocket, cfg.ECSAgent = false, false, "", ""
	log := slog.New(slog.DiscardHandler)
	ended := make(chan error, 1)
	go func() {
		ended <- runAgent(t.Context(), log, &reloader{level: new(slog.LevelVar), log: log, current: cfg})
	}()
	text := make([]byte, 1024)
	if n, err := socket.Read(text); err != nil || string(text[:n]) != "READY=1" {
		t.Fatalf("%q, %v, want that it is ready", text[:n], err)
	}
	close(ready)
	// Now it is to observe, and nothing to observe with is configured.
	var none noSourceError
	if err := <-ended; !errors.As(err, &none) {
		t.Fatalf("ended with %v", err)
	}
	notify(log, "LAST=1")
	if n, err := socket.Read(text); err != nil || string(text[:n]) != "LAST=1" {
		t.Errorf("systemd is told %q, %v", text[:n], err)
	}
}

// Who tags an instance may write anything there; what is shared with the host package stays as it is.
func TestSecretsInTagsAreMasked(t *testing.T) {
	tags := []event.Tag{
		{Key: "Name", Value: "web"}, {Key: "DbPassword", Value: "hunter2"}, {Key: "db", Value: "mysql://me:hunter2@h/shop"},
	}
	want := []event.Tag{
		{Key: "Name", Value: "web"}, {Key: "DbPassword", Value: "***"}, {Key: "db", Value: "mysql://me:***@h/shop"},
	}
	got := withoutSecrets(tags)
	if !slices.Equal(got, want) || tags[1].Value != "hunter2" {
		t.Errorf("%+v of %+v, want %+v", got, tags, want)
	}
	if withoutSecrets(nil) != nil {
		t.Error("tags of no tags")
	}
}
