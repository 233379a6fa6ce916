package auth

import (
	"encoding/base64"
	"net/url"
	"slices"
	"strconv"
	"strings"
	"time"
)

const (
	stsScheme = "TaskGuard-STS"
	// maxToken bounds a token in bytes: a session token alone may have some 4 KiB.
	maxToken = 12 << 10
	// maxExpiry is how long a presigned URL may be good for, in seconds.
	maxExpiry = 900
	// signedHeaders are what agents sign, no less and no more.
	signedHeaders  = "host;x-taskguard-agent;x-taskguard-endpoint"
	amzTime        = "20060102T150405Z"
	amzDay         = "20060102"
	sigv4Algorithm = "AWS4-HMAC-SHA256"
)

// token is a presigned URL of GetCallerIdentity, in a form of ours.
type token struct {
	host    string // one of the allowed ones
	query   url.Values
	expires time.Time
}

// url is what is asked: made here, so that nothing that was not understood gets to anybody.
func (t *token) url() string { return "https://" + t.host + "/?" + t.query.Encode() }

// tokenParameters are the query parameters of a token, each to be there once; the session token may be missing.
var tokenParameters = []string{
	"Action", "Version", "X-Amz-Algorithm", "X-Amz-Credential", "X-Amz-Date", "X-Amz-Expires", "X-Amz-Security-Token",
	"X-Amz-SignedHeaders", "X-Amz-Signature",
}

// parseToken reads what an agent sends behind the scheme, for one of hosts, at the time now.
func parseToken(text string, hosts []string, now time.Time) (*token, error) {
	if len(text) > maxToken {
		return nil, unknown("sts token of %d bytes: want at most %d", len(text), maxToken)
	}
	raw, err := base64.RawURLEncoding.Strict().DecodeString(strings.TrimRight(text, "="))
	if err != nil {
		return nil, unknown("sts token is no base64url")
	}
	u, err := url.Parse(string(raw))
	switch {
	case err != nil:
		return nil, unknown("sts token is no URL")
	case u.Scheme != "https" || u.Opaque != "":
		return nil, unknown("sts token: want an https URL")
	case u.User != nil:
		return nil, unknown("sts token: URL has a user")
	case !slices.Contains(hosts, u.Host):
		return nil, unknown("sts token: host %q is no STS host that is allowed here", u.Host)
	case u.Path != "/" && u.Path != "" || u.RawPath != "":
		return nil, unknown("sts token: want the path /")
	case u.Fragment != "" || strings.Contains(string(raw), "#"):
		return nil, unknown("sts token: URL has a fragment")
	}
	query, err := url.ParseQuery(u.RawQuery)
	if err != nil {
		return nil, unknown("sts token: URL has a malformed query")
	}
	expires, err := checkQuery(query, now)
	if err != nil {
		return nil, err
	}
	return &token{host: u.Host, query: query, expires: expires}, nil
}

// checkQuery returns until when a presigned query is good.
func checkQuery(query url.Values, now time.Time) (time.Time, error) {
	for name, values := range query {
		if !slices.Contains(tokenParameters, name) {
			return time.Time{}, unknown("sts token: parameter %q", name)
		}
		if len(values) != 1 {
			return time.Time{}, unknown("sts token: parameter %s is there %d times", name, len(values))
		}
	}
	for name, want := range map[string]string{
		"Action": "GetCallerIdentity", "Version": "2011-06-15", "X-Amz-Algorithm": sigv4Algorithm,
		"X-Amz-SignedHeaders": signedHeaders,
	} {
		if got := query.Get(name); got != want {
			return time.Time{}, unknown("sts token: %s is %q, want %s", name, got, want)
		}
	}
	if !isHex(query.Get("X-Amz-Signature"), 64) {
		return time.Time{}, unknown("sts token: X-Amz-Signature: want 64 hex digits")
	}
	date, err := time.Parse(amzTime, query.Get("X-Amz-Date"))
	if err != nil {
		return time.Time{}, unknown("sts token: X-Amz-Date: want the form %s", amzTime)
	}
	if _, err := parseScope(query.Get("X-Amz-Credential"), "sts", date); err != nil {
		return time.Time{}, err
	}
	seconds, err := strconv.ParseUint(query.Get("X-Amz-Expires"), 10, 16)
	if err != nil || seconds == 0 || seconds > maxExpiry {
		return time.Time{}, unknown("sts token: X-Amz-Expires: want 1 to %d seconds", maxExpiry)
	}
	expires := date.Add(time.Duration(seconds) * time.Second)
	switch {
	case !now.Before(expires):
		return time.Time{}, unknown("sts token expired at %s", expires.Format(time.RFC3339))
	case date.After(now.Add(clockSkew)):
		return time.Time{}, unknown("sts token is of %s: set the agent's clock", date.Format(time.RFC3339))
	}
	return expires, nil
}

// scope is a credential scope, such as AKIA.../20260102/eu-central-1/sts/aws4_request.
type scope struct{ key, day, region, service string }

func (s scope) String() string {
	return strings.Join([]string{s.day, s.region, s.service, "aws4_request"}, "/")
}

func parseScope(text, service string, date time.Time) (scope, error) {
	parts := strings.Split(text, "/")
	if len(parts) != 5 || parts[0] == "" || parts[2] == "" {
		return scope{}, unknown("credential: want KEY/DAY/REGION/%s/aws4_request", service)
	}
	if parts[1] != date.Format(amzDay) {
		return scope{}, unknown("credential of day %q: want that of the date, %s", parts[1], date.Format(amzDay))
	}
	if parts[3] != service || parts[4] != "aws4_request" {
		return scope{}, unknown("credential for service %q: want %s", parts[3], service)
	}
	return scope{key: parts[0], day: parts[1], region: parts[2], service: service}, nil
}

// isHex reports whether s is n hex digits in lower case.
func isHex(s string, n int) bool {
	return len(s) == n && strings.Trim(s, "0123456789abcdef") == ""
}
