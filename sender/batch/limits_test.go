package batch_test

import (
	"bytes"
	"errors"
	"runtime"
	"slices"
	"strings"
	"testing"

	"github.com/klauspost/compress/zstd"
	"google.golang.org/protobuf/encoding/protowire"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/reflect/protoreflect"

	"github.com/taskguard/taskguard/sender/batch"
	"github.com/taskguard/taskguard/sender/batch/batchpb"
)

// allocated returns the bytes that f allocates, freed or not.
func allocated(f func()) uint64 {
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	f()
	runtime.ReadMemStats(&after)
	return after.TotalAlloc - before.TotalAlloc
}

func newCodec(t testing.TB) *batch.Codec {
	t.Helper()
	codec, err := batch.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	return codec
}

func TestCompressRoundTrip(t *testing.T) {
	codec := newCodec(t)
	for _, size := range []int{0, 1, 512 << 10, batch.MaxSize} {
		data := bytes.Repeat([]byte("taskguard "), size/10+1)[:size]
		frame := codec.Compress(nil, data)
		got, err := codec.Decompress([]byte("prefix"), frame)
		if err != nil || string(got[:6]) != "prefix" || !bytes.Equal(got[6:], data) {
			t.Errorf("%d bytes do not come back: %v", size, err)
		}
	}
}

func TestDecompressRefusesDamage(t *testing.T) {
	codec := newCodec(t)
	frame := codec.Compress(nil, seal(t, header, examples()))
	for n := 1; n < len(frame); n++ {
		if _, err := codec.Decompress(nil, frame[:n]); err == nil {
			t.Errorf("frame cut after %d of %d bytes accepted", n, len(frame))
		}
	}
	for i := range frame {
		damaged := bytes.Clone(frame)
		damaged[i] ^= 0x10
		data, err := codec.Decompress(nil, damaged)
		if err == nil && !bytes.Equal(data, seal(t, header, examples())) {
			t.Errorf("frame with byte %d flipped accepted", i)
		}
	}
}

func TestDecompressRefusesBombs(t *testing.T) {
	const bomb = 16 * batch.MaxSize
	zeros := make([]byte, 1<<20)
	var streamed, framed bytes.Buffer
	w, err := zstd.NewWriter(&streamed, zstd.WithWindowSize(1<<20))
	if err != nil {
		t.Fatal(err)
	}
	for range bomb / len(zeros) {
		if _, err := w.Write(zeros); err != nil {
			t.Fatal(err)
		}
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	for range bomb / len(zeros) {
		framed.Write(w.EncodeAll(zeros, nil))
	}
	for name, frame := range map[string][]byte{
		"size not declared": streamed.Bytes(),
		"size declared":     w.EncodeAll(make([]byte, batch.MaxSize+1), nil),
		"many frames":       framed.Bytes(),
		"window of 2 GiB":   {0x28, 0xb5, 0x2f, 0xfd, 0x00, 0xa8, 0x03, 0x00, 0x00, 0x00},
	} {
		t.Run(name, func(t *testing.T) {
			codec := newCodec(t)
			var err error
			used := allocated(func() { _, err = codec.Decompress(nil, frame) })
			if !errors.Is(err, batch.ErrTooLarge) {
				t.Errorf("error %v, want ErrTooLarge", err)
			}
			if used > 8*batch.MaxSize {
				t.Errorf("%d bytes allocated for a frame of %d", used, len(frame))
			}
		})
	}
}

// Every repeated field of the format that is too long is refused before it is decoded: memory stays below a fraction of
// what it would take.
func TestDecodeRefusesTooMuch(t *testing.T) {
	const max = batch.MaxSize / 4
	refused := map[string][]byte{"bytes": make([]byte, batch.MaxSize+1)}
	repeated((&batchpb.Batch{}).ProtoReflect().Descriptor(), nil, func(path []protoreflect.FieldDescriptor) {
		var name []string
		var data []byte
		for i := len(path) - 1; i >= 0; i-- {
			name = append([]string{string(path[i].Name())}, name...)
			empty := protowire.AppendTag(nil, path[i].Number(), protowire.BytesType)
			if data == nil {
				data = bytes.Repeat(append(empty, 0), max)
			} else {
				data = protowire.AppendBytes(empty, data)
			}
		}
		refused[strings.Join(name, ".")] = data
	})
	if len(refused) < 11 {
		t.Errorf("%d repeated fields found in the batch, want those of its tables at least", len(refused))
	}
	for name, data := range refused {
		t.Run(name, func(t *testing.T) {
			var err error
			used := allocated(func() { _, err = batch.Decode(data) })
			if err == nil || !strings.Contains(err.Error(), "want at most") {
				t.Errorf("error %v, want a limit", err)
			}
			if used > 1<<20 {
				t.Errorf("%d bytes allocated before the refusal", used)
			}
		})
	}
	t.Run("at the limit", func(t *testing.T) {
		valid, event := seal(t, header, nil), []byte("\x4a\x00")
		if _, err := batch.Decode(append(valid, bytes.Repeat(event, batch.MaxEvents)...)); err != nil {
			t.Errorf("%d events refused: %v", batch.MaxEvents, err)
		}
		if _, err := batch.Decode(append(valid, bytes.Repeat(event, batch.MaxEvents+1)...)); err == nil {
			t.Errorf("%d events accepted", batch.MaxEvents+1)
		}
	})
}

// repeated visits every repeated field of a message and of those inside it, by the path to it.
func repeated(
	m protoreflect.MessageDescriptor, path []protoreflect.FieldDescriptor, visit func([]protoreflect.FieldDescriptor),
) {
	for i := range m.Fields().Len() {
		field := m.Fields().Get(i)
		here := append(slices.Clone(path), field)
		if field.IsList() {
			visit(here)
		}
		if field.Message() != nil {
			repeated(field.Message(), here, visit)
		}
	}
}

func TestDecodeRefuses(t *testing.T) {
	for _, test := range []struct {
		name string
		edit func(*batchpb.Batch)
		want string
	}{
		{"no agent", func(b *batchpb.Batch) { b.AgentId = nil }, "no identity"},
		{"no epoch", func(b *batchpb.Batch) { b.Epoch = 0 }, "no identity"},
		{"no sequence", func(b *batchpb.Batch) { b.Sequence = 0 }, "no identity"},
		{"short agent id", func(b *batchpb.Batch) { b.AgentId = b.AgentId[:15] }, "agent_id has 15 bytes"},
		{"short boot id", func(b *batchpb.Batch) { b.Host.BootId = []byte{1} }, "boot_id has 1 bytes"},
		{"process", func(b *batchpb.Batch) { b.Events[0].Process = 3 }, "process 3 of 2"},
		{"process, huge", func(b *batchpb.Batch) { b.Events[0].Process = 1<<32 - 1 }, "process 4294967295 of 2"},
		{"target", func(b *batchpb.Batch) { b.Events[0].Target = 3 }, "process 3 of 2"},
		{"string of mount", func(b *batchpb.Batch) { b.Events[0].Fs = &batchpb.Mount{Type: 9} }, "string 9 of 1"},
		{"address of dup", func(b *batchpb.Batch) {
			b.Events[0].Dup = &batchpb.Dup{Socket: &batchpb.Socket{LocalIp: make([]byte, 17)}}
		}, "address of 17 bytes"},
		{"container of event", func(b *batchpb.Batch) { b.Events[0].Container = 2 }, "container 2 of 1"},
		{"container of process", func(b *batchpb.Batch) { b.Processes[0].Container = 9 }, "container 9 of 1"},
		{"string", func(b *batchpb.Batch) { b.Processes[0].Exe = 2 }, "string 2 of 1"},
		{"string of file", func(b *batchpb.Batch) { b.Events[0].File = &batchpb.File{Path: 7} }, "string 7 of 1"},
		{"string of answer", func(b *batchpb.Batch) {
			b.Events[0].Dns = &batchpb.DNS{Answers: []*batchpb.Answer{{Data: 8}}}
		}, "string 8 of 1"},
		{"own parent", func(b *batchpb.Batch) { b.Processes[1].Parent = 2 }, "parent 2 of process 2"},
		{"parent after child", func(b *batchpb.Batch) { b.Processes[0].Parent = 2 }, "parent 2 of process 1"},
		{"process id", func(b *batchpb.Batch) { b.Processes[0].Id = []byte{1, 2} }, "process id has 2 bytes"},
		{"address", func(b *batchpb.Batch) {
			b.Events[0].Net = &batchpb.Net{Socket: &batchpb.Socket{RemoteIp: []byte{1, 2, 3}}}
		}, "address of 3 bytes"},
	} {
		t.Run(test.name, func(t *testing.T) {
			pb := &batchpb.Batch{
				AgentId: header.ID.Agent[:], Epoch: 1, Sequence: 1, Host: &batchpb.Host{}, Strings: [][]byte{[]byte("s")},
				Containers: []*batchpb.Container{{Id: "c"}}, Processes: []*batchpb.Process{{Name: 1}, {Parent: 1}},
				Events: []*batchpb.Event{{Process: 2}},
			}
			if _, err := batch.Decode(marshal(t, pb)); err != nil {
				t.Fatalf("before the edit: %v", err)
			}
			test.edit(pb)
			if _, err := batch.Decode(marshal(t, pb)); err == nil || !strings.Contains(err.Error(), test.want) {
				t.Errorf("error %v, want %q", err, test.want)
			}
		})
	}
}

func TestDecodeRefusesWhatIsNoBatch(t *testing.T) {
	valid := seal(t, header, examples())
	for name, data := range map[string][]byte{
		"empty": nil, "text": []byte("GET / HTTP/1.1\r\n"), "cut": valid[:len(valid)/2],
	} {
		if _, err := batch.Decode(data); err == nil {
			t.Errorf("%s accepted", name)
		}
	}
}

func marshal(t *testing.T, pb *batchpb.Batch) []byte {
	t.Helper()
	data, err := proto.Marshal(pb)
	if err != nil {
		t.Fatal(err)
	}
	return data
}
