package ingest

import "net/http"

// Drain has GET /readyz answer 503 from now on, so that load balancers send agents elsewhere. Batches are still taken.
func (h *Handler) Drain() { h.draining.Store(true) }

// Live answers GET /healthz: 200 as long as the process answers at all.
func (h *Handler) Live(w http.ResponseWriter, _ *http.Request) {
	answer(w, http.StatusOK, map[string]string{"status": "ok"})
}

// CanStore answers GET /readyz: 200 when batches are taken and can be stored, or else 503 with the reason.
func (h *Handler) CanStore(w http.ResponseWriter, _ *http.Request) {
	if h.draining.Load() {
		answer(w, http.StatusServiceUnavailable, map[string]string{"error": "stopping"})
		return
	}
	if h.cfg.Ready != nil {
		if err := h.cfg.Ready(); err != nil {
			answer(w, http.StatusServiceUnavailable, map[string]string{"error": err.Error()})
			return
		}
	}
	answer(w, http.StatusOK, map[string]string{"status": "ready"})
}
