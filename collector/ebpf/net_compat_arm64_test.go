package ebpf

import "fmt"

func compatCaller(way string) (wayToCall, error) { return nil, fmt.Errorf("no way %q", way) }
