//go:build amd64

package ebpf

import (
	"encoding/binary"
	"fmt"
	"testing"
)

// ia32Caller makes 32-bit system calls; with multiplexed those on sockets by socketcall(2).
type ia32Caller struct {
	*compatible
	multiplexed bool
}

// socketCalls are numbered as in include/uapi/linux/net.h.
var socketCalls = map[string]uint32{
	"socket": 1, "bind": 2, "connect": 3, "listen": 4, "accept": 5, "sendto": 11, "sendmsg": 16, "accept4": 18,
	"sendmmsg": 20,
}

func compatCaller(way string) (wayToCall, error) {
	c, err := newCompatible()
	switch {
	case err != nil:
		return nil, err
	case way == "ia32":
		return &ia32Caller{c, false}, nil
	case way == "socketcall":
		return &ia32Caller{c, true}, nil
	}
	return nil, fmt.Errorf("no way %q", way)
}

func (c *ia32Caller) put(data []byte) uint64 { return uint64(c.compatible.put(data)) }

func (c *ia32Caller) word() int { return 4 }

func (c *ia32Caller) call(name string, args ...uint64) int {
	var words []uint32
	var array []byte
	for _, arg := range args {
		words = append(words, uint32(arg))
		array = binary.LittleEndian.AppendUint32(array, uint32(arg))
	}
	number := compatNumbers[name]
	if call, ok := socketCalls[name]; ok && c.multiplexed {
		number, words = compatNumbers["socketcall"], []uint32{call, c.compatible.put(array)}
	}
	if name == "close" {
		number = 6
	}
	ret, errno := c.int80(number, words...)
	if errno != 0 {
		return -int(errno)
	}
	return ret
}

func TestNetBy32Bit(t *testing.T)      { testNet(t, "ia32") }
func TestNetBySocketcall(t *testing.T) { testNet(t, "socketcall") }
func TestDupBy32Bit(t *testing.T)      { testDups(t, "ia32") }
