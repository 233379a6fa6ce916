// Package event defines Event, the one type that crosses every boundary of TaskGuard: sources make it, the
// process table and the containers complete it, batches carry it, and every --json output is its JSON form.
//
// The JSON form is one object a line, snake_case; a field that is absent is unknown. It promises that what is
// written can be read back: Unmarshal(Marshal(e)) equals e but for fields marked `json:"-"`, and but for what Argv and
// Environ say of themselves.
//
// Strings that a process chose (paths, arguments, names) are carried as the kernel had them, including bytes
// that are no UTF-8; only the JSON form replaces such bytes by U+FFFD. They are hostile input: whoever shows
// them must escape them.
//
// The package imports the standard library only.
package event

import "time"

// Event is one thing that happened on a host.
//
// An Event handed to a sink is on loan: it and everything it points to may be reused by its source as soon as
// the call returns.
type Event struct {
	Time      time.Time  `json:"time"`
	Kind      Kind       `json:"kind"`
	Result    int32      `json:"result"` // 0, or the errno of a failed attempt
	Process   *Process   `json:"process,omitempty"`
	Target    *Process   `json:"target,omitempty"` // the process it was done to
	Container *Container `json:"container,omitempty"`
	Host      *Host      `json:"host,omitempty"`

	// The kind's own fields: at most one of these. It is named by the first word of the kind, or for the process and
	// container kinds, as Process says who did it and Container to what, by the second. process.exec and process.exit
	// have theirs in Process; an exec that failed has the file that was to be run in File.
	File      *File      `json:"file,omitempty"`
	Net       *Net       `json:"net,omitempty"`
	DNS       *DNS       `json:"dns,omitempty"`
	Agent     *Agent     `json:"agent,omitempty"`
	SetID     *SetID     `json:"setid,omitempty"`
	Ptrace    *Ptrace    `json:"ptrace,omitempty"`
	Dup       *Dup       `json:"dup,omitempty"`
	Namespace *Namespace `json:"namespace,omitempty"`
	FS        *Mount     `json:"fs,omitempty"`
	Memory    *Memory    `json:"memory,omitempty"`
	Module    *Module    `json:"module,omitempty"`
	BPF       *BPF       `json:"bpf,omitempty"`
	IOUring   *IOUring   `json:"iouring,omitempty"`
	Exec      *Exec      `json:"exec,omitempty"` // container.exec
	Stop      *Stop      `json:"stop,omitempty"` // container.stop
}

// Host is the machine, by the best identity it could give.
type Host struct {
	InstanceID string `json:"instance_id,omitempty"` // EC2 instance id
	AccountID  string `json:"account_id,omitempty"`
	Region     string `json:"region,omitempty"`
	MachineID  string `json:"machine_id,omitempty"` // machine-id(5), when there is no instance id
	Hostname   string `json:"hostname,omitempty"`
	BootID     ID     `json:"boot_id,omitzero"`
	// BootTime is the wall clock at boot as the agent saw it when it started; start times are relative to it.
	BootTime time.Time `json:"-"`
}

// Agent holds the fields of the agent.* kinds.
type Agent struct {
	Version string `json:"version,omitempty"`

	// agent.loss: Count events of kind Lost were lost at Stage because of Cause; or, when Count is absent,
	// nothing was observed from From to To, of kind Lost if there is one.
	Stage string    `json:"stage,omitempty"`
	Cause string    `json:"cause,omitempty"`
	Lost  Kind      `json:"lost,omitempty"`
	Count uint64    `json:"count,omitempty"`
	From  time.Time `json:"from,omitzero"`
	To    time.Time `json:"to,omitzero"`

	// Sources says per kind where its events come from (agent.start and agent.heartbeat).
	Sources []SourceState `json:"sources,omitempty"`
	// Instance is the machine that the agent runs on (agent.start and agent.heartbeat).
	Instance *Instance `json:"instance,omitempty"`

	// agent.throttle: Phase is "start" or "stop" of a time in which Event.Container, or the host outside of containers,
	// made more events than it may. Cgroup is which one, by its path. Dropped says how many were not recorded between
	// From and To, by kind: so far at the start, all of them at the stop.
	Phase   string    `json:"phase,omitempty"`
	Cgroup  string    `json:"cgroup,omitempty"`
	Dropped []Dropped `json:"dropped,omitempty"`

	// Heartbeat is how the agent fares (agent.heartbeat).
	Heartbeat *Heartbeat `json:"heartbeat,omitempty"`
}

// Heartbeat is how the agent fares (agent.heartbeat).
type Heartbeat struct {
	UptimeSeconds uint64  `json:"uptime_seconds"`        // since the agent started
	CPUSeconds    float64 `json:"cpu_seconds"`           // user and system time since the agent started; finite
	MemoryBytes   uint64  `json:"memory_bytes"`          // resident
	ConfigHash    string  `json:"config_hash,omitempty"` // SHA-256 of the configuration in force, hex

	// What waits on disk for the endpoint, and how much may.
	SpoolBatches  uint64 `json:"spool_batches"`
	SpoolEvents   uint64 `json:"spool_events"`
	SpoolBytes    int64  `json:"spool_bytes"`
	SpoolMaxBytes int64  `json:"spool_max_bytes"`

	// The ledger since the state folder was made, in events.
	Observed uint64 `json:"observed"`
	Acked    uint64 `json:"acked"`
	Lost     uint64 `json:"lost"`

	// Issues are codes of what is wrong now, each at most once: "kind_unhealthy:file.open", "spool_evicting", ….
	Issues []string `json:"issues,omitempty"`
}

// Dropped is a number of events of a kind.
type Dropped struct {
	Kind  Kind   `json:"kind"`
	Count uint64 `json:"count"`
}

// SourceState is the health of one kind's collection.
type SourceState struct {
	Kind Kind `json:"kind"`
	// Via is how the kind is observed: "ebpf/fentry", "ebpf/kprobe", "ebpf/tracepoint", "ebpf/cgroup", "audit/unicast",
	// "audit/multicast", "docker", "replay", "agent" or "off".
	Via     string `json:"via"`
	Healthy bool   `json:"healthy"`
	Reason  string `json:"reason,omitempty"`
}
