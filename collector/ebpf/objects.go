package ebpf

import (
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/btf"
	"golang.org/x/sys/unix"
)

// objects opens the compiled files of programs, which share their maps but for their constants.
type objects struct {
	kernel    *btf.Spec
	types     *btf.Cache
	variables map[string]any
	entries   map[string]uint32 // of the maps whose size depends on the host
	shared    map[string]*ebpf.Map
	opened    map[string]*openObject // until forget
}

// openObject is one of them, ready to have its programs loaded.
type openObject struct {
	*objects
	spec      *ebpf.CollectionSpec
	constants map[string]*ebpf.Map
}

// openObjects prepares the programs for this host and creates the maps.
func openObjects(cfg Config) (*objects, error) {
	types := btf.NewCache()
	kernel, err := types.Kernel()
	if err != nil {
		return nil, fmt.Errorf("load kernel types: %w", noBTF(err))
	}
	subsys, err := subsystem(kernel, cfg.CgroupController)
	if err != nil {
		return nil, err
	}
	cpus, err := ebpf.PossibleCPU()
	if err != nil {
		return nil, fmt.Errorf("count CPUs: %w", err)
	}
	ringBytes := uint32(4 << 20)
	if cfg.RingBytes > 0 {
		ringBytes = uint32(cfg.RingBytes)
	}
	slots := uint32(cpus) * (1 + uint32(commonSlotsCLAIMED))
	o := &objects{
		kernel: kernel, types: types, shared: make(map[string]*ebpf.Map), opened: make(map[string]*openObject),
		variables: map[string]any{
			commonVarSelfPid: uint32(os.Getpid()), commonVarCgroupSubsys: subsys,
			commonVarCgroupHierarchy: int32(cfg.CgroupHierarchy), commonVarCpus: uint32(cpus),
			commonVarWakeupBytes: uint64(min(maxWakeup, ringBytes/4)), commonVarPreemptible: preemptible(),
			commonVarOverlayFile: uint32(overlayFile(types)),
		},
		entries: map[string]uint32{commonMapRing: ringBytes, commonMapScratch: slots, commonMapClaims: slots},
	}
	create := func() error {
		_, err := o.open(object{"common", loadCommon})
		return err
	}
	if err := withMemlock(create, raiseMemlock); err != nil {
		return nil, errors.Join(err, o.close())
	}
	return o, nil
}

// withMemlock has the limit of locked memory raised when maps cannot be created for it: kernels before 5.11 count
// them as locked memory, which shows only in that they refuse them.
func withMemlock(create, raise func() error) error {
	err := create()
	if !errors.Is(err, unix.EPERM) && !errors.Is(err, unix.ENOMEM) {
		return err
	}
	if refused := raise(); refused != nil {
		return fmt.Errorf("%w; and locked memory, which kernels before 5.11 count maps as, is limited: %w: "+
			"set LimitMEMLOCK=infinity in the unit", err, refused)
	}
	return create()
}

func raiseMemlock() error {
	limit := unix.Rlimit{Cur: unix.RLIM_INFINITY, Max: unix.RLIM_INFINITY}
	if err := unix.Setrlimit(unix.RLIMIT_MEMLOCK, &limit); err != nil {
		return fmt.Errorf("raise RLIMIT_MEMLOCK: %w", err)
	}
	return nil
}

// preemptible tells whether the kernel may preempt what runs in it, by how it calls itself.
func preemptible() bool {
	var name unix.Utsname
	if unix.Uname(&name) != nil {
		return true
	}
	return strings.Contains(unix.ByteSliceToString(name.Version[:]), "PREEMPT")
}

// overlayFile tells how the kernel's overlay file system finds the file in a layer (fs/overlayfs/file.c): since Linux 6.13
// struct ovl_file has it. That is unknown when the file system is a module that is not loaded, or not described.
func overlayFile(types *btf.Cache) commonLayerFile {
	spec, err := types.Kernel()
	if err != nil {
		return commonLayerFileLAYER_FILE_UNKNOWN
	}
	var t *btf.Struct
	if spec.TypeByName("ovl_inode", &t) != nil {
		if spec, err = types.Module("overlay"); err != nil || spec.TypeByName("ovl_inode", &t) != nil {
			return commonLayerFileLAYER_FILE_UNKNOWN
		}
	}
	if spec.TypeByName("ovl_file", &t) != nil {
		return commonLayerFileLAYER_FILE_IS
	}
	return commonLayerFileLAYER_FILE_HELD
}

// subsystem returns the kernel's index of a cgroup v1 controller, -1 for none.
func subsystem(kernel *btf.Spec, controller string) (int32, error) {
	if controller == "" {
		return -1, nil
	}
	var ids *btf.Enum
	if err := kernel.TypeByName("cgroup_subsys_id", &ids); err != nil {
		return 0, fmt.Errorf("find cgroup controllers: %w", err)
	}
	// The hierarchy's name is the controller's but for blkio (include/linux/cgroup_subsys.h).
	name := controller
	if name == "blkio" {
		name = "io"
	}
	for _, v := range ids.Values {
		if v.Name == name+"_cgrp_id" {
			return int32(v.Value), nil
		}
	}
	return 0, fmt.Errorf("kernel has no cgroup controller %q", controller)
}

// open returns an object, whose maps it creates if they are not there yet.
func (o *objects) open(file object) (*openObject, error) {
	if opened := o.opened[file.name]; opened != nil {
		return opened, nil
	}
	opened, err := o.read(file)
	if err == nil {
		o.opened[file.name] = opened
	}
	return opened, err
}

func (o *objects) read(file object) (*openObject, error) {
	spec, err := file.load()
	if err != nil {
		return nil, fmt.Errorf("load %s programs: %w", file.name, err)
	}
	for name, value := range o.variables {
		if v := spec.Variables[name]; v != nil {
			if err := v.Set(value); err != nil {
				return nil, fmt.Errorf("set %s: %w", name, err)
			}
		}
	}
	for name, n := range o.entries {
		if m := spec.Maps[name]; m != nil {
			m.MaxEntries = n
		}
	}
	if !o.callbacks() {
		for _, program := range spec.Programs {
			dropCallbacks(program.Instructions)
		}
	}
	opened := &openObject{objects: o, spec: spec, constants: make(map[string]*ebpf.Map)}
	created, err := opened.load(nil)
	if err != nil {
		return nil, fmt.Errorf("create maps: %w", remedy(err))
	}
	for name, m := range created.Maps {
		switch {
		case strings.HasPrefix(name, "."):
			opened.constants[name] = m
		case o.shared[name] == nil:
			o.shared[name] = m
		default: // a duplicate of the shared one's descriptor
			err = errors.Join(err, m.Close())
		}
	}
	return opened, err
}

// callbacks tells whether this kernel has bpf_loop, and so lets programs name functions.
func (o *objects) callbacks() bool {
	var helpers *btf.Enum
	if err := o.kernel.TypeByName("bpf_func_id", &helpers); err != nil {
		return false
	}
	return slices.ContainsFunc(helpers.Values, func(v btf.EnumValue) bool { return v.Name == "BPF_FUNC_loop" })
}

// dropCallbacks replaces functions' addresses by zero: they are used in code that is not reached on a kernel without
// callbacks, but refused all the same.
func dropCallbacks(instructions asm.Instructions) {
	for i := range instructions {
		if ins := &instructions[i]; ins.IsLoadOfFunctionPointer() {
			ins.Src, ins.Constant = asm.R0, 0
			*ins = ins.WithReference("")
		}
	}
}

// load makes what the object defines with the maps that are there already.
func (o *openObject) load(programs map[string]*ebpf.ProgramSpec) (*ebpf.Collection, error) {
	onlyMaps := *o.spec
	onlyMaps.Programs = nil
	spec := onlyMaps.Copy()
	spec.Programs = programs
	there := make(map[string]*ebpf.Map)
	for name := range spec.Maps {
		if m := o.shared[name]; m != nil {
			there[name] = m
		} else if m := o.constants[name]; m != nil {
			there[name] = m
		}
	}
	return ebpf.NewCollectionWithOptions(spec, ebpf.CollectionOptions{MapReplacements: there, Cache: o.types})
}

// program loads the program of a hook. The caller closes it.
func (o *openObject) program(h *hook) (*ebpf.Program, error) {
	spec := o.spec.Programs[h.program]
	if spec == nil {
		return nil, fmt.Errorf("no program %s", h.program)
	}
	spec = spec.Copy()
	if h.function != "" {
		spec.AttachTo = h.function
	}
	loaded, err := o.load(map[string]*ebpf.ProgramSpec{h.program: spec})
	if err != nil {
		return nil, err
	}
	program := loaded.Programs[h.program]
	delete(loaded.Programs, h.program)
	loaded.Close()
	return program, nil
}

// forget releases what only loading needs: objects take far more memory than their programs, and these keep their maps.
func (o *objects) forget() {
	for _, opened := range o.opened {
		for _, m := range opened.constants {
			m.Close()
		}
	}
	clear(o.opened)
}

func (o *objects) close() error {
	o.forget()
	var errs []error
	for _, m := range o.shared {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}
