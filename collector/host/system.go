package host

import (
	"bufio"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"

	"github.com/shirou/gopsutil/v3/host"
	"github.com/shirou/gopsutil/v3/mem"

	"github.com/taskguard/taskguard/collector/event"
)

// systemOf returns what the machine tells of itself.
func systemOf(c Config) event.Instance {
	var i event.Instance
	i.Kernel, _ = host.KernelVersion()
	i.Architecture, _ = host.KernelArch()
	i.OS = prettyName(filepath.Join(c.EtcRoot, "os-release"))
	i.CPUs = uint32(runtime.NumCPU())
	if memory, err := mem.VirtualMemory(); err == nil {
		i.MemoryBytes = memory.Total
	}
	return i
}

// prettyName reads the name of the operating system, see os-release(5).
func prettyName(path string) string {
	file, err := os.Open(path)
	if err != nil {
		return ""
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		value, ok := strings.CutPrefix(lines.Text(), "PRETTY_NAME=")
		if !ok {
			continue
		}
		if text, err := strconv.Unquote(value); err == nil {
			value = text
		}
		return cut(strings.Trim(value, "'"))
	}
	return ""
}
