package event

import (
	"fmt"
	"strconv"
	"strings"
)

// Kind says what happened. Its number is part of the wire format (sender/batch/batch.proto) and never changes;
// its text, "<group>.<what>", is part of the JSON form.
type Kind uint8

// The kinds. The zero Kind is no kind.
const (
	ProcessExec    Kind = 1  // a process replaced its image
	ProcessFork    Kind = 2  // a process was created; Event.Process is the child
	ProcessExit    Kind = 3  // the last thread of a process ended; Event.Process.Exit says how
	FileOpen       Kind = 4  // a file was opened for writing, or the attempt failed
	NetConnect     Kind = 5  // connect(2) on an IPv4, IPv6 or AF_UNIX socket
	DNSQuery       Kind = 6  // a DNS message left this host for port 53
	DNSResponse    Kind = 7  // a DNS message arrived from port 53
	AgentStart     Kind = 8  // the agent started to observe
	AgentHeartbeat Kind = 9  // the agent is alive; says the health of every source
	AgentLoss      Kind = 10 // events were lost, or an interval was not observed

	// KindCount is one more than the highest Kind: the length of an array indexed by Kind.
	KindCount = 11
)

var kindNames = [KindCount]string{
	ProcessExec: "process.exec", ProcessFork: "process.fork", ProcessExit: "process.exit",
	FileOpen: "file.open", NetConnect: "net.connect",
	DNSQuery: "dns.query", DNSResponse: "dns.response",
	AgentStart: "agent.start", AgentHeartbeat: "agent.heartbeat", AgentLoss: "agent.loss",
}

// Kinds returns every kind in the order of their numbers.
func Kinds() []Kind {
	kinds := make([]Kind, 0, KindCount-1)
	for k := Kind(1); k < KindCount; k++ {
		kinds = append(kinds, k)
	}
	return kinds
}

// String returns the kind's name, or "kind(N)" for a number this version does not know.
func (k Kind) String() string {
	if k > 0 && int(k) < len(kindNames) {
		return kindNames[k]
	}
	return fmt.Sprintf("kind(%d)", uint8(k))
}

// ParseKind returns the kind with that name.
func ParseKind(name string) (Kind, error) {
	for k, n := range kindNames {
		if n == name && k > 0 {
			return Kind(k), nil
		}
	}
	return 0, fmt.Errorf("unknown event kind %q: want one of %v", name, Kinds())
}

// MarshalText implements encoding.TextMarshaler.
func (k Kind) MarshalText() ([]byte, error) { return []byte(k.String()), nil }

// UnmarshalText implements encoding.TextUnmarshaler. It also reads "kind(N)": what a newer version recorded.
func (k *Kind) UnmarshalText(text []byte) error {
	if number, ok := strings.CutPrefix(string(text), "kind("); ok {
		n, err := strconv.ParseUint(strings.TrimSuffix(number, ")"), 10, 8)
		if err == nil && Kind(n).String() == string(text) {
			*k = Kind(n)
			return nil
		}
	}
	parsed, err := ParseKind(string(text))
	if err != nil {
		return err
	}
	*k = parsed
	return nil
}
