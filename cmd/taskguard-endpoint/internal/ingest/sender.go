package ingest

import (
	"errors"
	"net/http"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/auth"
	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch"
)

// sender is who sends a request, as far as anybody was asked.
type sender struct {
	asked bool
	id    auth.Identity
	agent string // of the header
}

func (h *Handler) authenticate(r *http.Request, body []byte) (sender, error) {
	if h.cfg.Auth == nil {
		return sender{}, nil
	}
	id, err := h.cfg.Auth.Authenticate(r, body)
	if err != nil {
		return sender{}, refused(err)
	}
	return sender{asked: id.Mode != auth.ModeOpen, id: id, agent: r.Header.Get(auth.AgentHeader)}, nil
}

// isAgent says whether the sender said beforehand, where it proves who it is, that it is this agent.
func (s sender) isAgent(agent event.ID) error {
	if s.asked && agent.String() != s.agent {
		return refuse(http.StatusForbidden, "%s sends a batch of agent %s as agent %s", s.id.Principal, agent, s.agent)
	}
	return nil
}

// maySend says whether a batch with this header may come from the sender.
func (s sender) maySend(h *batch.Header) error {
	if !s.asked {
		return nil
	}
	if err := s.isAgent(h.ID.Agent); err != nil {
		return err
	}
	if err := s.id.MaySpeakFor(&h.Host); err != nil {
		return refused(err)
	}
	return nil
}

// refused is an authenticator's error as an answer.
func refused(err error) error {
	var why *auth.Refusal
	if !errors.As(err, &why) {
		return err
	}
	if why.Status == http.StatusServiceUnavailable {
		return busy(why.Reason)
	}
	return refuse(why.Status, "%s", why.Reason)
}
