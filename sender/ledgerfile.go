package sender

import (
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"hash/crc32"
	"io"
	"io/fs"
	"os"
	"slices"
	"sync"
	"syscall"

	"github.com/taskguard/taskguard/collector/event"
)

// ledgerFile keeps the ledger between runs. It has two slots of fixed size, written in turn: one that a crash cuts off
// fails its checksum, and the other one holds. A slot is
//
//	magic      8 bytes, "TGLEDGER"
//	generation uint64, little endian like all: the higher one is the newer slot
//	length     uint32, of the content
//	checksum   uint32, CRC-32C of generation, length and content
//	content    JSON of keptLedger
//
// A batch leaves the spool only after the ledger that says why was written here, so that a run that is killed leaves no
// doubt. After a power cut, which undoes what was not on disk yet, batches of the last seconds that were acknowledged
// may count as spool/vanished.
type ledgerFile struct {
	mu         sync.Mutex
	path       string   // empty is none, or no more
	f          *os.File // nil when it could not be opened yet
	generation uint64
	buf        []byte
	trouble    trouble
}

const (
	ledgerMagic  = "TGLEDGER"
	ledgerHeader = len(ledgerMagic) + 8 + 4 + 4
	// ledgerSlot has room for maxLosses and maxLeaving at their longest.
	ledgerSlot = 512 << 10
)

// keptLedger is a ledger between two runs. What is written to the spool at the moment is still open in it.
type keptLedger struct {
	Epoch    uint64            `json:"epoch"`    // with Sequence: the last batch that counts as spooled
	Sequence uint64            `json:"sequence"` // 0 is none of the epoch
	Observed map[string]uint64 `json:"observed"` // by kind, as the other maps
	Open     map[string]uint64 `json:"open"`
	Acked    uint64            `json:"acked"`
	Spooled  uint64            `json:"spooled"`
	Told     uint64            `json:"told"`
	Lost     []keptLoss        `json:"lost"`
	Leaving  []leaving         `json:"leaving"`
}

type keptLoss struct {
	Stage    string `json:"stage"`
	Cause    string `json:"cause"`
	Kind     string `json:"kind"`
	Total    uint64 `json:"total"`
	Reported uint64 `json:"reported"`
}

// unknownKind is the name of kind 0.
const unknownKind = "unknown"

func kindName(kind event.Kind) string {
	if kind == 0 {
		return unknownKind
	}
	return kind.String()
}

// kindNamed is the inverse; what this version does not know is 0.
func kindNamed(name string) event.Kind {
	kind, err := event.ParseKind(name)
	if err != nil {
		return 0
	}
	return kind
}

func (c *counts) named() map[string]uint64 {
	m := make(map[string]uint64)
	for kind, n := range c {
		if n > 0 {
			m[kindName(event.Kind(kind))] = n
		}
	}
	return m
}

func countsNamed(m map[string]uint64) (c counts) {
	for name, n := range m {
		c.add(kindNamed(name), n)
	}
	return c
}

// keep returns what is to be kept of the ledger of a run.
func (l *ledger) keep() keptLedger {
	open, spooled := l.open, l.spooled
	if l.landing != nil {
		open.addAll(l.landing.events)
		spooled -= l.landing.events.total()
	}
	k := keptLedger{
		Epoch: l.landed.epoch, Sequence: l.landed.sequence, Observed: l.observed.named(), Open: open.named(), Acked: l.acked,
		Spooled: spooled, Told: l.told, Leaving: slices.Clone(l.leaving),
	}
	for key, count := range l.lost {
		k.Lost = append(k.Lost, keptLoss{key.stage, key.cause, kindName(key.kind), count.total, count.reported})
	}
	return k
}

// ledger is the inverse of keep.
func (k *keptLedger) ledger() ledger {
	l := newLedger(0)
	l.observed, l.open = countsNamed(k.Observed), countsNamed(k.Open)
	l.acked, l.spooled, l.told = k.Acked, k.Spooled, k.Told
	for _, loss := range k.Lost {
		count := l.loss(kindNamed(loss.Kind), loss.Stage, loss.Cause)
		count.total += loss.Total
		count.reported += loss.Reported
	}
	return l
}

// balanced reports whether the law holds, as it does in each ledger that was written.
func (k *keptLedger) balanced() bool {
	accounted := k.Acked + k.Spooled
	var observed uint64
	for _, n := range k.Observed {
		observed += n
	}
	for _, n := range k.Open {
		accounted += n
	}
	for _, loss := range k.Lost {
		accounted += loss.Total
	}
	return observed == accounted && k.Told <= observed
}

// open opens or makes the file and returns the newest ledger in it, nil if there is none. What is damaged is none. The
// space for the slots is taken at once: a disk that becomes full does not stop them.
func (f *ledgerFile) open() (*keptLedger, error) {
	file, err := os.OpenFile(f.path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, err
	}
	newest, err := f.read(file)
	if err != nil {
		return nil, errors.Join(err, file.Close())
	}
	if err := syscall.Fallocate(int(file.Fd()), 0, 0, 2*ledgerSlot); err != nil && !errors.Is(err, errors.ErrUnsupported) {
		return nil, errors.Join(&fs.PathError{Op: "allocate", Path: f.path, Err: err}, file.Close())
	}
	f.f = file
	return newest, nil
}

func (f *ledgerFile) read(file *os.File) (newest *keptLedger, err error) {
	info, err := file.Stat()
	if err != nil {
		return nil, err
	}
	written := false
	for slot := range int64(2) {
		generation, kept, err := readSlot(file, slot)
		if err != nil {
			return nil, err
		}
		written = written || generation > 0
		if kept != nil && generation >= f.generation {
			newest, f.generation = kept, generation
		}
	}
	if newest == nil && (written || info.Size()%ledgerSlot != 0) {
		f.trouble.log.Warn("the ledger of the runs before is damaged, it begins anew", "file", f.path)
	}
	return newest, nil
}

// readSlot reads a slot. One that is damaged has no ledger, one that is empty no generation either.
func readSlot(file io.ReaderAt, slot int64) (generation uint64, kept *keptLedger, err error) {
	data := make([]byte, ledgerSlot)
	n, err := file.ReadAt(data, slot*ledgerSlot)
	if err != nil && !errors.Is(err, io.EOF) {
		return 0, nil, err
	}
	data = data[:n]
	if n < ledgerHeader || string(data[:len(ledgerMagic)]) != ledgerMagic {
		return 0, nil, nil
	}
	head, content := data[len(ledgerMagic):ledgerHeader], data[ledgerHeader:]
	length, sum := binary.LittleEndian.Uint32(head[8:]), binary.LittleEndian.Uint32(head[12:])
	if uint64(length) > uint64(len(content)) {
		return 0, nil, nil
	}
	generation = binary.LittleEndian.Uint64(head)
	content = content[:length]
	kept = new(keptLedger)
	if slotSum(head[:12], content) != sum || json.Unmarshal(content, kept) != nil || !kept.balanced() {
		return generation, nil, nil
	}
	return generation, kept, nil
}

func slotSum(head, content []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	return crc32.Update(crc32.Checksum(head, table), table, content)
}

// keep writes a ledger, and opens the file before if that was in vain at the start.
func (f *ledgerFile) keep(kept keptLedger) error {
	if f.f == nil {
		if _, err := f.open(); err != nil {
			return err
		}
	}
	return f.write(kept)
}

// write writes the next slot.
func (f *ledgerFile) write(kept keptLedger) error {
	content, err := json.Marshal(kept)
	if err != nil {
		return err
	}
	if len(content) > ledgerSlot-ledgerHeader {
		return fmt.Errorf("%d bytes, want at most %d", len(content), ledgerSlot-ledgerHeader)
	}
	f.buf = append(f.buf[:0], ledgerMagic...)
	f.buf = binary.LittleEndian.AppendUint64(f.buf, f.generation+1)
	f.buf = binary.LittleEndian.AppendUint32(f.buf, uint32(len(content)))
	f.buf = binary.LittleEndian.AppendUint32(f.buf, slotSum(f.buf[len(ledgerMagic):], content))
	f.buf = append(f.buf, content...)
	if _, err := f.f.WriteAt(f.buf, int64((f.generation+1)%2)*ledgerSlot); err != nil {
		return err
	}
	f.generation++
	return nil
}

// save writes the ledger as it is now. When it cannot, it says so, and goes on without.
func (s *Sender) save() {
	s.file.mu.Lock()
	defer s.file.mu.Unlock()
	if s.file.path == "" {
		return
	}
	s.mu.Lock()
	kept := s.ledger.keep()
	s.mu.Unlock()
	if err := s.file.keep(kept); err != nil {
		s.file.trouble.is(rootText(err), "cannot keep the ledger, a crash now makes it wrong: free or repair the disk", "error", err)
		return
	}
	s.file.trouble.isOver()
}

// close has the kernel write the file to disk, and closes it.
func (f *ledgerFile) close() {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.path = ""
	if f.f == nil {
		return
	}
	if err := errors.Join(f.f.Sync(), f.f.Close()); err != nil {
		f.trouble.is(rootText(err), "cannot write the ledger to disk", "error", err)
	}
	f.f = nil
}
