package store

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path"
	"strings"
	"time"

	"github.com/parquet-go/parquet-go"
	"gocloud.dev/blob"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/ocsf"
	"github.com/taskguard/taskguard/collector/event"
)

// clockSlack is how far a host's clock may be ahead of the endpoint's for Events to find what it told.
const clockSlack = 5 * time.Minute

// Events gives fn the events of the files in a bucket, in the order of their folders: by class, account, region
// and hour. It
// leaves out hours that ended before since, which is not to say that no event from before it is given. It ends with the
// first error of fn. Of the bucket's files one at a time is on this machine, without a name, in os.TempDir.
func Events(ctx context.Context, url string, since time.Time, fn func(*event.Event) error) error {
	b, err := openBucket(ctx, url)
	if err != nil {
		return err
	}
	return errors.Join(b.events(ctx, since, fn), b.Close())
}

func (b *blobs) events(ctx context.Context, since time.Time, fn func(*event.Event) error) error {
	list := b.List(nil)
	for {
		o, err := list.Next(ctx)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return fmt.Errorf("list bucket: %w", err)
		}
		if !wanted(o, since) {
			continue
		}
		if err := b.readFile(ctx, o.Key, fn); err != nil {
			return fmt.Errorf("read %s: %w", o.Key, err)
		}
	}
}

// wanted reports whether an object is a file of the store with events from since on.
func wanted(o *blob.ListObject, since time.Time) bool {
	if !strings.HasSuffix(o.Key, ".parquet") || o.IsDir {
		return false
	}
	hour := path.Base(path.Dir(o.Key))
	day := path.Base(path.Dir(path.Dir(o.Key)))
	t, err := time.Parse("day="+time.DateOnly+"/hour=15", day+"/"+hour)
	return err == nil && (since.IsZero() || t.Add(time.Hour+clockSlack).After(since))
}

func (b *blobs) readFile(ctx context.Context, name string, fn func(*event.Event) error) error {
	temp, err := os.CreateTemp("", "taskguard-events-*")
	if err != nil {
		return err
	}
	defer temp.Close()
	if err := os.Remove(temp.Name()); err != nil {
		return err
	}
	if err := b.Download(ctx, name, temp, nil); err != nil {
		return err
	}
	rows := parquet.NewGenericReader[original](temp)
	defer rows.Close()
	buf := make([]original, 64)
	for {
		n, err := rows.Read(buf)
		for i := range buf[:n] {
			if ctx.Err() != nil {
				return ctx.Err()
			}
			if err := buf[i].give(fn); err != nil {
				return err
			}
		}
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
	}
}

// original is what of a row is needed to have its event back.
type original struct {
	Unmapped ocsf.Object `parquet:"unmapped,json"`
}

func (r *original) give(fn func(*event.Event) error) error {
	e, err := r.Unmapped.Event()
	if err != nil {
		return err
	}
	return fn(e)
}
