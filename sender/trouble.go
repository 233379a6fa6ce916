package sender

import (
	"errors"
	"log/slog"
	"sync"
	"syscall"
)

// trouble logs a lasting problem when it begins or changes, and once when it is over.
type trouble struct {
	log  *slog.Logger
	over string // the message when it is

	mu   sync.Mutex
	text string // of the problem; empty when there is none; guarded by mu
}

func (t *trouble) troubled() bool {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.text != ""
}

// is notes the problem. It is the same as before when its text is.
func (t *trouble) is(text, message string, args ...any) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.text != text {
		t.log.Warn(message, args...)
	}
	t.text = text
}

func (t *trouble) isOver() {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.text != "" {
		t.log.Info(t.over)
	}
	t.text = ""
}

// rootText tells what is wrong without naming the file that it is wrong with.
func rootText(err error) string {
	var errno syscall.Errno
	if errors.As(err, &errno) {
		return errno.Error()
	}
	for next := errors.Unwrap(err); next != nil; next = errors.Unwrap(next) {
		err = next
	}
	return err.Error()
}
