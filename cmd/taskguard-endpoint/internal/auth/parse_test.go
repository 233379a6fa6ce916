package auth

import (
	"encoding/base64"
	"net/url"
	"testing"
	"testing/synctest"
	"time"
)

func FuzzToken(f *testing.F) {
	now := time.Date(2026, 1, 2, 3, 4, 5, 0, time.UTC)
	const good = "https://sts/?Action=GetCallerIdentity&Version=2011-06-15&X-Amz-Algorithm=AWS4-HMAC-SHA256" +
		"&X-Amz-Credential=KEY%2F20260102%2Feu%2Fsts%2Faws4_request&X-Amz-Date=20260102T030405Z&X-Amz-Expires=900" +
		"&X-Amz-SignedHeaders=host%3Bx-taskguard-agent%3Bx-taskguard-endpoint" +
		"&X-Amz-Signature=0123456789abcdef0123456789abcdef0123456789abcdef0123456789abcdef"
	if _, err := parseToken(base64.RawURLEncoding.EncodeToString([]byte(good)), []string{"sts"}, now); err != nil {
		f.Fatal(err)
	}
	f.Add(good)
	f.Add("https://sts@evil/?x#")
	f.Fuzz(func(t *testing.T, text string) {
		parsed, err := parseToken(base64.RawURLEncoding.EncodeToString([]byte(text)), []string{"sts"}, now)
		if err != nil {
			return
		}
		u, err := url.Parse(parsed.url())
		if err != nil || u.Scheme != "https" || u.Host != "sts" || u.Path != "/" || u.User != nil ||
			u.Query().Get("Action") != "GetCallerIdentity" || parsed.expires.After(now.Add(clockSkew+maxExpiry*time.Second)) {
			t.Errorf("%q would ask %q", text, parsed.url())
		}
	})
}

func FuzzSignature(f *testing.F) {
	f.Add("Credential=K/20260102/eu/execute-api/aws4_request, SignedHeaders=host;x-amz-date, Signature=00")
	f.Fuzz(func(t *testing.T, text string) {
		s, err := parseSignature(text)
		if err == nil && (s.credential == "" || len(s.headers) > maxSignedHeaders || len(s.sum) != 64) {
			t.Errorf("%q is %+v", text, s)
		}
	})
}

func FuzzCaller(f *testing.F) {
	f.Add([]byte("<GetCallerIdentityResponse><GetCallerIdentityResult><Arn>arn:aws:sts::123456789012:assumed-role/r/i-0" +
		"</Arn><Account>123456789012</Account></GetCallerIdentityResult></GetCallerIdentityResponse>"))
	f.Fuzz(func(t *testing.T, body []byte) {
		c, err := parseCaller(body)
		if err == nil && (!accountID.MatchString(c.account) || c.role == "" || c.session == "") {
			t.Errorf("%q is %+v", body, c)
		}
	})
}

func TestCacheIsBoundedAndForgets(t *testing.T) {
	now := time.Unix(1000, 0)
	c := newCache(2)
	key := func(b byte) tokenKey { return tokenKey{b} }
	for b := range byte(3) {
		c.put(key(b), verdict{}, now.Add(time.Minute), now)
	}
	if _, ok := c.get(key(0), now); ok || len(c.byKey) != 2 || c.recent.Len() != 2 {
		t.Errorf("%d entries, the oldest %v: want 2 without it", len(c.byKey), ok)
	}
	if _, ok := c.get(key(2), now.Add(time.Minute)); ok || len(c.byKey) != 1 {
		t.Error("an expired verdict is good")
	}
	if c.put(key(9), verdict{}, now, now); len(c.byKey) != 1 {
		t.Error("keeps what has expired")
	}
}

// A nonce is known until the request's date is good no longer, and not much longer.
func TestNoncesAreForgotten(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNonces(1)
		good := time.Now().Add(2 * clockSkew)
		if err := n.use("k", "a", good, time.Now()); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * clockSkew)
		if n.use("k", "a", good, time.Now()) == nil {
			t.Error("replayed while its date is good")
		}
		time.Sleep(time.Minute)
		if err := n.use("k", "b", good, time.Now()); err != nil || n.count != 1 || len(n.until) != 1 {
			t.Errorf("%v, %d nonces: want room again", err, n.count)
		}
	})
}
