package https

import (
	"fmt"
	"net/http"
	"testing"
	"time"
)

// Whatever the answer, it tells what time it is there.
func TestSkew(t *testing.T) {
	ca := newAuthority(t, "ca")
	date, code := "", http.StatusOK
	url := serve(t, ca.issue(t, nil), nil, func(w http.ResponseWriter, _ *http.Request) {
		w.Header()["Date"] = []string{date}
		w.WriteHeader(code)
		fmt.Fprint(w, `{"status":"stored"}`)
	})
	transport := newTransport(t, Config{URL: url, CAFile: ca.file(t, "")})
	if skew := transport.Skew(); skew != 0 {
		t.Errorf("%v before the first answer", skew)
	}
	for _, test := range []struct {
		code  int
		ahead time.Duration
	}{{200, 0}, {200, 10 * time.Minute}, {403, -10 * time.Minute}, {500, time.Hour}} {
		date, code = time.Now().Add(-test.ahead).UTC().Format(http.TimeFormat), test.code
		_ = transport.Send(t.Context(), []byte("frame")) // refused or not
		if off := (transport.Skew() - test.ahead).Abs(); off > time.Minute {
			t.Errorf("%d: %v, want about %v", test.code, transport.Skew(), test.ahead)
		}
	}
	for _, text := range []string{"", "yesterday"} {
		before := transport.Skew()
		date = text
		if err := transport.Check(t.Context()); transport.Skew() != before {
			t.Errorf("%v for the date %q (%v)", transport.Skew(), text, err)
		}
	}
}
