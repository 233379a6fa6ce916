package e2e

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"encoding/pem"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"net/url"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/taskguard/taskguard/collector/event"
)

const (
	testAccount  = "123456789012"
	testInstance = "i-0123456789abcdef0"
	testRole     = "taskguard-agent"
)

// fakeAWS is an instance's metadata service, and an STS that signs what it is asked again, by AWS's own signer, to
// compare. The service gives out one access key after the other; STS knows those in sessions.
type fakeAWS struct {
	imds, sts *httptest.Server
	ca        string // file of the certificate that STS shows
	keys      []string
	given     atomic.Int64      // how many of the keys
	sessions  map[string]string // role by access key
	asked     atomic.Int64      // STS
}

func newFakeAWS(t *testing.T, sessions map[string]string, keys ...string) *fakeAWS {
	t.Helper()
	f := &fakeAWS{keys: keys, sessions: sessions}
	f.imds = httptest.NewServer(http.HandlerFunc(f.metadata))
	t.Cleanup(f.imds.Close)
	f.sts = httptest.NewTLSServer(http.HandlerFunc(f.getCallerIdentity))
	t.Cleanup(f.sts.Close)
	f.ca = filepath.Join(t.TempDir(), "sts.pem")
	text := pem.EncodeToMemory(&pem.Block{Type: "CERTIFICATE", Bytes: f.sts.Certificate().Raw})
	if err := os.WriteFile(f.ca, text, 0o600); err != nil {
		t.Fatal(err)
	}
	return f
}

func (f *fakeAWS) metadata(w http.ResponseWriter, r *http.Request) {
	switch {
	case r.Method == http.MethodPut && r.URL.Path == "/latest/api/token":
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", "600")
		io.WriteString(w, "token")
	case r.Header.Get("X-Aws-Ec2-Metadata-Token") != "token":
		w.WriteHeader(http.StatusUnauthorized)
	case r.URL.Path == "/latest/meta-data/iam/security-credentials/":
		io.WriteString(w, testRole)
	case r.URL.Path == "/latest/meta-data/iam/security-credentials/"+testRole:
		key := f.keys[min(int(f.given.Add(1)), len(f.keys))-1]
		fmt.Fprintf(w, `{"Code":"Success","AccessKeyId":%q,"SecretAccessKey":%q,"Token":"session","Expiration":%q}`, key, "secret-of-"+key,
			time.Now().Add(6*time.Hour).UTC().Format(time.RFC3339))
	case r.URL.Path == "/latest/dynamic/instance-identity/document":
		fmt.Fprintf(w, `{"instanceId":%q,"accountId":%q,"region":"eu-central-1"}`, testInstance, testAccount)
	default:
		http.NotFound(w, r)
	}
}

func (f *fakeAWS) getCallerIdentity(w http.ResponseWriter, r *http.Request) {
	f.asked.Add(1)
	query := r.URL.Query()
	key, _, _ := strings.Cut(query.Get("X-Amz-Credential"), "/")
	date, err := time.Parse("20060102T150405Z", query.Get("X-Amz-Date"))
	role, known := f.sessions[key]
	if err != nil || !known {
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, "<ErrorResponse><Error><Code>ExpiredToken</Code></Error></ErrorResponse>")
		return
	}
	again, _ := http.NewRequest(http.MethodGet,
		"https://"+r.Host+"/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Expires="+query.Get("X-Amz-Expires"), nil)
	for _, name := range []string{"X-Taskguard-Agent", "X-Taskguard-Endpoint"} {
		again.Header.Set(name, r.Header.Get(name))
	}
	empty := sha256.Sum256(nil)
	credentials := aws.Credentials{AccessKeyID: key, SecretAccessKey: "secret-of-" + key, SessionToken: "session"}
	signed, _, err := v4.NewSigner().PresignHTTP(r.Context(), credentials, again, hex.EncodeToString(empty[:]), "sts", "eu-central-1", date)
	want, parseErr := url.Parse(signed)
	if err != nil || parseErr != nil || want.Query().Get("X-Amz-Signature") != query.Get("X-Amz-Signature") {
		w.WriteHeader(http.StatusForbidden)
		io.WriteString(w, "<ErrorResponse><Error><Code>SignatureDoesNotMatch</Code></Error></ErrorResponse>")
		return
	}
	fmt.Fprintf(w, "<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:sts::%s:assumed-role/%s/%s</Arn>"+
		"<Account>%s</Account></GetCallerIdentityResult></GetCallerIdentityResponse>", testAccount, role, testInstance, testAccount)
}

// environment is that of an agent on the instance.
func (f *fakeAWS) environment(t *testing.T) []string {
	nowhere := filepath.Join(t.TempDir(), "nowhere")
	list := []string{
		"AWS_EC2_METADATA_SERVICE_ENDPOINT=" + f.imds.URL, "AWS_CONFIG_FILE=" + nowhere, "AWS_SHARED_CREDENTIALS_FILE=" + nowhere,
	}
	for _, pair := range os.Environ() {
		if !strings.HasPrefix(pair, "AWS_") {
			list = append(list, pair)
		}
	}
	return list
}

// guarded is an endpoint that asks its agents who they are.
type guarded struct{ bin, data, url string }

func startGuarded(t *testing.T, environment []string, settings ...string) *guarded {
	t.Helper()
	e := &guarded{bin: built.bin(t), data: t.TempDir()}
	args := []string{"serve", "--listen", "127.0.0.1:0", "--data", e.data, "--tls-self-signed"}
	for _, setting := range settings {
		args = append(args, "--set", setting)
	}
	cmd := exec.Command(filepath.Join(e.bin, "taskguard-endpoint"), args...)
	cmd.Env = append(os.Environ(), environment...)
	log, err := os.Create(filepath.Join(e.data, "log"))
	if err != nil {
		t.Fatal(err)
	}
	defer log.Close() // the program has its own
	cmd.Stderr = log
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGTERM}
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Signal(syscall.SIGTERM)
		if err := cmd.Wait(); err != nil || t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("endpoint: %v\n%s", err, text)
		}
	})
	await(t, "the endpoint", func() bool {
		address, err := os.ReadFile(filepath.Join(e.data, "address"))
		e.url = "https://" + strings.TrimSpace(string(address))
		return err == nil
	})
	return e
}

// agent runs a command of the agent and returns what it printed.
func (e *guarded) agent(t *testing.T, environment []string, args ...string) (string, error) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 2*time.Minute)
	defer cancel()
	args = append(args, "--config", "../../packaging/agent.yaml", "--set", "endpoint.url="+e.url,
		"--set", "endpoint.ca_file="+filepath.Join(e.data, "tls", "ca.pem"))
	cmd := exec.CommandContext(ctx, filepath.Join(e.bin, "taskguard-agent"), args...)
	cmd.Env = environment
	out, err := cmd.CombinedOutput()
	return string(out), err
}

// count returns how many processes the endpoint has been told of.
func (e *guarded) count(t *testing.T) uint64 {
	t.Helper()
	out, err := exec.Command(filepath.Join(e.bin, "taskguard-endpoint"), "events", "--data", e.data, "--count", "--json").Output()
	var n map[string]uint64
	if err == nil {
		err = json.Unmarshal(out, &n)
	}
	if err != nil {
		t.Fatalf("%v: %s", err, out)
	}
	return n["process.exec"]
}

// recordingOf is a file with events of an instance.
func recordingOf(t *testing.T, instance string, events int) string {
	t.Helper()
	file, err := os.Create(filepath.Join(t.TempDir(), "recording.jsonl"))
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	for i := range events {
		err := json.NewEncoder(file).Encode(&event.Event{
			Time: time.Unix(1_700_000_000, int64(i)).UTC(), Kind: event.ProcessExec,
			Host:    &event.Host{InstanceID: instance, AccountID: testAccount, Region: "eu-central-1"},
			Process: &event.Process{PID: uint32(i + 1), Name: "x", Exe: "/bin/x"},
		})
		if err != nil {
			t.Fatal(err)
		}
	}
	return file.Name()
}

// The built agent proves who it is to the built endpoint by the credentials of its instance, also when those it has first
// are refused, and speaks for its own instance only.
func TestIdentities(t *testing.T) {
	const events = 10
	for _, c := range []struct {
		name     string
		mode     string
		keys     []string
		instance string
		refused  string
	}{
		{"sts", "sts", []string{"GOOD"}, testInstance, ""},
		{"sts, expired credentials", "sts", []string{"OLD", "GOOD"}, testInstance, ""},
		{"sts, only expired credentials", "sts", []string{"OLD"}, testInstance, "ExpiredToken"},
		{"sts, other role", "sts", []string{"WEB"}, testInstance, "is not let in"},
		{"sts, other instance", "sts", []string{"GOOD"}, "i-00000000", "may not speak for instance"},
		{"sigv4", "sigv4", []string{"GOOD"}, testInstance, ""},
		{"sigv4, expired credentials", "sigv4", []string{"OLD", "GOOD"}, testInstance, ""},
		{"sigv4, other instance", "sigv4", []string{"GOOD"}, "i-00000000", "may not speak for instance"},
		{"none", "none", []string{"GOOD"}, testInstance, "no credentials"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fake := newFakeAWS(t, map[string]string{"GOOD": testRole, "WEB": "web"}, c.keys...)
			keys := filepath.Join(t.TempDir(), "keys")
			if err := os.WriteFile(keys, []byte("GOOD secret-of-GOOD "+testAccount+" "+testInstance+"\n"), 0o600); err != nil {
				t.Fatal(err)
			}
			settings := []string{"auth.endpoints=127.0.0.1"}
			if c.mode == "sigv4" {
				settings = append(settings, "auth.sigv4.keys_file="+keys)
			} else {
				settings = append(settings, "auth.sts.hosts="+fake.sts.Listener.Addr().String(), "auth.sts.accounts="+testAccount,
					"auth.sts.roles=taskguard-*")
			}
			e := startGuarded(t, []string{"SSL_CERT_FILE=" + fake.ca}, settings...)
			args := []string{"replay", recordingOf(t, c.instance, events), "--set", "identity.mode=" + c.mode}
			if c.mode == "sts" {
				args = append(args, "--set", "identity.sts_endpoint="+fake.sts.URL)
			}
			out, err := e.agent(t, fake.environment(t), args...)
			if c.refused != "" {
				if err == nil || !strings.Contains(out, c.refused) || e.count(t) != 0 {
					t.Errorf("%v: %s\nwant %q, and nothing stored", err, out, c.refused)
				}
				return
			}
			if err != nil || !strings.Contains(out, "10 acknowledged") || e.count(t) != events {
				t.Errorf("%v: %s\nwant %d events stored", err, out, events)
			}
			if n := fake.asked.Load(); n > int64(len(c.keys)) {
				t.Errorf("STS was asked %d times", n)
			}
		})
	}
}
