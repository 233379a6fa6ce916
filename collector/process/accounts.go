package process

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"sync"
	"time"
	"unique"

	"golang.org/x/sys/unix"
)

// Accounts knows what users and groups are called where a process runs: by /etc/passwd and /etc/group as the process
// itself sees them, which in a container are the container's own. They are read in the background, by any process of the
// container that is still there, and again when an id is not in them.
//
// It promises: Note and the two that look names up do no I/O and wait for nobody; no file of a container is followed out
// of it, none that is not a regular file is opened, and no more is read of one than maxAccountsFile; and no more is kept
// than AccountsConfig says.
type Accounts struct {
	cfg   AccountsConfig
	queue chan view

	mu     sync.Mutex
	places map[string]*place // by container id; "" is the host
	kept   map[names]int     // how many places have what is read
	bytes  int               // of that
	stats  AccountsStats
}

// AccountsConfig bounds an Accounts. A zero field has the default given with it.
type AccountsConfig struct {
	ProcRoot  string // /proc
	MaxPlaces int    // 4,096: containers
	MaxNames  int    // 4,096: of a container, users and groups each
	MaxBytes  int    // 4 MiB: of the names of all containers, what is alike counted once
}

// AccountsStats counts since NewAccounts, but for the first two, which are as of now.
type AccountsStats struct {
	Places   int    `json:"places"`
	Bytes    int    `json:"bytes"`    // of names
	Read     uint64 `json:"read"`     // times that the files of a place were read
	Vanished uint64 `json:"vanished"` // times that the process had gone by then
	Failed   uint64 `json:"failed"`
	Evicted  uint64 `json:"evicted"` // places forgotten to make room for others
}

const (
	maxAccountsFile = 1 << 20
	maxAccountName  = 64               // bytes
	accountsAgain   = 30 * time.Second // before the files of a place are read again
	maxViews        = 256              // processes that wait to be looked through
	maxReaders      = 4                // places that are read at a time
)

// place is where ids have names.
type place struct {
	users, groups names
	waiting       bool // for the reader
	readAt        time.Time
	view          view // the newest process seen in it
}

// names are what ids are called: a line "ID:NAME" for each. Containers of one image have the same, and share them. The
// zero names were not read yet.
type names struct{ lines unique.Handle[string] }

func (n names) read() bool { return n != names{} }

// of returns the name of an id.
func (n names) of(id uint32) (name string, ok bool) {
	if !n.read() {
		return "", false
	}
	prefix := strconv.FormatUint(uint64(id), 10) + ":"
	for line := range strings.Lines(n.lines.Value()) {
		if name, ok := strings.CutPrefix(line, prefix); ok {
			return strings.TrimSuffix(name, "\n"), true
		}
	}
	return "", false
}

// view is a process through which a container can be seen.
type view struct {
	container string
	pid       uint32
	start     uint64
}

// NewAccounts returns one that knows nothing yet: call Run.
func NewAccounts(cfg AccountsConfig) *Accounts {
	setDefault(&cfg.ProcRoot, "/proc")
	setDefault(&cfg.MaxPlaces, 4096)
	setDefault(&cfg.MaxNames, 4096)
	setDefault(&cfg.MaxBytes, 4<<20)
	return &Accounts{cfg: cfg, queue: make(chan view, maxViews), places: make(map[string]*place), kept: make(map[names]int)}
}

// Note tells of a process that runs in a container, "" for the host: its files are read through it, if they were not.
// start is when it started, in nanoseconds since boot.
func (a *Accounts) Note(container string, pid uint32, start uint64) {
	a.mu.Lock()
	defer a.mu.Unlock()
	p, ok := a.places[container]
	if !ok {
		if len(a.places) >= a.cfg.MaxPlaces {
			a.evict(container)
		}
		p = &place{}
		a.places[container] = p
	}
	p.view = view{container, pid, start}
	if !p.users.read() {
		a.want(p)
	}
}

// want has the files of a place read, unless they were a moment ago or the reader has enough to do: then a later process
// asks again. a.mu is held.
func (a *Accounts) want(p *place) {
	if p.waiting || !p.readAt.IsZero() && time.Since(p.readAt) < accountsAgain {
		return
	}
	select {
	case a.queue <- p.view:
		p.waiting = true
	default:
	}
}

// evict forgets any place but the host and one more; false when there is none. a.mu is held.
func (a *Accounts) evict(but string) bool {
	for container := range a.places {
		if container != "" && container != but {
			a.remove(container)
			a.stats.Evicted++
			return true
		}
	}
	return false
}

// remove forgets a place. a.mu is held.
func (a *Accounts) remove(container string) {
	p := a.places[container]
	a.set(&p.users, names{})
	a.set(&p.groups, names{})
	delete(a.places, container)
}

// set replaces what a place has. a.mu is held.
func (a *Accounts) set(at *names, now names) {
	if now.read() {
		if a.kept[now]++; a.kept[now] == 1 {
			a.bytes += len(now.lines.Value())
		}
	}
	if was := *at; was.read() {
		if a.kept[was]--; a.kept[was] == 0 {
			a.bytes -= len(was.lines.Value())
			delete(a.kept, was)
		}
	}
	*at = now
}

// User returns the name of a user of a container, "" for the host; the name is empty when it is not known.
func (a *Accounts) User(container string, id uint32) string {
	return a.name(container, id, func(p *place) names { return p.users })
}

// Group is User for a group.
func (a *Accounts) Group(container string, id uint32) string {
	return a.name(container, id, func(p *place) names { return p.groups })
}

func (a *Accounts) name(container string, id uint32, list func(*place) names) string {
	a.mu.Lock()
	defer a.mu.Unlock()
	p, ok := a.places[container]
	if !ok {
		return ""
	}
	name, ok := list(p).of(id)
	if !ok { // it may have been added
		a.want(p)
	}
	return name
}

// Stats returns the counters.
func (a *Accounts) Stats() AccountsStats {
	a.mu.Lock()
	defer a.mu.Unlock()
	s := a.stats
	s.Places, s.Bytes = len(a.places), a.bytes
	return s
}

// Run reads until ctx is done. A file system that does not answer, which a container can have, takes one of a few
// readers; it does not wait for those.
func (a *Accounts) Run(ctx context.Context) {
	readers := make(chan struct{}, maxReaders)
	for {
		select {
		case readers <- struct{}{}:
		case <-ctx.Done():
			return
		}
		select {
		case v := <-a.queue:
			go func() {
				a.learn(v)
				<-readers
			}()
		case <-ctx.Done():
			return
		}
	}
}

func (a *Accounts) learn(v view) {
	users, groups, err := a.read(v)
	a.mu.Lock()
	defer a.mu.Unlock()
	p, ok := a.places[v.container]
	if !ok {
		return
	}
	p.waiting = false
	switch {
	case errors.Is(err, errVanished):
		a.stats.Vanished++
		if p.view != v { // there is a newer one
			a.want(p)
		}
	case err != nil:
		a.stats.Failed++
		p.readAt = time.Now()
	default:
		a.stats.Read++
		a.set(&p.users, users)
		a.set(&p.groups, groups)
		p.readAt = time.Now()
		for a.bytes > a.cfg.MaxBytes && a.evict(v.container) {
		}
	}
}

// errVanished says that a process has ended, or that its pid has been used again.
var errVanished = errors.New("process has ended")

// read reads the files of the place that a process is in. A file that is not there has no names.
func (a *Accounts) read(v view) (users, groups names, err error) {
	process := filepath.Join(a.cfg.ProcRoot, strconv.FormatUint(uint64(v.pid), 10))
	root, err := unix.Open(process+"/root", unix.O_PATH|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return users, groups, errVanished
	}
	defer unix.Close(root)
	inside, err := readIDMap(process + "/uid_map")
	if err != nil {
		return users, groups, errVanished
	}
	insideGroups, err := readIDMap(process + "/gid_map")
	if err != nil {
		return users, groups, errVanished
	}
	// What was opened is of that process if it is still there now.
	t := proc{root: a.cfg.ProcRoot}
	if start := t.start(v.pid); start == 0 || v.start != 0 && start/tick != v.start/tick {
		return users, groups, errVanished
	}
	if users, err = a.file(root, "etc/passwd", inside); err != nil {
		return users, groups, err
	}
	groups, err = a.file(root, "etc/group", insideGroups)
	return users, groups, err
}

// file reads the names in a file; one that is not there has none.
func (a *Accounts) file(root int, path string, ids idMap) (names, error) {
	none := names{unique.Make("")}
	// Only what is known to be a regular file is opened for reading.
	at, err := unix.Openat2(root, path, &unix.OpenHow{
		Flags: unix.O_PATH | unix.O_CLOEXEC, Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if errors.Is(err, unix.ENOENT) || errors.Is(err, unix.ENOTDIR) {
		return none, nil
	}
	if err != nil {
		return none, fmt.Errorf("open %s: %w", path, err)
	}
	defer unix.Close(at)
	var st unix.Stat_t
	if err := unix.Fstat(at, &st); err != nil || st.Mode&unix.S_IFMT != unix.S_IFREG {
		return none, err
	}
	file, err := os.Open("/proc/self/fd/" + strconv.Itoa(at))
	if err != nil {
		return none, err
	}
	defer file.Close()
	return a.parse(io.LimitReader(file, maxAccountsFile), ids), nil
}

// parse takes the names from a file as passwd(5) and group(5) describe them, as far as they are the same:
// NAME:PASSWORD:ID. Of several names of an id the first counts, as for getpwuid(3).
func (a *Accounts) parse(file io.Reader, ids idMap) names {
	var list strings.Builder
	seen := make(map[uint32]struct{})
	for lines := bufio.NewScanner(file); lines.Scan() && len(seen) < a.cfg.MaxNames; {
		name, rest, _ := strings.Cut(lines.Text(), ":")
		_, rest, _ = strings.Cut(rest, ":")
		number, _, _ := strings.Cut(rest, ":")
		id, err := strconv.ParseUint(number, 10, 32)
		if err != nil || name == "" || len(name) > maxAccountName {
			continue
		}
		outside, ok := ids.outside(uint32(id))
		if _, again := seen[outside]; ok && !again {
			seen[outside] = struct{}{}
			fmt.Fprintf(&list, "%d:%s\n", outside, name)
		}
	}
	return names{unique.Make(list.String())}
}

// idMap is how the ids of a user namespace are numbered outside of it, see user_namespaces(7).
type idMap []idRange

type idRange struct{ inside, outside, length uint32 }

func readIDMap(path string) (idMap, error) {
	text, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var ids idMap
	for line := range strings.Lines(string(text)) {
		var r idRange
		if _, err := fmt.Sscan(line, &r.inside, &r.outside, &r.length); err == nil {
			ids = append(ids, r)
		}
	}
	return ids, nil
}

func (m idMap) outside(id uint32) (uint32, bool) {
	for _, r := range m {
		if id >= r.inside && id-r.inside < r.length {
			return r.outside + (id - r.inside), true
		}
	}
	return 0, false
}
