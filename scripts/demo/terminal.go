package main

import (
	"os"
	"os/signal"
	"syscall"

	"golang.org/x/sys/unix"
)

// takeTerminal makes this process the one that Ctrl-C reaches, and returns how to give the terminal back. Without it
// make would be interrupted too, and report a failure where there was none.
func takeTerminal(terminal *os.File) (giveBack func()) {
	fd := int(terminal.Fd())
	before, err := unix.IoctlGetInt(fd, unix.TIOCGPGRP)
	if err != nil || before != unix.Getpgrp() { // no terminal, or another's turn
		return func() {}
	}
	// Whoever is in the background is stopped when it changes that, unless it ignores the signal.
	signal.Ignore(syscall.SIGTTOU)
	if unix.Setpgid(0, 0) != nil { // the leader of a session cannot
		return func() {}
	}
	if unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, unix.Getpgrp()) != nil {
		return func() {}
	}
	return func() { _ = unix.IoctlSetPointerInt(fd, unix.TIOCSPGRP, before) }
}
