package auth_test

import (
	"bytes"
	"context"
	"crypto/sha256"
	"crypto/tls"
	"encoding/hex"
	"fmt"
	"log/slog"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	v4 "github.com/aws/aws-sdk-go-v2/aws/signer/v4"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/auth"
	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/ingest"
	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

var (
	agent = event.ID{1, 2, 3}
	ours  = event.Host{InstanceID: instance, AccountID: account}
)

// memory is a store that counts.
type memory struct {
	mu     sync.Mutex
	stored int
}

func (m *memory) Append(context.Context, *batch.Header, int, []byte) (bool, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.stored++
	return true, nil
}

func frameOf(t testing.TB, agent event.ID, host event.Host) []byte {
	t.Helper()
	codec, err := batch.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	b := batch.NewBuilder()
	b.Append(&event.Event{Time: time.Unix(1, 0), Kind: event.ProcessExec, Process: &event.Process{PID: 1, Name: "x"}})
	h := batch.Header{ID: batch.ID{Agent: agent, Epoch: 1, Sequence: 1}, Host: host}
	return codec.Compress(nil, b.Seal(nil, h, batch.Late{}))
}

// receiver is an ingest.Handler behind an authenticator, with what it stored and logged.
type receiver struct {
	handler *ingest.Handler
	store   memory
	log     bytes.Buffer
}

func newReceiver(t testing.TB, cfg auth.Config) *receiver {
	t.Helper()
	cfg.Endpoints = []string{endpoint}
	a, err := auth.New(cfg)
	if err != nil {
		t.Fatal(err)
	}
	r := &receiver{}
	r.handler, err = ingest.New(ingest.Config{Store: &r.store, Auth: a, Logger: slog.New(slog.NewTextHandler(&r.log, nil))})
	if err != nil {
		t.Fatal(err)
	}
	return r
}

func newPost(body []byte) *http.Request {
	r := httptest.NewRequest(http.MethodPost, "https://"+endpoint+"/v1/batches", bytes.NewReader(body))
	r.Header.Set("Content-Type", batch.ContentType)
	r.Header.Set("Taskguard-Agent", agent.String())
	r.TLS = nil
	return r
}

func (r *receiver) answer(request *http.Request) *httptest.ResponseRecorder {
	w := httptest.NewRecorder()
	r.handler.ServeHTTP(w, request)
	return w
}

// refuses checks that a request is refused with the reason, which is logged, and that nothing is stored.
func (r *receiver) refuses(t *testing.T, request *http.Request, status int, reason string) {
	t.Helper()
	before := r.store.stored
	w := r.answer(request)
	if w.Code != status || !strings.Contains(w.Body.String(), reason) {
		t.Errorf("answer %d %s, want %d %q", w.Code, w.Body, status, reason)
	}
	if r.store.stored != before {
		t.Error("stored")
	}
	if !strings.Contains(r.log.String(), reason) {
		t.Errorf("log %q does not say %q", r.log.String(), reason)
	}
}

func (r *receiver) takes(t *testing.T, request *http.Request) {
	t.Helper()
	if w := r.answer(request); w.Code != http.StatusOK {
		t.Errorf("answer %d %s, want 200", w.Code, w.Body)
	}
}

func health(header http.Header) *http.Request {
	r := httptest.NewRequest(http.MethodGet, "https://"+endpoint+"/v1/health", nil)
	r.Header, r.TLS = header, nil
	return r
}

func arnOf(account, role, session string) string {
	return "arn:aws:sts::" + account + ":assumed-role/" + role + "/" + session
}

func TestSTS(t *testing.T) {
	now := time.Now().UTC()
	good := func() string { return presign("GOOD", agent.String(), endpoint, stsHost, now, "900", "session") }
	mine := frameOf(t, agent, ours)
	edit := func(old, new string) string { return strings.Replace(good(), old, new, 1) }
	other := event.ID{9}
	for _, c := range []struct {
		name    string
		address string
		change  func(r *http.Request)
		body    []byte
		status  int // 200 is taken
		reason  string
	}{
		{name: "good", status: 200},
		{name: "good with a port", change: func(r *http.Request) { r.Host = strings.ToUpper(endpoint) + ":8443" }, status: 200},
		{name: "none", change: func(r *http.Request) { r.Header.Del("Authorization") }, status: 401, reason: "no credentials"},
		{name: "two", change: func(r *http.Request) { r.Header.Add("Authorization", "x") }, status: 401, reason: "want one, got 2"},
		{name: "mode that is off", change: func(r *http.Request) { r.Header.Set("Authorization", "AWS4-HMAC-SHA256 x") }, status: 401, reason: "not allowed"},
		{name: "no base64", change: func(r *http.Request) { r.Header.Set("Authorization", "TaskGuard-STS !") }, status: 401, reason: "base64"},
		{name: "too long", address: "https://" + strings.Repeat("x", 20000), status: 401, reason: "at most"},
		{name: "no agent", change: func(r *http.Request) { r.Header.Del("Taskguard-Agent") }, status: 401, reason: "Taskguard-Agent"},
		{name: "no uuid", change: func(r *http.Request) { r.Header.Set("Taskguard-Agent", "x") }, status: 401, reason: "UUID"},

		{name: "forged signature", address: edit("X-Amz-Signature=", "X-Amz-Signature=0000")[:len(good())], status: 401, reason: "SignatureDoesNotMatch"},
		{name: "unknown key", address: presign("NOBODY", agent.String(), endpoint, stsHost, now, "900", ""), status: 401, reason: "InvalidClientTokenId"},
		{name: "expired", address: presign("GOOD", agent.String(), endpoint, stsHost, now.Add(-901*time.Second), "900", ""), status: 401, reason: "expired"},
		{name: "of the future", address: presign("GOOD", agent.String(), endpoint, stsHost, now.Add(6*time.Minute), "900", ""), status: 401, reason: "set the agent's clock"},
		{name: "good for an hour", address: presign("GOOD", agent.String(), endpoint, stsHost, now, "3600", ""), status: 401, reason: "X-Amz-Expires"},
		{name: "longer than signed", address: edit("X-Amz-Expires=900", "X-Amz-Expires=899"), status: 401, reason: "SignatureDoesNotMatch"},
		{name: "for another endpoint", address: presign("GOOD", agent.String(), "evil.example.com", stsHost, now, "900", ""), status: 401, reason: "SignatureDoesNotMatch"},
		{name: "sent to another name", change: func(r *http.Request) { r.Host = "evil.example.com" }, status: 401, reason: "no name of this endpoint"},
		{name: "of another agent", address: presign("GOOD", other.String(), endpoint, stsHost, now, "900", ""), status: 401, reason: "SignatureDoesNotMatch"},
		{name: "replayed as another agent", change: func(r *http.Request) { r.Header.Set("Taskguard-Agent", other.String()) }, status: 401, reason: "SignatureDoesNotMatch"},
		{name: "batch of another agent", body: frameOf(t, other, ours), status: 403, reason: "sends a batch of agent"},
		{name: "batch of another instance", body: frameOf(t, agent, event.Host{InstanceID: "i-00000000", AccountID: account}), status: 403, reason: "may not speak for instance"},
		{name: "batch of another account", body: frameOf(t, agent, event.Host{InstanceID: instance, AccountID: "999999999999"}), status: 403, reason: "may not speak for account"},
		{name: "batch of nobody", body: frameOf(t, agent, event.Host{}), status: 403, reason: "may not speak for instance"},
		{name: "other account", address: presign("ACCOUNT", agent.String(), endpoint, stsHost, now, "900", ""), status: 403, reason: "account 999999999999 is not let in"},
		{name: "other role", address: presign("ROLE", agent.String(), endpoint, stsHost, now, "900", ""), status: 403, reason: "is not let in"},
		{name: "no instance's session", address: presign("SESSION", agent.String(), endpoint, stsHost, now, "900", ""), status: 403, reason: "no instance's"},
		{name: "user", address: presign("USER", agent.String(), endpoint, stsHost, now, "900", ""), status: 403, reason: "want a role's session"},

		{name: "http", address: edit("https://", "http://"), status: 401, reason: "https"},
		{name: "other host", address: edit(stsHost, "evil.example.com"), status: 401, reason: "no STS host"},
		{name: "metadata service", address: edit(stsHost, "169.254.169.254"), status: 401, reason: "no STS host"},
		{name: "host with a suffix", address: edit(stsHost, stsHost+".evil.example.com"), status: 401, reason: "no STS host"},
		{name: "host with a dot", address: edit(stsHost, stsHost+"."), status: 401, reason: "no STS host"},
		{name: "upper case host", address: edit(stsHost, strings.ToUpper(stsHost)), status: 401, reason: "no STS host"},
		{name: "port", address: edit(stsHost, stsHost+":8080"), status: 401, reason: "no STS host"},
		{name: "userinfo", address: edit("https://", "https://user@"), status: 401, reason: "user"},
		{name: "host as userinfo", address: edit(stsHost, stsHost+"@evil.example.com"), status: 401, reason: "user"},
		{name: "path", address: edit("/?", "/admin?"), status: 401, reason: "path"},
		{name: "escaped path", address: edit("/?", "/%2e?"), status: 401, reason: "path"},
		{name: "fragment", address: good() + "#x", status: 401, reason: "fragment"},
		{name: "opaque", address: edit("https://", "https:"), status: 401, reason: "https"},
		{name: "other action", address: edit("GetCallerIdentity", "AssumeRole"), status: 401, reason: "Action"},
		{name: "more parameters", address: good() + "&RoleArn=x", status: 401, reason: "RoleArn"},
		{name: "parameter twice", address: good() + "&Action=GetCallerIdentity", status: 401, reason: "2 times"},
		{name: "lower case parameter", address: good() + "&action=AssumeRole", status: 401, reason: "sts token: parameter"},
		{name: "semicolon", address: good() + ";x", status: 401, reason: "query"},
		{name: "agent not signed", address: edit("%3Bx-taskguard-agent", ""), status: 401, reason: "X-Amz-SignedHeaders"},
		{name: "endpoint not signed", address: edit("%3Bx-taskguard-endpoint", ""), status: 401, reason: "X-Amz-SignedHeaders"},
		{name: "other service", address: edit("%2Fsts%2F", "%2Fs3%2F"), status: 401, reason: "service"},
		{name: "other algorithm", address: edit("AWS4-HMAC-SHA256", "AWS4-ECDSA-P256-SHA256"), status: 401, reason: "X-Amz-Algorithm"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fake := newFakeSTS(t)
			fake.callers = map[string]string{
				"GOOD": arnOf(account, role, instance), "ACCOUNT": arnOf("999999999999", role, instance),
				"ROLE": arnOf(account, "web", instance), "SESSION": arnOf(account, role, "me@example.com"),
				"USER": "arn:aws:iam::" + account + ":user/" + role,
			}
			r := newReceiver(t, auth.Config{STS: fake.config()})
			if c.name == "replayed as another agent" || c.name == "sent to another name" {
				first := newPost(mine)
				first.Header.Set("Authorization", token(good()))
				r.takes(t, first) // it is in the cache, for whom it was signed
			}
			if c.address == "" {
				c.address = good()
			}
			if c.body == nil {
				c.body = mine
			}
			request := newPost(c.body)
			request.Header.Set("Authorization", token(c.address))
			if c.change != nil {
				c.change(request)
			}
			if c.status == 200 {
				r.takes(t, request)
				r.takes(t, health(request.Header))
				return
			}
			r.refuses(t, request, c.status, c.reason)
			if c.body != nil && !bytes.Equal(c.body, mine) {
				return // the agent is known, it only lies about the batch
			}
			if w := r.answer(health(request.Header)); request.Host == endpoint && w.Code != c.status {
				t.Errorf("health: answer %d, want %d", w.Code, c.status)
			}
		})
	}
}

// What an STS answers that is not what it should be lets nobody in.
func TestSTSAnswers(t *testing.T) {
	for _, c := range []struct {
		name   string
		status int
		body   string
		want   int
		reason string
	}{
		{"redirect", 302, "", 401, "status 302"},
		{"down", 500, "", 503, "status 500"},
		{"throttled", 400, "<Code>Throttling</Code>", 503, "status 400"},
		{"endless", 200, strings.Repeat("x", 1<<20), 503, "more than"},
		{"no xml", 200, "{}", 503, "cannot be read"},
		{"two results", 200, strings.Replace(callerXML(arnOf(account, role, instance)), "</GetCallerIdentityResult>",
			"</GetCallerIdentityResult><GetCallerIdentityResult></GetCallerIdentityResult>", 1), 503, "without an ARN"},
		{"account is not the ARN's", 200, strings.Replace(callerXML(arnOf("999999999999", role, instance)),
			"<Account>999999999999", "<Account>"+account, 1), 403, "want a role's session"},
	} {
		t.Run(c.name, func(t *testing.T) {
			fake := newFakeSTS(t)
			fake.answer = func(w http.ResponseWriter, r *http.Request) {
				if r.URL.Path != "/" {
					t.Errorf("followed to %s", r.URL)
				}
				w.Header().Set("Location", "https://"+stsHost+"/elsewhere")
				w.WriteHeader(c.status)
				fmt.Fprint(w, c.body)
			}
			r := newReceiver(t, auth.Config{STS: fake.config()})
			request := newPost(frameOf(t, agent, ours))
			request.Header.Set("Authorization", token(presign("GOOD", agent.String(), endpoint, stsHost, time.Now().UTC(), "900", "")))
			r.refuses(t, request, c.want, c.reason)
			if c.want == 503 {
				if w := r.answer(health(request.Header)); w.Header().Get("Retry-After") == "" {
					t.Error("503 without Retry-After")
				}
			}
		})
	}
}

// STS is asked once for a token, however many send it, and not again while the answer holds; so it is for a bad one.
func TestSTSIsAskedOnce(t *testing.T) {
	fake := newFakeSTS(t)
	fake.callers["GOOD"] = arnOf(account, role, instance)
	r := newReceiver(t, auth.Config{STS: fake.config()})
	for _, key := range []string{"GOOD", "BAD"} {
		address := presign(key, agent.String(), endpoint, stsHost, time.Now().UTC(), "900", "")
		before := fake.asked.Load()
		var wg sync.WaitGroup
		for range 20 {
			wg.Go(func() {
				r.answer(health(http.Header{"Authorization": {token(address)}, "Taskguard-Agent": {agent.String()}}))
			})
		}
		wg.Wait()
		if n := fake.asked.Load() - before; n != 1 {
			t.Errorf("%s: asked %d times, want once", key, n)
		}
	}
}

// No more questions are asked at once than is allowed; the rest is told to come again.
func TestSTSQuestionsAreBounded(t *testing.T) {
	fake := newFakeSTS(t)
	asked, release := make(chan bool), make(chan bool)
	fake.answer = func(w http.ResponseWriter, _ *http.Request) {
		asked <- true
		<-release
		fmt.Fprint(w, callerXML(arnOf(account, role, instance)))
	}
	cfg := fake.config()
	cfg.MaxQuestions = 1
	r := newReceiver(t, auth.Config{STS: cfg})
	request := func(session string) *http.Request {
		address := presign("GOOD", agent.String(), endpoint, stsHost, time.Now().UTC(), "900", session)
		return health(http.Header{"Authorization": {token(address)}, "Taskguard-Agent": {agent.String()}})
	}
	first := make(chan int)
	go func() { first <- r.answer(request("first")).Code }()
	<-asked
	r.refuses(t, request("second"), 503, "too many identities")
	close(release)
	if code := <-first; code != 200 {
		t.Errorf("first answer %d, want 200", code)
	}
}

const keyID = "AKIDEXAMPLE"

// signed returns a request signed by AWS's own signer.
func signed(t testing.TB, body []byte, date time.Time, service, secret string, change func(r *http.Request)) *http.Request {
	t.Helper()
	r := newPost(body)
	sum := sha256.Sum256(body)
	digest := hex.EncodeToString(sum[:])
	r.Header.Set("X-Amz-Content-Sha256", digest)
	r.Header.Set("Taskguard-Nonce", "000102030405060708090a0b0c0d0e0f")
	if change != nil {
		change(r)
	}
	credentials := aws.Credentials{AccessKeyID: keyID, SecretAccessKey: secret}
	if err := v4.NewSigner().SignHTTP(t.Context(), credentials, r, digest, service, "eu-central-1", date); err != nil {
		t.Fatal(err)
	}
	return r
}

func TestSigV4(t *testing.T) {
	now := time.Now().UTC()
	mine := frameOf(t, agent, ours)
	post := func(change func(r *http.Request)) *http.Request {
		return signed(t, mine, now, "execute-api", "secret", change)
	}
	after := func(change func(r *http.Request)) *http.Request {
		r := post(nil)
		change(r)
		return r
	}
	edit := func(old, new string) *http.Request {
		return after(func(r *http.Request) {
			r.Header.Set("Authorization", strings.Replace(r.Header.Get("Authorization"), old, new, 1))
		})
	}
	of := func(agent event.ID, host event.Host) *http.Request {
		return signed(t, frameOf(t, agent, host), now, "execute-api", "secret", nil)
	}
	for _, c := range []struct {
		name    string
		request *http.Request
		status  int
		reason  string
	}{
		{"good", post(nil), 200, ""},
		{"good with odd spaces", post(func(r *http.Request) { r.Header.Set("X-Other", "  a   b ") }), 200, ""},
		{"good with a session token", post(func(r *http.Request) { r.Header.Set("X-Amz-Security-Token", "t") }), 200, ""},
		{"wrong secret", signed(t, mine, now, "execute-api", "guess", nil), 401, "does not match"},
		{"unknown key", edit(keyID, "AKIDOTHER"), 401, "not known here"},
		{"other service", signed(t, mine, now, "s3", "secret", nil), 401, "service"},
		{"other region", edit("eu-central-1", "us-east-1"), 401, "does not match"},
		{"other day", edit(now.Format("20060102"), "20200101"), 401, "day"},
		{"expired", signed(t, mine, now.Add(-6*time.Minute), "execute-api", "secret", nil), 401, "clock"},
		{"of the future", signed(t, mine, now.Add(6*time.Minute), "execute-api", "secret", nil), 401, "clock"},
		{"date changed", after(func(r *http.Request) { r.Header.Set("X-Amz-Date", now.Add(time.Second).Format("20060102T150405Z")) }), 401, "does not match"},
		{"signed for another host", post(func(r *http.Request) { r.Host = "evil.example.com" }), 401, "no name of this endpoint"},
		{"sent to another host", after(func(r *http.Request) { r.Host = "evil.example.com" }), 401, "no name of this endpoint"},
		{"other agent", after(func(r *http.Request) { r.Header.Set("Taskguard-Agent", event.ID{9}.String()) }), 401, "does not match"},
		{"other nonce", after(func(r *http.Request) { r.Header.Set("Taskguard-Nonce", strings.Repeat("0", 32)) }), 401, "does not match"},
		{"no nonce", after(func(r *http.Request) { r.Header.Del("Taskguard-Nonce") }), 401, "Taskguard-Nonce"},
		{"two nonces", after(func(r *http.Request) { r.Header.Add("Taskguard-Nonce", "x") }), 401, "Taskguard-Nonce"},
		{"short nonce", post(func(r *http.Request) { r.Header.Set("Taskguard-Nonce", "00") }), 401, "hex digits"},
		{"nonce not signed", edit("taskguard-nonce;", ""), 401, "not over header taskguard-nonce"},
		{"agent not signed", edit("taskguard-agent;", ""), 401, "not over header taskguard-agent"},
		{"host not signed", edit("host;", ""), 401, "not over header host"},
		{"date not signed", edit(";x-amz-date", ""), 401, "not over header x-amz-date"},
		{"missing header signed", edit(";x-amz-date", ";x-amz-date;x-nothing"), 401, "missing"},
		{"headers out of order", edit("host;", "zzz;host;"), 401, "in order"},
		{"half a signature", edit("Signature=", "Signature=x"), 401, "hex digits"},
		{"no signature", edit(", Signature=", ", Other="), 401, "hex digits"},
		{"garbage", edit("Credential=", ""), 401, "once each"},
		{"token added", after(func(r *http.Request) { r.Header.Set("X-Amz-Security-Token", "x") }), 401, "x-amz-security-token"},
		{"content type changed", after(func(r *http.Request) { r.Header.Set("Content-Type", batch.ContentType+"; x=y") }), 401, "does not match"},
		{"body changed", after(func(r *http.Request) {
			r.Body = newPost(append([]byte{mine[0] ^ 1}, mine[1:]...)).Body
		}), 401, "another"},
		{"body and hash changed", after(func(r *http.Request) {
			other := bytes.Clone(mine)
			other[len(other)-1] ^= 1
			sum := sha256.Sum256(other)
			r.Body = newPost(other).Body
			r.Header.Set("X-Amz-Content-Sha256", hex.EncodeToString(sum[:]))
		}), 401, "does not match"},
		{"body unsigned", after(func(r *http.Request) { r.Header.Set("X-Amz-Content-Sha256", "UNSIGNED-PAYLOAD") }), 401, "another"},
		{"query", after(func(r *http.Request) { r.URL.RawQuery = "a=b" }), 401, "query"},
		{"batch of another agent", of(event.ID{9}, ours), 403, "sends a batch of agent"},
		{"batch of another instance", of(agent, event.Host{InstanceID: "i-00000000", AccountID: account}), 403, "may not speak for instance"},
		{"batch of another account", of(agent, event.Host{InstanceID: instance, AccountID: "999999999999"}), 403, "may not speak for account"},
	} {
		t.Run(c.name, func(t *testing.T) {
			r := newReceiver(t, auth.Config{SigV4: &auth.SigV4{Keys: []auth.Key{{keyID, "secret", account, instance}}}})
			if c.status != 200 {
				r.refuses(t, c.request, c.status, c.reason)
				return
			}
			again := c.request.Clone(t.Context())
			again.Body = newPost(mine).Body
			r.takes(t, c.request)
			r.refuses(t, again, 401, "sent before")
		})
	}
}

// When no more nonces fit, requests wait; none is forgotten that could be replayed.
func TestSigV4NoncesAreBounded(t *testing.T) {
	now := time.Now().UTC()
	mine := frameOf(t, agent, ours)
	request := func(nonce string) *http.Request {
		return signed(t, mine, now, "execute-api", "secret", func(r *http.Request) { r.Header.Set("Taskguard-Nonce", nonce) })
	}
	r := newReceiver(t, auth.Config{SigV4: &auth.SigV4{
		MaxNonces: 2, Keys: []auth.Key{{keyID, "secret", account, instance}},
	}})
	first, second, third := strings.Repeat("1", 32), strings.Repeat("2", 32), strings.Repeat("3", 32)
	r.takes(t, request(first))
	r.takes(t, request(second))
	r.refuses(t, request(third), 503, "too many signed requests")
	if w := r.answer(request(first)); w.Code != 401 {
		t.Errorf("replay answered with %d, want 401", w.Code)
	}
}

func TestMTLS(t *testing.T) {
	trusted, stranger, retired := newCA(t, "trusted"), newCA(t, "stranger"), newCA(t, "retired")
	later := time.Now().Add(time.Hour)
	name := []string{instance}
	uri := "taskguard://" + account + "/" + instance
	mine := frameOf(t, agent, ours)
	for _, c := range []struct {
		name        string
		certificate *tls.Certificate
		body        []byte
		status      int // 0: the handshake fails
		reason      string
	}{
		{"URI", trusted.issue(t, later, nil, uri), mine, 200, ""},
		{"name", trusted.issue(t, later, name), mine, 200, ""},
		{"URI and name", trusted.issue(t, later, name, uri), mine, 200, ""},
		{"none", nil, mine, 401, "client certificate"},
		{"other CA", stranger.issue(t, later, name), mine, 0, ""},
		{"expired", trusted.issue(t, time.Now().Add(-time.Minute), name), mine, 0, ""},
		{"CA that is trusted no longer", retired.issue(t, later, name), mine, 401, "not trusted any more"},
		{"no instance", trusted.issue(t, later, []string{"agent"}), mine, 403, "names 0 instances"},
		{"two instances", trusted.issue(t, later, []string{instance, "i-00000000"}), mine, 403, "names 2 instances"},
		{"two URIs", trusted.issue(t, later, nil, uri, uri), mine, 403, "names 2 instances"},
		{"URI with a port", trusted.issue(t, later, nil, "taskguard://"+account+":1/"+instance), mine, 403, "want taskguard"},
		{"URI with a query", trusted.issue(t, later, nil, uri+"?x"), mine, 403, "want taskguard"},
		{"URI with a user", trusted.issue(t, later, nil, "taskguard://u@"+account+"/"+instance), mine, 403, "want taskguard"},
		{"other agent", trusted.issue(t, later, nil, uri), frameOf(t, event.ID{9}, ours), 403, "sends a batch of agent"},
		{"other instance", trusted.issue(t, later, []string{"i-00000000"}), mine, 403, "may not speak for instance"},
		{"other account", trusted.issue(t, later, nil, "taskguard://999999999999/"+instance), mine, 403, "may not speak for account"},
	} {
		t.Run(c.name, func(t *testing.T) {
			file := filepath.Join(t.TempDir(), "ca.pem")
			if err := os.WriteFile(file, append(trusted.pem(), retired.pem()...), 0o600); err != nil {
				t.Fatal(err)
			}
			a, err := auth.New(auth.Config{MTLS: &auth.MTLS{CAFile: file}})
			if err != nil {
				t.Fatal(err)
			}
			client, server := handshake(t, a, trusted, c.certificate)
			if client != nil || server == nil {
				if c.status != 0 {
					t.Errorf("handshake: %v", client)
				}
				return
			}
			if c.status == 0 {
				t.Fatal("the handshake went well")
			}
			trusted.write(t, file) // from now on the retired one is not trusted
			r := &receiver{}
			r.handler, err = ingest.New(ingest.Config{
				Store: &r.store, Auth: a, Logger: slog.New(slog.NewTextHandler(&r.log, nil)),
			})
			if err != nil {
				t.Fatal(err)
			}
			request := newPost(c.body)
			request.TLS = server
			if c.status == 200 {
				r.takes(t, request)
			} else {
				r.refuses(t, request, c.status, c.reason)
			}
		})
	}
}

// handshake connects a client with a certificate to a server with a's configuration. It returns the server's state, or
// the error of either side.
func handshake(t *testing.T, a *auth.Authenticator, ca *testCA, certificate *tls.Certificate) (error, *tls.ConnectionState) {
	t.Helper()
	cfg := &tls.Config{
		MinVersion: tls.VersionTLS12, Certificates: []tls.Certificate{*ca.issue(t, time.Now().Add(time.Hour), []string{endpoint})},
	}
	a.ConfigureTLS(cfg)
	listener, err := tls.Listen("tcp", "127.0.0.1:0", cfg)
	if err != nil {
		t.Fatal(err)
	}
	defer listener.Close()
	clientConfig := &tls.Config{InsecureSkipVerify: true} //nolint:gosec // the server is what is tested
	if certificate != nil {
		clientConfig.GetClientCertificate = func(*tls.CertificateRequestInfo) (*tls.Certificate, error) { return certificate, nil }
	}
	dialled := make(chan error, 1)
	go func() {
		conn, err := tls.Dial("tcp", listener.Addr().String(), clientConfig)
		if err == nil {
			defer conn.Close()
			_, err = conn.Read(make([]byte, 1))
		}
		dialled <- err
	}()
	conn, err := listener.Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer func() { conn.Close(); <-dialled }()
	if err := conn.(*tls.Conn).HandshakeContext(t.Context()); err != nil {
		return err, nil
	}
	state := conn.(*tls.Conn).ConnectionState()
	return nil, &state
}

func TestOpenEndpoint(t *testing.T) {
	a, err := auth.New(auth.Config{})
	if err != nil || !a.Open() {
		t.Fatal("not open", err)
	}
	r := newReceiver(t, auth.Config{})
	r.takes(t, newPost(frameOf(t, agent, event.Host{})))
	if err := (auth.Identity{}).MaySpeakFor(&event.Host{}); err == nil {
		t.Error("nobody may speak")
	}
}

func TestConfigurations(t *testing.T) {
	full := func() *auth.STS {
		return &auth.STS{Hosts: []string{stsHost}, Accounts: []string{account}, Roles: []string{"*"}}
	}
	change := func(f func(*auth.STS)) auth.Config {
		s := full()
		f(s)
		return auth.Config{Endpoints: []string{endpoint}, STS: s}
	}
	for name, cfg := range map[string]auth.Config{
		"no endpoint":     {STS: full()},
		"endpoint's port": {Endpoints: []string{endpoint + ":443"}},
		"no hosts":        change(func(s *auth.STS) { s.Hosts = nil }),
		"no accounts":     change(func(s *auth.STS) { s.Accounts = nil }),
		"no roles":        change(func(s *auth.STS) { s.Roles = nil }),
		"bad pattern":     change(func(s *auth.STS) { s.Roles = []string{"["} }),
		"URL as host":     change(func(s *auth.STS) { s.Hosts = []string{"https://" + stsHost} }),
		"no keys":         {Endpoints: []string{endpoint}, SigV4: &auth.SigV4{}},
		"key for nobody":  {Endpoints: []string{endpoint}, SigV4: &auth.SigV4{Keys: []auth.Key{{ID: "a", Secret: "b"}}}},
		"no CA":           {MTLS: &auth.MTLS{CAFile: "/nonexistent"}},
	} {
		if _, err := auth.New(cfg); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}
