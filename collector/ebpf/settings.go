package ebpf

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"
	"slices"
	"strings"
	"syscall"
	"time"

	"github.com/cilium/ebpf"

	"github.com/taskguard/taskguard/collector/event"
)

// Settings say what the kernel records. The zero Settings record every kind, of what is opened only what may be
// changed, without limits.
type Settings struct {
	// Off are the kinds that are not wanted.
	Off []event.Kind
	// OpenAll has file.open tell of files that are opened for reading too.
	OpenAll bool
	// Watched are beginnings of paths, in the process's own mount namespace: file.open tells of files with such a path
	// also when they are opened for reading. At most MaxWatched, of MaxWatchedBytes each.
	Watched []string
	// Ignored are executables whose processes are not recorded but for their fork, exec and exit: by their paths on the
	// host when the settings are applied, and known by device and inode from then on. At most MaxIgnored.
	Ignored []string
	// ConnectWindow is how long further connects of a process to the same address, with the same protocol and result,
	// are left out after one that was recorded; and likewise what it sends. 0 is not at all: each datagram to an address
	// that its socket is not connected to is an event.
	ConnectWindow time.Duration
	// Throttle is how many events a cgroup may make in a second. Those that matter less are left out before it is reached:
	// file.* and fs.* at half of it, memory.* at five eighths, net.* at six, dns.* at seven. 0 is any number.
	Throttle uint32
}

// The limits of Settings.
const (
	MaxWatched      = 256
	MaxWatchedBytes = len(commonWatchedKey{}.Path) - 1
	MaxIgnored      = 256
)

// Validate says what is wrong with the settings.
func (set *Settings) Validate() error {
	switch {
	case len(set.Watched) > MaxWatched:
		return fmt.Errorf("watch %d paths: want at most %d", len(set.Watched), MaxWatched)
	case len(set.Ignored) > MaxIgnored:
		return fmt.Errorf("ignore %d executables: want at most %d", len(set.Ignored), MaxIgnored)
	case set.ConnectWindow < 0:
		return fmt.Errorf("connect window %v: want 0 or more", set.ConnectWindow)
	}
	for _, path := range set.Watched {
		if !strings.HasPrefix(path, "/") || len(path) > MaxWatchedBytes {
			return fmt.Errorf("watch %q: want an absolute path of at most %d bytes", path, MaxWatchedBytes)
		}
	}
	return nil
}

// Apply changes what is recorded, without a moment in which nothing is. What is attached stays so; a kind that was off
// until now is attached, as State tells. An executable to be ignored that is not there is left out, with a warning.
func (s *Source) Apply(set Settings) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if err := s.put(set); err != nil {
		return err
	}
	s.cfg.Settings = set
	if !s.detached {
		s.attachWanted()
		debug.FreeOSMemory() // loading needs far more than running does
	}
	return nil
}

// put gives settings to the programs.
func (s *Source) put(set Settings) error {
	if err := set.Validate(); err != nil {
		return fmt.Errorf("apply settings: %w", err)
	}
	if err := s.replaceWatched(set.Watched); err != nil {
		return fmt.Errorf("apply settings: watch paths: %w", err)
	}
	ignored, err := s.replaceIgnored(set.Ignored)
	if err != nil {
		return fmt.Errorf("apply settings: ignore executables: %w", err)
	}
	values := commonSettings{
		Kinds: kindBits(set.Off), ConnectWindow: uint64(set.ConnectWindow), Watched: uint32(len(set.Watched)),
		Ignored: ignored, Throttle: set.Throttle,
	}
	if set.OpenAll {
		values.OpenAll = 1
	}
	if err := s.objects.shared[commonMapCurrentSettings].Put(uint32(0), values); err != nil {
		return fmt.Errorf("apply settings: %w", err)
	}
	return nil
}

func kindBits(off []event.Kind) (bits uint64) {
	for kind := range uint64(commonKindEVENT_KINDS) {
		if kind > 0 && !slices.Contains(off, event.Kind(kind)) {
			bits |= 1 << kind
		}
	}
	return bits
}

// replaceWatched makes paths the watched ones: new ones are added before old ones go.
func (s *Source) replaceWatched(paths []string) error {
	wanted := make(map[commonWatchedKey]bool)
	for _, path := range paths {
		key := commonWatchedKey{Bits: uint32(len(path)) * 8}
		copy(key.Path[:], path)
		wanted[key] = true
	}
	return replace(s.objects.shared[commonMapWatched], wanted)
}

func (s *Source) replaceIgnored(paths []string) (uint32, error) {
	wanted := make(map[commonFileId]bool)
	for _, path := range paths {
		info, err := os.Stat(path)
		if err != nil {
			s.cfg.Logger.Warn("executable not ignored", "error", err)
			continue
		}
		stat := info.Sys().(*syscall.Stat_t)
		wanted[commonFileId{Inode: stat.Ino, Device: kernelDevice(stat.Dev)}] = true
	}
	return uint32(len(wanted)), replace(s.objects.shared[commonMapIgnored], wanted)
}

// kernelDevice encodes a device number of stat(2) as the kernel does inside.
func kernelDevice(dev uint64) uint32 {
	major := dev>>8&0xfff | dev>>32&^0xfff
	minor := dev&0xff | dev>>12&^0xff
	return uint32(major<<20 | minor&0xfffff)
}

// replace makes keys the only ones of a map.
func replace[K comparable](m *ebpf.Map, keys map[K]bool) error {
	var stale []K
	var key K
	var value uint8
	entries := m.Iterate()
	for entries.Next(&key, &value) {
		if !keys[key] {
			stale = append(stale, key)
		}
	}
	if err := entries.Err(); err != nil {
		return err
	}
	// A full map needs the room of what goes; else nothing that stays is missed for a moment.
	for _, k := range stale {
		if err := m.Delete(k); err != nil && !errors.Is(err, ebpf.ErrKeyNotExist) {
			return err
		}
	}
	for k := range keys {
		if err := m.Put(k, uint8(1)); err != nil {
			return err
		}
	}
	return nil
}

// wants tells whether a kind is to be observed at all.
func (c *Config) wants(kind event.Kind) bool { return !slices.Contains(c.Settings.Off, kind) }
