package store

import (
	"fmt"
	"io"

	"github.com/parquet-go/parquet-go"
	"github.com/parquet-go/parquet-go/compress"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/ocsf"
)

// pageBytes is the size of the pages of a column, for each of which a writer has memory from its first row on.
const pageBytes = 8 << 10

// rows writes rows of one class.
type rows interface {
	write(r ocsf.Row) error
	Flush() error
	Close() error
}

// newRows returns the writer of a row's class.
func newRows(r ocsf.Row, to io.Writer, codec compress.Codec) rows {
	switch r.(type) {
	case *ocsf.FileActivity:
		return newWriter[ocsf.FileActivity](to, codec)
	case *ocsf.KernelExtension:
		return newWriter[ocsf.KernelExtension](to, codec)
	case *ocsf.KernelActivity:
		return newWriter[ocsf.KernelActivity](to, codec)
	case *ocsf.MemoryActivity:
		return newWriter[ocsf.MemoryActivity](to, codec)
	case *ocsf.ModuleActivity:
		return newWriter[ocsf.ModuleActivity](to, codec)
	case *ocsf.ProcessActivity:
		return newWriter[ocsf.ProcessActivity](to, codec)
	case *ocsf.NetworkActivity:
		return newWriter[ocsf.NetworkActivity](to, codec)
	case *ocsf.DNSActivity:
		return newWriter[ocsf.DNSActivity](to, codec)
	}
	return newWriter[ocsf.ApplicationLifecycle](to, codec)
}

// writer writes rows of type T.
type writer[T any] struct {
	*parquet.GenericWriter[T]
	one []T
}

func newWriter[T any](to io.Writer, codec compress.Codec) *writer[T] {
	return &writer[T]{
		parquet.NewGenericWriter[T](to, parquet.Compression(codec), parquet.CreatedBy("taskguard", "", ""), parquet.PageBufferSize(pageBytes)), make([]T, 1),
	}
}

func (w *writer[T]) write(r ocsf.Row) error {
	row, ok := r.(any).(*T)
	if !ok {
		return fmt.Errorf("row of class %s in a file of another", r.Of().Name)
	}
	w.one[0] = *row
	_, err := w.Write(w.one)
	return err
}

// sizeOf is about how many bytes a row takes in memory.
func sizeOf(r ocsf.Row) int64 { return 512 + 2*int64(len(ocsf.Head(r).Unmapped)) }
