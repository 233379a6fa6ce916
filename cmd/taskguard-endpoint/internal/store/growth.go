package store

import (
	"cmp"
	"fmt"
	"io"
	"maps"
	"os"
	"slices"
	"strings"
	"time"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/ocsf"
	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/stream"
	"github.com/taskguard/taskguard/collector/event"
)

const (
	// rowGroupBytes bounds the rows of a partition that are in memory, before compression, but for the last one.
	rowGroupBytes = 16 << 20
	// maxFiles is how many files a plan has at most but for those of its last batch, which has one for each class.
	maxFiles = 64
	// maxFolderName bounds what an agent says its account or region is.
	maxFolderName = 32
)

// growth is the files of the next plan while they grow.
type growth struct {
	p        *partition
	files    map[string]*file // by folder
	through  uint64           // the sequence of the last message in it
	buffered int64            // bytes of rows in memory
}

func (p *partition) grow() *growth { return &growth{p: p, files: map[string]*file{}} }

// file is one of them. It has no name yet where it is.
type file struct {
	name    string // in the bucket
	temp    *os.File
	w       rows
	written int64
	rows    int64
}

// add puts the events of a message into the file of their folder.
func (g *growth) add(m stream.Message) error {
	g.through = m.Sequence
	if len(m.Batch.Events) == 0 {
		return nil
	}
	for i := range m.Batch.Events {
		row, err := ocsf.From(m.Batch, i)
		if err != nil {
			return err
		}
		f, err := g.file(folder(row.Of().Name, &m.Batch.Host, m.Stored), row)
		if err != nil {
			return err
		}
		if err := f.w.write(row); err != nil {
			return fmt.Errorf("write parquet: %w", err)
		}
		f.rows++
		if g.buffered += sizeOf(row); g.buffered >= g.p.inMemory {
			if err := g.flush(); err != nil {
				return err
			}
		}
	}
	return nil
}

// flush ends the row groups of all files.
func (g *growth) flush() error {
	for _, f := range g.files {
		if err := f.w.Flush(); err != nil {
			return fmt.Errorf("write parquet: %w", err)
		}
	}
	g.buffered = 0
	return nil
}

// full reports whether it is time for a plan. What is in memory counts as it is before compression.
func (g *growth) full(limit int64) bool {
	size := g.buffered
	for _, f := range g.files {
		size += f.written
	}
	return size >= limit || len(g.files) >= maxFiles
}

// file returns the file of a folder, which one row of its class says how to make.
func (g *growth) file(folder string, of ocsf.Row) (*file, error) {
	if f := g.files[folder]; f != nil {
		return f, nil
	}
	temp, err := os.CreateTemp(g.p.cfg.Dir, "taskguard-store-*")
	if err != nil {
		return nil, fmt.Errorf("make file to grow: %w", err)
	}
	if err := os.Remove(temp.Name()); err != nil {
		temp.Close()
		return nil, fmt.Errorf("unlink file to grow: %w", err)
	}
	f := &file{temp: temp}
	f.w = newRows(of, f, g.p.codec)
	g.files[folder] = f
	return f, nil
}

// Write implements io.Writer for the Parquet writer.
func (f *file) Write(data []byte) (int, error) {
	n, err := f.temp.Write(data)
	f.written += int64(n)
	return n, err
}

// content reads the file from its beginning.
func (f *file) content() io.Reader { return io.NewSectionReader(f.temp, 0, f.written) }

// close ends the files, names them, and returns them in the order of their names.
func (g *growth) close(base string) ([]*file, error) {
	for folder, f := range g.files {
		if err := f.w.Close(); err != nil {
			return nil, fmt.Errorf("end parquet: %w", err)
		}
		f.name = folder + "/" + base
	}
	return slices.SortedFunc(maps.Values(g.files), func(a, b *file) int { return cmp.Compare(a.name, b.name) }), nil
}

// discard lets go of the files where they grew.
func (g *growth) discard() {
	for _, f := range g.files {
		f.temp.Close()
	}
	clear(g.files)
}

// folder is where the events of a class and batch go: by the account and region of the host, and by the day and hour in
// which the endpoint stored the batch. By the time of the events an agent whose clock is wrong could fill any folder.
func folder(class string, h *event.Host, stored time.Time) string {
	t := stored.UTC()
	return fmt.Sprintf("%s/account=%s/region=%s/day=%s/hour=%02d", class, folderName(h.AccountID), folderName(h.Region),
		t.Format(time.DateOnly), t.Hour())
}

// folderName is what an agent says its account or region is, if it can be one.
func folderName(s string) string {
	strange := func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < '0' || r > '9') && r != '-'
	}
	if s == "" || len(s) > maxFolderName || strings.ContainsFunc(s, strange) {
		return "unknown"
	}
	return s
}
