package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/url"
	"os"
	"path/filepath"

	"gocloud.dev/blob"
	_ "gocloud.dev/blob/fileblob" // file://
	_ "gocloud.dev/blob/s3blob"   // s3://
	"gocloud.dev/gcerrors"
)

// bucket is where files are visible.
type bucket interface {
	// Put makes a file visible, whole and on stable storage, or not at all.
	Put(ctx context.Context, name string, content io.Reader) error
	// Size returns the size of a file; -1 when there is none.
	Size(ctx context.Context, name string) (int64, error)
}

// contentType is that of Parquet files.
const contentType = "application/vnd.apache.parquet"

// blobs is a bucket of any kind.
type blobs struct {
	*blob.Bucket
	dir string // of a file:// bucket, its folder
}

// openBucket opens a bucket by its URL. That of a folder makes it.
func openBucket(ctx context.Context, text string) (*blobs, error) {
	u, err := url.Parse(text)
	if err != nil {
		return nil, fmt.Errorf("parse bucket's url: %w", err)
	}
	b := &blobs{}
	if u.Scheme == "file" {
		if u.Host != "" || u.Path == "" {
			return nil, fmt.Errorf("open bucket %s: want file:///FOLDER", u.Redacted())
		}
		q := u.Query()
		b.dir = filepath.Join(u.Path, q.Get("prefix"))
		q.Set("create_dir", "1")
		q.Set("no_tmp_dir", "1") // a rename across file systems is none
		q.Set("metadata", "skip")
		u.RawQuery = q.Encode()
	}
	if b.Bucket, err = blob.OpenBucket(ctx, u.String()); err != nil {
		return nil, fmt.Errorf("open bucket %s: %w", u.Redacted(), err)
	}
	return b, nil
}

func (b *blobs) Put(ctx context.Context, name string, content io.Reader) error {
	if err := b.write(ctx, name, content); err != nil {
		return fmt.Errorf("put %s: %w", name, err)
	}
	if b.dir == "" {
		return nil
	}
	// Renamed is not stored: the file, and the folders up to the bucket's own, each of which may be new.
	for path := filepath.Join(b.dir, filepath.FromSlash(name)); len(path) >= len(b.dir); path = filepath.Dir(path) {
		if err := syncPath(path); err != nil {
			return fmt.Errorf("put %s: %w", name, err)
		}
	}
	return nil
}

// write makes a file visible when all of it is written. A file is given up by ending the context before the writer is
// closed.
func (b *blobs) write(ctx context.Context, name string, content io.Reader) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	w, err := b.NewWriter(ctx, name, &blob.WriterOptions{ContentType: contentType})
	if err != nil {
		return err
	}
	if _, err := io.Copy(w, content); err != nil {
		cancel()
		w.Close()
		return err
	}
	return w.Close()
}

func syncPath(path string) error {
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	return errors.Join(f.Sync(), f.Close())
}

func (b *blobs) Size(ctx context.Context, name string) (int64, error) {
	attributes, err := b.Attributes(ctx, name)
	if gcerrors.Code(err) == gcerrors.NotFound {
		return -1, nil
	}
	if err != nil {
		return 0, fmt.Errorf("look at %s: %w", name, err)
	}
	return attributes.Size, nil
}
