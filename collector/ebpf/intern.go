package ebpf

// interner gives back one string for equal bytes, so that what repeats (paths, names, command lines) is allocated
// once. It holds at most maxInterned strings of at most maxInternedLen bytes; when it is full it starts anew, which
// costs a workload of ever new strings one map's worth of garbage and nothing else.
type interner struct {
	strings map[string]string
}

const (
	maxInterned    = 8192
	maxInternedLen = 1024
)

func (in *interner) get(b []byte) string {
	if len(b) == 0 {
		return ""
	}
	if s, ok := in.strings[string(b)]; ok {
		return s
	}
	s := string(b)
	if len(b) > maxInternedLen {
		return s
	}
	if in.strings == nil {
		in.strings = make(map[string]string)
	}
	if len(in.strings) >= maxInterned {
		clear(in.strings)
	}
	in.strings[s] = s
	return s
}
