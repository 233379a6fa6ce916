package https

import (
	"net/http"
	"time"
)

// Skew returns by how much this host's clock was ahead of the receiver's at its last answer, to about a second; 0 before
// the first one.
func (t *Transport) Skew() time.Duration { return time.Duration(t.skew.Load()) }

// noteSkew takes the Date header of an answer that has just come.
func (t *Transport) noteSkew(date string) {
	if theirs, err := http.ParseTime(date); err == nil {
		t.skew.Store(int64(time.Since(theirs)))
	}
}
