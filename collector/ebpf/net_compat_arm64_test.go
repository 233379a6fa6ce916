package ebpf

import "fmt"

// oldNetCalls are those that only old architectures have.
var oldNetCalls map[string]uintptr

func compatCaller(way string) (wayToCall, error) { return nil, fmt.Errorf("no way %q", way) }
