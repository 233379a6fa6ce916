package main

import (
	"bytes"
	"io"
	"sync"
)

// prefixed writes whole lines, each behind a prefix, to what several share.
type prefixed struct {
	out    io.Writer
	prefix string
	lines  *sync.Mutex // of out
	begun  []byte      // a line without its end
}

func (p *prefixed) Write(text []byte) (int, error) {
	p.lines.Lock()
	defer p.lines.Unlock()
	p.begun = append(p.begun, text...)
	for {
		line, rest, found := bytes.Cut(p.begun, []byte{'\n'})
		if !found {
			return len(text), nil
		}
		if _, err := io.WriteString(p.out, p.prefix+string(line)+"\n"); err != nil {
			return 0, err
		}
		p.begun = rest
	}
}
