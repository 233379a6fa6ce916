package ebpf
import ("errors";"golang.org/x/sys/unix")
func (c *change) compatCaller(a, b int) (func() unix.Errno, error) { return nil, errors.ErrUnsupported }
func (c *change) ringCaller(a, b int) (func() unix.Errno, error) { return nil, errors.ErrUnsupported }
