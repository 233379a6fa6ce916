package ebpf

import (
	"strings"
	"testing"
	"unsafe"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/collector/event"
)

func headerOf[T ~uint32](kind commonKind, call T, flags commonRecordFlag) commonHeader {
	h := header(kind, flags)
	h.Call = uint32(call)
	return h
}

func TestDecodeMount(t *testing.T) {
	cut := commonTextFlagTEXT_CUT
	user := commonTextFlagTEXT_UNVERIFIED
	for name, test := range map[string]struct {
		kind                 commonKind
		call                 systemMountCall
		flags                commonRecordFlag
		source, target, text commonText
		sections             []string
		want                 event.Mount
	}{
		"mount": {commonKindFS_MOUNT, systemMountCallCALL_MOUNT, 0, chars("src", 0), components("m\x00mnt\x00", 0),
			chars("ext4", 0), []string{"src", "m\x00mnt\x00", "ext4"},
			event.Mount{Call: "mount", Source: "src", Target: "/mnt/m", Type: "ext4", Flags: 4097}},
		"names given": {commonKindFS_MOUNT, systemMountCallCALL_MOVE_MOUNT, 0, chars("a", user), chars("b\n", user|cut),
			chars("", user), []string{"a", "b\n"},
			event.Mount{Call: "move_mount", Source: "a", Target: "b\n", Flags: 4097, Unverified: true, Truncated: event.FieldTarget}},
		"unverified otherwise": {commonKindFS_MOUNT, systemMountCallCALL_FSMOUNT, commonRecordFlagFLAG_UNVERIFIED,
			chars("a", cut), chars("", 0), chars("t", cut), []string{"a", "t"},
			event.Mount{Call: "fsmount", Source: "a", Type: "t", Flags: 4097, Unverified: true,
				Truncated: event.FieldSource | event.FieldType}},
		"umount": {commonKindFS_UMOUNT, systemMountCallCALL_UMOUNT, 0, chars("", 0), components("", 0), chars("", 0), nil,
			event.Mount{Call: "umount", Target: "/", UmountFlags: 4097}},
	} {
		t.Run(name, func(t *testing.T) {
			r := commonMountRecord{Header: headerOf(test.kind, test.call, test.flags), Flags: 4097,
				Source: test.source, Target: test.target, Type: test.text}
			events := decodeAll(t, testDecoder(), encode(r, test.sections...))
			if diff := cmp.Diff(&test.want, events[0].FS); len(events) != 1 || diff != "" {
				t.Errorf("mount (-want +got):\n%s", diff)
			}
		})
	}
}

// named copies a name into an array of the kernel's.
func named(array []int8, name string) {
	copy(unsafe.Slice((*byte)(unsafe.Pointer(unsafe.SliceData(array))), len(array)), name)
}

func TestDecodeModule(t *testing.T) {
	r := commonModuleRecord{
		Header: headerOf(commonKindMODULE_LOAD, systemModuleCallCALL_FINIT_MODULE,
			commonRecordFlagFLAG_UPPER|commonRecordFlagFLAG_UNVERIFIED),
		File: commonFileId{Inode: 5, Device: 8<<20 | 1}, Flags: 2, Path: components("x.ko\x00lib\x00", isCut),
	}
	named(r.Name[:], strings.Repeat("n", len(r.Name))) // without an end, which the kernel does not do
	want := event.Module{
		Call: "finit_module", Name: strings.Repeat("n", 64), Path: "lib/x.ko", Device: 8<<20 | 1, Inode: 5, UpperLayer: true,
		Flags: 2, Unverified: true, Truncated: event.FieldPath,
	}
	if diff := cmp.Diff(&want, decodeAll(t, testDecoder(), encode(r, "x.ko\x00lib\x00"))[0].Module); diff != "" {
		t.Errorf("module (-want +got):\n%s", diff)
	}
	without := commonModuleRecord{Header: headerOf(commonKindMODULE_LOAD, systemModuleCallCALL_INIT_MODULE, 0)}
	if diff := cmp.Diff(&event.Module{Call: "init_module"}, decodeAll(t, testDecoder(), encode(without))[0].Module); diff != "" {
		t.Errorf("module without a file (-want +got):\n%s", diff)
	}
}

func TestDecodeLoadAndRing(t *testing.T) {
	r := commonBpfRecord{Header: header(commonKindBPF_LOAD, commonRecordFlagFLAG_UNVERIFIED), Type: 6, Instructions: 7, Id: 8}
	named(r.Name[:], "x\x00y")
	want := event.BPF{Type: 6, Name: "x", Instructions: 7, ProgramID: 8, Unverified: true}
	if diff := cmp.Diff(&want, decodeAll(t, testDecoder(), encode(r))[0].BPF); diff != "" {
		t.Errorf("bpf (-want +got):\n%s", diff)
	}
	ring := commonIouringRecord{Header: header(commonKindIOURING_SETUP, 0), Entries: 9, Flags: 3}
	if diff := cmp.Diff(&event.IOUring{Entries: 9, Flags: 3}, decodeAll(t, testDecoder(), encode(ring))[0].IOUring); diff != "" {
		t.Errorf("iouring (-want +got):\n%s", diff)
	}
}

func TestDecodeMalformedSystem(t *testing.T) {
	for want, record := range map[string][]byte{
		"decode fs.mount record: unknown call 7": encode(
			commonMountRecord{Header: headerOf(commonKindFS_MOUNT, uint32(7), 0)}),
		"decode fs.umount record: sections exceed": encode(
			commonMountRecord{Header: header(commonKindFS_UMOUNT, 0), Type: commonText{Len: 2}}, "x"),
		"decode module.load record: unknown call 2": encode(
			commonModuleRecord{Header: headerOf(commonKindMODULE_LOAD, uint32(2), 0)}),
		"decode module.load record: sections exceed": encode(
			commonModuleRecord{Header: header(commonKindMODULE_LOAD, 0), Path: commonText{Len: 2}}, "x"),
		"decode module.load record:":   encode(header(commonKindMODULE_LOAD, 0)),
		"decode bpf.load record:":      encode(header(commonKindBPF_LOAD, 0)),
		"decode iouring.setup record:": encode(header(commonKindIOURING_SETUP, 0)),
		"decode fs.umount record:":     encode(header(commonKindFS_UMOUNT, 0)),
	} {
		err := testDecoder().decode(record, func(e *event.Event) { t.Errorf("%s: emitted %s", want, e.Kind) })
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("error %v, want %s", err, want)
		}
	}
}
