package auth_test

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"io"
	"log"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/auth"
	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/ingest"
	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender"
	"github.com/taskguard/taskguard/sender/https"
)

// keyring gives an agent one key after the other, the next one when it is to be fresh.
type keyring struct{ keys []string }

func (k *keyring) Retrieve(_ context.Context, fresh bool) (https.Key, error) {
	if fresh {
		k.keys = k.keys[1:]
	}
	id := k.keys[0]
	return https.Key{
		Credentials: aws.Credentials{AccessKeyID: id, SecretAccessKey: secretOf(id), SessionToken: "session"}, Region: "eu-central-1",
	}, nil
}

// The agent's own transport is let in with each identity of AWS, also when its first credentials are good no more; and is
// refused as whoever it is not.
func TestAgentsAreKnown(t *testing.T) {
	stranger := event.ID{9}
	for _, c := range []struct {
		name, mode string
		agent      event.ID
		keys       []string
		service    string
		refused    []string // by each try, or "" when it is let in
	}{
		{"sts", https.IdentitySTS, agent, []string{"GOOD"}, "", []string{"", ""}},
		{"sts, credentials replaced", https.IdentitySTS, agent, []string{"GONE", "GOOD"}, "", []string{"InvalidClientTokenId", ""}},
		{"sts, other role", https.IdentitySTS, agent, []string{"ROLE", "ROLE"}, "", []string{"is not let in", "is not let in"}},
		{"sts, batch of another agent", https.IdentitySTS, stranger, []string{"GOOD", "GOOD"}, "", []string{"sends a batch of agent"}},
		{"sigv4", https.IdentitySigV4, agent, []string{"GOOD"}, "", []string{"", "", ""}},
		{"sigv4, credentials replaced", https.IdentitySigV4, agent, []string{"GONE", "GOOD"}, "", []string{"not known here", ""}},
		{"sigv4, for another service", https.IdentitySigV4, agent, []string{"GOOD", "GOOD"}, "vpc-lattice-svcs", []string{"want execute-api"}},
		{"sigv4, batch of another agent", https.IdentitySigV4, stranger, []string{"GOOD", "GOOD"}, "", []string{"sends a batch of agent"}},
	} {
		t.Run(c.name, func(t *testing.T) {
			fake := newFakeSTS(t)
			fake.callers = map[string]string{"GOOD": arnOf(account, role, instance), "ROLE": arnOf(account, "web", instance)}
			url, ca, store := listen(t, auth.Config{
				Endpoints: []string{"127.0.0.1"}, STS: fake.config(),
				SigV4: &auth.SigV4{Keys: []auth.Key{{ID: "GOOD", Secret: secretOf("GOOD"), Account: account, Instance: instance}}},
			})
			transport, err := https.New(https.Config{
				URL: url, CAFile: ca, ServerName: "receiver", Agent: c.agent, Identity: c.mode, Service: c.service,
				Credentials: &keyring{c.keys}, STSEndpoint: "https://" + stsHost,
			})
			if err != nil {
				t.Fatal(err)
			}
			defer transport.Close()
			taken := 0
			for i, want := range c.refused {
				err := transport.Send(t.Context(), frameOf(t, agent, ours))
				if want == "" {
					taken++
					if err != nil {
						t.Errorf("try %d: %v", i, err)
					}
					if err := transport.Check(t.Context()); err != nil {
						t.Errorf("try %d: %v", i, err)
					}
					continue
				}
				var f *sender.Failure
				if !errors.As(err, &f) || !strings.Contains(err.Error(), want) || f.Refresh != (i == 0) {
					t.Errorf("try %d: %+v, want %q", i, err, want)
				}
			}
			if store.stored != taken {
				t.Errorf("%d stored, want %d", store.stored, taken)
			}
			if n := int(fake.asked.Load()); c.mode == https.IdentitySTS && n > len(c.keys) {
				t.Errorf("STS was asked %d times for %d credentials", n, len(c.keys))
			}
		})
	}
}

// The agent's certificate lets it in, and one that replaces it does for the next request after a refusal.
func TestAgentsAreKnownByCertificate(t *testing.T) {
	agents := newCA(t, "agents")
	dir := t.TempDir()
	caOfAgents, certFile, keyFile := filepath.Join(dir, "ca.pem"), filepath.Join(dir, "cert.pem"), filepath.Join(dir, "key.pem")
	agents.write(t, caOfAgents)
	put := func(instance string) {
		certificate := agents.issue(t, time.Now().Add(time.Hour), nil, "taskguard://"+account+"/"+instance)
		key, err := x509.MarshalPKCS8PrivateKey(certificate.PrivateKey)
		if err != nil {
			t.Fatal(err)
		}
		for file, block := range map[string]*pem.Block{
			certFile: {Type: "CERTIFICATE", Bytes: certificate.Certificate[0]}, keyFile: {Type: "PRIVATE KEY", Bytes: key},
		} {
			if err := os.WriteFile(file, pem.EncodeToMemory(block), 0o600); err != nil {
				t.Fatal(err)
			}
		}
	}
	url, ca, store := listen(t, auth.Config{MTLS: &auth.MTLS{CAFile: caOfAgents}})
	transport, err := https.New(https.Config{
		URL: url, CAFile: ca, ServerName: "receiver", Agent: agent, CertFile: certFile, KeyFile: keyFile,
	})
	if err != nil {
		t.Fatal(err)
	}
	defer transport.Close()
	put("i-00000000")
	var f *sender.Failure
	if err := transport.Send(t.Context(), frameOf(t, agent, ours)); !errors.As(err, &f) || !f.Refresh || store.stored != 0 {
		t.Errorf("another instance's: %v, %d stored", err, store.stored)
	}
	put(instance)
	if err := transport.Send(t.Context(), frameOf(t, agent, ours)); err != nil || store.stored != 1 {
		t.Errorf("its own: %v, %d stored", err, store.stored)
	}
	for _, step := range transport.Walk(t.Context()) {
		if step.Err != nil || !step.Tried {
			t.Errorf("%+v", step)
		}
	}
}

// listen has a handler answer on loopback, with a certificate for "receiver" that a CA of the file signed.
func listen(t *testing.T, cfg auth.Config) (url, caFile string, store *memory) {
	t.Helper()
	a, err := auth.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	store = &memory{}
	handler, err := ingest.New(ingest.Config{Store: store, Auth: a})
	if err != nil {
		t.Fatal(err)
	}
	ca := newCA(t, "ca")
	caFile = filepath.Join(t.TempDir(), "ca.pem")
	ca.write(t, caFile)
	server := httptest.NewUnstartedServer(handler)
	server.EnableHTTP2 = true
	server.Config.ErrorLog = log.New(io.Discard, "", 0)
	server.TLS = &tls.Config{Certificates: []tls.Certificate{*ca.issue(t, time.Now().Add(time.Hour), []string{"receiver"})}}
	a.ConfigureTLS(server.TLS)
	server.StartTLS()
	t.Cleanup(server.Close)
	return server.URL, caFile, store
}
