package ingest

import (
	"encoding/json"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"time"
)

// busyFor is how long agents are told to wait when the endpoint cannot take a batch now.
const busyFor = 5 * time.Second

// refusal is an answer other than 200. Its reason is sent to the agent.
type refusal struct {
	status int
	reason string
	retry  time.Duration // unless 0, when to try again
	stored uint32        // with 409: how many events of the batch are stored
}

func (r *refusal) Error() string { return r.reason }

func refuse(status int, format string, args ...any) *refusal {
	return &refusal{status: status, reason: fmt.Sprintf(format, args...)}
}

func tooLarge(format string, args ...any) *refusal {
	return refuse(http.StatusRequestEntityTooLarge, format, args...)
}

func malformed(err error) *refusal { return refuse(http.StatusBadRequest, "%v", err) }

func busy(reason string) *refusal {
	return &refusal{status: http.StatusServiceUnavailable, reason: reason, retry: busyFor}
}

func tooMany(wait time.Duration) *refusal {
	return &refusal{status: http.StatusTooManyRequests, reason: "too many batches of this agent", retry: wait}
}

func conflict(reason string, stored uint32) *refusal {
	return &refusal{status: http.StatusConflict, reason: reason, stored: stored}
}

func (h *Handler) refuse(w http.ResponseWriter, r *http.Request, err error) {
	why := &refusal{status: http.StatusInternalServerError, reason: "internal error"}
	errors.As(err, &why)
	h.counts.refused(why.status)
	h.report.refusal(why, r.RemoteAddr)
	if why.retry > 0 {
		w.Header().Set("Retry-After", strconv.Itoa(int(math.Ceil(why.retry.Seconds()))))
	}
	if why.status == http.StatusConflict {
		w.Header().Set("Taskguard-Stored", strconv.FormatUint(uint64(why.stored), 10))
	}
	answer(w, why.status, map[string]string{"error": why.reason})
}

func answer(w http.ResponseWriter, status int, body map[string]string) {
	w.Header().Set("Content-Type", "application/json")
	w.WriteHeader(status)
	_ = json.NewEncoder(w).Encode(body) // the client is gone if this fails
}
