package auth

import (
	"crypto/sha256"
	"sync"
	"time"
)

// nonces remembers which requests there were, for as long as their dates are good. It forgets none earlier: when it is
// full, requests wait.
type nonces struct {
	max int

	mu    sync.Mutex
	count int                             // guarded by mu, as is until
	until map[int64]map[[16]byte]struct{} // by the minute after which they may be forgotten
}

func newNonces(maximum int) *nonces {
	return &nonces{max: maximum, until: make(map[int64]map[[16]byte]struct{})}
}

// use returns nil the first time that it is called with a key's nonce, until good is over.
func (n *nonces) use(key, nonce string, good, now time.Time) error {
	sum := sha256.Sum256([]byte(key + "\n" + nonce))
	id := [16]byte(sum[:16])
	n.mu.Lock()
	defer n.mu.Unlock()
	for minute, those := range n.until {
		if now.Unix()/60 > minute {
			n.count -= len(those)
			delete(n.until, minute)
		}
	}
	for _, those := range n.until {
		if _, seen := those[id]; seen {
			return unknown("request was sent before: its nonce is known")
		}
	}
	if n.count >= n.max {
		return later("too many signed requests in %v", 2*clockSkew)
	}
	minute := good.Unix() / 60
	if n.until[minute] == nil {
		n.until[minute] = make(map[[16]byte]struct{})
	}
	n.until[minute][id] = struct{}{}
	n.count++
	return nil
}
