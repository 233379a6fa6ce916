package store

import (
	"context"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"time"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/stream"
)

// leaveTimeout bounds the last commit of who is told to stop.
const leaveTimeout = time.Minute

// position is the state of a partition. Files are written in three steps, of which the second may be done by several
// replicas any number of times: the state gets the plan, the planned files are put, the state moves on. Whoever finds a
// plan finishes it before anything else, and whoever's state was changed by another has nothing to write.
type position struct {
	// Life is random, chosen with the first plan: files of a log that began anew never have the names of older ones.
	Life string `json:"life"`
	// Through is the log sequence up to which every event is in a visible file.
	Through uint64 `json:"through"`
	Plan    *plan  `json:"plan,omitempty"`
}

// plan has the files that are to hold the events behind position.Through.
type plan struct {
	Through uint64    `json:"through"` // with those of this sequence
	Files   []planned `json:"files"`
}

// planned is a file of a plan. One that is visible and has this size is complete.
type planned struct {
	Name string `json:"name"`
	Size int64  `json:"size"`
}

// partition is one turn at a partition. It is used by one goroutine.
type partition struct {
	*Store
	number   int
	key      string
	state    position
	revision uint64
}

func (s *Store) partition(n int) *partition {
	return &partition{Store: s, number: n, key: fmt.Sprintf("store-%d-position", n)}
}

// run works until ctx is done, something fails, or the log says that no more will come. After an error nothing of p is
// to be relied on: the state has to be loaded again.
func (p *partition) run(ctx context.Context) error {
	if err := p.load(ctx); err != nil {
		return err
	}
	if err := p.finish(ctx); err != nil {
		return err
	}
	return p.follow(ctx)
}

func (p *partition) load(ctx context.Context) error {
	value, revision, err := p.cfg.States.State(ctx, p.key)
	if err != nil {
		return fmt.Errorf("load state %s: %w", p.key, err)
	}
	p.revision = revision
	if value != nil {
		if err := json.Unmarshal(value, &p.state); err != nil {
			return fmt.Errorf("decode state %s: %w", p.key, err)
		}
		return nil
	}
	var life [4]byte
	if _, err := rand.Read(life[:]); err != nil {
		return fmt.Errorf("make state %s: %w", p.key, err)
	}
	p.state = position{Life: hex.EncodeToString(life[:])}
	return nil
}

func (p *partition) put(ctx context.Context, next position) error {
	value, err := json.Marshal(next)
	if err != nil {
		return fmt.Errorf("encode state %s: %w", p.key, err)
	}
	revision, err := p.cfg.States.PutState(ctx, p.key, value, p.revision)
	if err != nil {
		return fmt.Errorf("put state %s: %w", p.key, err)
	}
	p.state, p.revision = next, revision
	return nil
}

// follow turns what comes into files.
func (p *partition) follow(ctx context.Context) error {
	in := p.read(ctx, p.state.Through)
	defer in.stop()
	age := time.NewTimer(p.cfg.MaxFileAge)
	defer age.Stop()
	g := p.grow()
	defer func() { g.discard() }()
	for {
		last := false
		select {
		case m := <-in.messages:
			if g.through == 0 {
				age.Reset(p.cfg.MaxFileAge)
			}
			if err := g.add(m); err != nil {
				return err
			}
			if !g.full(p.cfg.MaxFileBytes) {
				continue
			}
		case <-age.C:
		case err := <-in.end:
			if ctx.Err() != nil {
				return p.leave(ctx, g)
			}
			if err != nil {
				return fmt.Errorf("read partition %d: %w", p.number, err)
			}
			last = true
		}
		if err := p.commit(ctx, g); err != nil || last {
			return err
		}
		g.discard()
		g = p.grow()
	}
}

// leave commits what was read when there is to be no more. Should another replica have the partition by now, that fails.
func (p *partition) leave(ctx context.Context, g *growth) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	return p.commit(ctx, g)
}

// commit makes what g has visible.
func (p *partition) commit(ctx context.Context, g *growth) error {
	if g.through == 0 {
		return nil
	}
	files, err := g.close(p.base(g.through))
	if err != nil {
		return err
	}
	if len(files) > 0 {
		next := p.state
		next.Plan = &plan{Through: g.through, Files: plannedOf(files)}
		if err := p.put(ctx, next); err != nil {
			return err
		}
		if err := p.upload(ctx, files); err != nil {
			return err
		}
	}
	return p.put(ctx, position{Life: p.state.Life, Through: g.through})
}

// base is what the names of the files of a plan have in common, behind their folders.
func (p *partition) base(through uint64) string {
	return fmt.Sprintf("%s-%02d-%020d-%020d.parquet", p.state.Life, p.number, p.state.Through+1, through)
}

func plannedOf(files []*file) []planned {
	list := make([]planned, len(files))
	for i, f := range files {
		list[i] = planned{Name: f.name, Size: f.written}
	}
	return list
}

func (p *partition) upload(ctx context.Context, files []*file) error {
	for _, f := range files {
		if err := p.bucket.Put(ctx, f.name, f.content()); err != nil {
			return err
		}
		p.files.Add(1)
		p.bytes.Add(uint64(f.written))
		p.events.Add(uint64(f.rows))
	}
	return nil
}

// finish does what is left of a plan. Files that are not there are made anew from the log: they have the same events
// under the same names, as the plan says where it ends.
func (p *partition) finish(ctx context.Context) error {
	if p.state.Plan == nil {
		return nil
	}
	missing := map[string]bool{}
	for _, f := range p.state.Plan.Files {
		size, err := p.bucket.Size(ctx, f.Name)
		if err != nil {
			return err
		}
		if size != f.Size {
			missing[f.Name] = true
		}
	}
	if len(missing) > 0 {
		if err := p.rebuild(ctx, missing); err != nil {
			return err
		}
	}
	return p.put(ctx, position{Life: p.state.Life, Through: p.state.Plan.Through})
}

func (p *partition) rebuild(ctx context.Context, missing map[string]bool) error {
	g := p.grow()
	defer g.discard()
	through := p.state.Plan.Through
	if err := p.readThrough(ctx, g, through); err != nil {
		return err
	}
	all, err := g.close(p.base(through))
	if err != nil {
		return err
	}
	next := p.state
	next.Plan = &plan{Through: through}
	for _, f := range p.state.Plan.Files {
		if !missing[f.Name] {
			next.Plan.Files = append(next.Plan.Files, f)
		}
	}
	var files []*file
	for _, f := range all {
		if missing[f.name] {
			files = append(files, f)
		}
	}
	if lost := len(missing) - len(files); lost > 0 {
		p.log.Warn("planned files have nothing in the log any more", "partition", p.number, "files", lost)
	}
	// What was learnt meanwhile may have changed their sizes.
	next.Plan.Files = append(next.Plan.Files, plannedOf(files)...)
	if err := p.put(ctx, next); err != nil {
		return err
	}
	return p.upload(ctx, files)
}

// readThrough reads again what a plan is of. It waits for a message at the plan's end, or behind it.
func (p *partition) readThrough(ctx context.Context, g *growth, through uint64) error {
	in := p.read(ctx, p.state.Through)
	defer in.stop()
	for g.through < through {
		select {
		case m := <-in.messages:
			if m.Sequence > through {
				return nil
			}
			if err := g.add(m); err != nil {
				return err
			}
		case err := <-in.end:
			if err != nil {
				return fmt.Errorf("read partition %d: %w", p.number, err)
			}
			return nil
		}
	}
	return nil
}

// reading is a read of the log that goes on beside.
type reading struct {
	messages <-chan stream.Message
	end      <-chan error // gets one value
	stop     func()
}

func (p *partition) read(ctx context.Context, after uint64) *reading {
	ctx, cancel := context.WithCancel(ctx)
	messages, end, done := make(chan stream.Message), make(chan error, 1), make(chan struct{})
	go func() {
		defer close(done)
		err := p.cfg.Log.ReadPartition(ctx, p.number, after, func(m stream.Message) error {
			select {
			case messages <- m:
				return nil
			case <-ctx.Done():
				return ctx.Err()
			}
		}, p.gap)
		if err == nil {
			err = ctx.Err()
		}
		end <- err
	}()
	return &reading{messages, end, func() { cancel(); <-done }}
}

func (p *partition) gap(discarded, damaged uint64) {
	p.discarded.Add(discarded)
	p.damaged.Add(damaged)
	p.log.Warn("the log could not give all: if discarded messages were of this partition, they are not stored",
		"partition", p.number, "discarded", discarded, "damaged", damaged)
}
