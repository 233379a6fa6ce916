package auth

import (
	"crypto/hmac"
	"crypto/sha256"
	"crypto/subtle"
	"encoding/hex"
	"errors"
	"fmt"
	"net/http"
	"slices"
	"strconv"
	"strings"
	"time"
)

// SigV4 says whose signed requests are taken.
type SigV4 struct {
	// Service is the one that requests are signed for. "" means execute-api.
	Service string
	// Keys are the keys that are known here. One at least.
	Keys []Key
	// MaxNonces bounds the requests that are remembered, each for 10 minutes at most, so that none is taken twice; over
	// it the answer is 503. Some 60 bytes each. 0 means 1,048,576: what 1,700 agents send.
	MaxNonces int
}

// Key is an access key and for whom its owner may speak: an account, an instance, or an instance of an account.
type Key struct{ ID, Secret, Account, Instance string }

// NonceHeader holds 16 random bytes in hex, new for each signed request.
const NonceHeader = "Taskguard-Nonce"

const (
	defaultService   = "execute-api"
	defaultMaxNonces = 1 << 20
	nonceDigits      = 32
	// maxSignedHeaders bounds the headers that a signature is over.
	maxSignedHeaders = 32
)

// mustBeSigned are the headers that a signature has to be over.
var mustBeSigned = []string{"host", "taskguard-agent", "taskguard-nonce", "x-amz-date"}

type sigv4Verifier struct {
	service string
	keys    map[string]Key
	nonces  *nonces
}

func newSigV4(cfg SigV4) (*sigv4Verifier, error) {
	if cfg.Service == "" {
		cfg.Service = defaultService
	}
	if cfg.MaxNonces == 0 {
		cfg.MaxNonces = defaultMaxNonces
	}
	if len(cfg.Keys) == 0 || cfg.MaxNonces < 0 {
		return nil, errors.New("no key: want the access keys that are known here")
	}
	v := &sigv4Verifier{service: cfg.Service, keys: make(map[string]Key), nonces: newNonces(cfg.MaxNonces)}
	for _, key := range cfg.Keys {
		switch _, twice := v.keys[key.ID]; {
		case key.ID == "" || key.Secret == "":
			return nil, errors.New("key without an id or a secret")
		case twice:
			return nil, fmt.Errorf("key %s is there twice", key.ID)
		case key.Account == "" && key.Instance == "":
			return nil, fmt.Errorf("key %s: want the account or the instance that it speaks for", key.ID)
		case key.Account != "" && !accountID.MatchString(key.Account):
			return nil, fmt.Errorf("key %s: account %q: want 12 digits", key.ID, key.Account)
		case key.Instance != "" && !instanceID.MatchString(key.Instance):
			return nil, fmt.Errorf("key %s: instance %q: want an EC2 instance id", key.ID, key.Instance)
		}
		v.keys[key.ID] = key
	}
	return v, nil
}

// signature is an Authorization header of AWS4-HMAC-SHA256 behind the algorithm's name.
type signature struct {
	credential string
	headers    []string // sorted, in lower case
	sum        string
}

func parseSignature(text string) (signature, error) {
	fields := map[string]string{}
	for part := range strings.SplitSeq(text, ",") {
		name, value, ok := strings.Cut(strings.TrimSpace(part), "=")
		if _, twice := fields[name]; !ok || twice || len(fields) == 3 {
			return signature{}, unknown("signature: want Credential=, SignedHeaders= and Signature=, once each")
		}
		fields[name] = value
	}
	s := signature{fields["Credential"], strings.Split(fields["SignedHeaders"], ";"), fields["Signature"]}
	switch {
	case len(fields) != 3 || s.credential == "":
		return signature{}, unknown("signature: want Credential=, SignedHeaders= and Signature=, once each")
	case !isHex(s.sum, sha256.Size*2):
		return signature{}, unknown("signature: want 64 hex digits")
	case len(s.headers) > maxSignedHeaders:
		return signature{}, unknown("signature over %d headers: want at most %d", len(s.headers), maxSignedHeaders)
	}
	for i, name := range s.headers {
		if name == "" || name != strings.ToLower(name) || i > 0 && s.headers[i-1] >= name {
			return signature{}, unknown("signature: want signed headers in order and in lower case")
		}
	}
	for _, name := range mustBeSigned {
		if !slices.Contains(s.headers, name) {
			return signature{}, unknown("signature is not over header %s", name)
		}
	}
	return s, nil
}

// verify returns whose signature a request has.
func (v *sigv4Verifier) verify(r *http.Request, text string, body []byte, now time.Time) (Identity, error) {
	signed, err := parseSignature(text)
	if err != nil {
		return Identity{}, err
	}
	date, err := v.date(r, now)
	if err != nil {
		return Identity{}, err
	}
	credential, err := parseScope(signed.credential, v.service, date)
	if err != nil {
		return Identity{}, err
	}
	key, ok := v.keys[credential.key]
	if !ok {
		return Identity{}, unknown("access key %q is not known here", credential.key)
	}
	nonce, err := one(r.Header, NonceHeader)
	if err != nil {
		return Identity{}, err
	}
	if !isHex(nonce, nonceDigits) {
		return Identity{}, unknown("header %s: want %d hex digits", NonceHeader, nonceDigits)
	}
	canonical, err := canonicalRequest(r, signed.headers, body)
	if err != nil {
		return Identity{}, err
	}
	want := sign(key.Secret, credential, date, canonical)
	if subtle.ConstantTimeCompare([]byte(want), []byte(signed.sum)) != 1 {
		return Identity{}, unknown("signature by key %s does not match the request", key.ID)
	}
	// Only now: nobody but a key's owner can have anything remembered.
	if err := v.nonces.use(key.ID, nonce, date.Add(clockSkew), now); err != nil {
		return Identity{}, err
	}
	return Identity{Mode: ModeSigV4, Account: key.Account, Instance: key.Instance, Principal: "access key " + key.ID}, nil
}

func (v *sigv4Verifier) date(r *http.Request, now time.Time) (time.Time, error) {
	text, err := one(r.Header, "X-Amz-Date")
	if err != nil {
		return time.Time{}, err
	}
	date, err := time.Parse(amzTime, text)
	if err != nil {
		return time.Time{}, unknown("X-Amz-Date: want the form %s", amzTime)
	}
	if off := now.Sub(date); off >= clockSkew || off <= -clockSkew {
		return time.Time{}, unknown("request of %s: its time is more than %v off, set the agent's clock", text, clockSkew)
	}
	return date, nil
}

// canonicalRequest is what was signed. Paths that would need escaping and queries are none of ours.
func canonicalRequest(r *http.Request, headers []string, body []byte) (string, error) {
	if r.URL.RawQuery != "" || r.URL.ForceQuery || strings.ContainsAny(r.URL.EscapedPath(), "%:@!$&'()*+,;=") {
		return "", unknown("signed request with a query or an escaped path")
	}
	claimed, err := one(r.Header, "X-Amz-Content-Sha256")
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(body)
	digest := hex.EncodeToString(sum[:])
	if claimed != digest {
		return "", unknown("body is not the one that was signed: its SHA-256 is another")
	}
	if r.Header.Get("X-Amz-Security-Token") != "" && !slices.Contains(headers, "x-amz-security-token") {
		return "", unknown("signature is not over header x-amz-security-token")
	}
	var out strings.Builder
	fmt.Fprintf(&out, "%s\n%s\n\n", r.Method, r.URL.EscapedPath())
	for _, name := range headers {
		values := headerValues(r, name)
		if len(values) == 0 {
			return "", unknown("signed header %q is missing", name)
		}
		for i, value := range values {
			values[i] = strings.Join(strings.Fields(value), " ")
		}
		fmt.Fprintf(&out, "%s:%s\n", name, strings.Join(values, ","))
	}
	fmt.Fprintf(&out, "\n%s\n%s", strings.Join(headers, ";"), digest)
	return out.String(), nil
}

// headerValues are a header's values, in a slice of the caller's, also of those that net/http takes out.
func headerValues(r *http.Request, name string) []string {
	switch name {
	case "host":
		return []string{r.Host}
	case "content-length":
		return []string{strconv.FormatInt(r.ContentLength, 10)}
	}
	return slices.Clone(r.Header.Values(name))
}

// sign returns the signature over a canonical request.
func sign(secret string, s scope, date time.Time, canonical string) string {
	sum := sha256.Sum256([]byte(canonical))
	text := strings.Join([]string{sigv4Algorithm, date.Format(amzTime), s.String(), hex.EncodeToString(sum[:])}, "\n")
	key := []byte("AWS4" + secret)
	for _, part := range []string{s.day, s.region, s.service, "aws4_request", text} {
		mac := hmac.New(sha256.New, key)
		mac.Write([]byte(part))
		key = mac.Sum(nil)
	}
	return hex.EncodeToString(key)
}
