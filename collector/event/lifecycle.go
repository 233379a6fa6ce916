package event

import "time"

// Exec holds the fields of container.exec: what the container engine started in a container that runs.
type Exec struct {
	ExecID string `json:"exec_id,omitempty"` // the engine's, by which it is asked about it
	// Command is the program with its arguments; secrets in it are masked.
	Command    Argv   `json:"command,omitzero"`
	User       string `json:"user,omitempty"` // as given; empty is the container's
	Privileged bool   `json:"privileged,omitempty"`

	// Unverified says that the engine could not be asked: Command is its line of text split at spaces, User and
	// Privileged are not known, and where there is a secret in the line, all behind it is left out.
	Unverified bool `json:"unverified,omitempty"`
	Truncated  bool `json:"truncated,omitempty"` // Command was cut
}

// Stop holds the fields of container.stop: how a container ended. Event.Time is when.
type Stop struct {
	// ExitCode is that of the container's first process, or 128 and the signal that ended it. It is unknown where the
	// container has a label that takes its place in what the engine says.
	ExitCode Optional[uint32] `json:"exit_code,omitzero"`
	// Signal is the last one that the engine was asked to send, if ExitCode says that it is what ended the container.
	Signal uint8 `json:"signal,omitempty"`
	// OOMKilled says that the kernel had ended a process of the container since its start, for want of memory; if it is
	// not set, the engine had not said so by two seconds after the end.
	OOMKilled bool      `json:"oom_killed,omitempty"`
	StartedAt time.Time `json:"started_at,omitzero"` // the last time, by the engine's clock
}
