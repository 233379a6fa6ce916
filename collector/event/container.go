package event

import (
	"encoding/json"
	"net/netip"
	"time"
)

// Container is where a process runs, when that is not the host itself. ID comes from the cgroup's path; the rest from
// the container engine and the ECS agent, which may answer later: until then Pending is true.
type Container struct {
	ID          string `json:"id"`
	Name        string `json:"name,omitempty"`
	Image       string `json:"image,omitempty"`        // the reference that it was created from
	ImageID     string `json:"image_id,omitempty"`     // the digest of the image's configuration
	ImageDigest string `json:"image_digest,omitempty"` // the digest that a registry has the image by
	Runtime     string `json:"runtime,omitempty"`
	ECS         *ECS   `json:"ecs,omitempty"`

	// Command is the entry point with its arguments; secrets in it are masked.
	Command   Argv      `json:"command,omitzero"`
	CreatedAt time.Time `json:"created_at,omitzero"`
	StartedAt time.Time `json:"started_at,omitzero"` // the last time
	Restarts  uint32    `json:"restarts,omitempty"`  // by the engine, since it was created
	// Labels are those that are not told of as ECS, sorted by key. There may be more than are kept.
	Labels   []Tag            `json:"labels,omitempty"`
	Ports    []Port           `json:"ports,omitempty"`
	Networks []Network        `json:"networks,omitempty"`
	Mounts   []ContainerMount `json:"mounts,omitempty"`
	Posture  *Posture         `json:"posture,omitempty"`

	// Truncated says that some of the above, which its author can make as long as he likes, was cut.
	Truncated bool `json:"truncated,omitempty"`
	// Pending says that the container engine had not described the container when the event was sealed.
	Pending bool `json:"pending,omitempty"`
}

// Tag is a label of a container, or a tag of an AWS resource.
type Tag struct {
	Key   string `json:"key"`
	Value string `json:"value"`
}

// Port is a container's port that is published on the host, or, without HostPort, one that is not.
type Port struct {
	Port     uint16     `json:"port"`
	Protocol string     `json:"protocol"` // "tcp", "udp" or "sctp"
	HostIP   netip.Addr `json:"host_ip,omitzero"`
	HostPort uint16     `json:"host_port,omitempty"`
}

// Network is one that a container is attached to.
type Network struct {
	Name string     `json:"name"`
	IP   netip.Addr `json:"ip,omitzero"`
	IPv6 netip.Addr `json:"ipv6,omitzero"`
	MAC  string     `json:"mac,omitempty"`
}

// ContainerMount is what is mounted into a container beside its image.
type ContainerMount struct {
	Type        string `json:"type"`             // "bind", "volume", "tmpfs", …
	Source      string `json:"source,omitempty"` // on the host
	Destination string `json:"destination"`      // in the container
	ReadOnly    bool   `json:"read_only,omitempty"`
}

// Posture is what a container may do to its host, as its engine was told to run it, and what that exposes.
type Posture struct {
	Privileged          bool     `json:"privileged"`
	CapabilitiesAdded   []string `json:"capabilities_added,omitempty"`   // without "CAP_"
	CapabilitiesDropped []string `json:"capabilities_dropped,omitempty"` // without "CAP_"
	// The namespaces: "host", "container:ID", or the engine's word for one of its own.
	PIDMode     string `json:"pid_mode,omitempty"`
	NetworkMode string `json:"network_mode,omitempty"`
	IPCMode     string `json:"ipc_mode,omitempty"`
	UTSMode     string `json:"uts_mode,omitempty"`
	UserMode    string `json:"user_mode,omitempty"`
	CgroupMode  string `json:"cgroup_mode,omitempty"`

	NoNewPrivileges bool     `json:"no_new_privileges"`
	Seccomp         string   `json:"seccomp,omitempty"`  // "default", "custom" or "unconfined"
	AppArmor        string   `json:"apparmor,omitempty"` // the profile, or "unconfined"
	User            string   `json:"user,omitempty"`     // as configured; empty is root
	ReadOnlyRoot    bool     `json:"read_only_root"`
	Devices         []string `json:"devices,omitempty"` // of the host

	// Credentials are environment variables that hold what looks like a credential. Their values never leave the host.
	Credentials []Credential `json:"credentials,omitempty"`
	Traits      Traits       `json:"traits,omitempty"`
}

// Credential is an environment variable that holds one.
type Credential struct {
	Name string `json:"name"`
	// Kind is "password", "token", "api_key", "private_key", "aws_access_key", "url_password" or "secret".
	Kind string `json:"kind"`
}

// Traits are what exposes a container's host. Their JSON form is an array of names.
type Traits uint32

// The traits. Security Hub's exposure findings for ECS name the first, TraitHostPID, TraitHostNetwork,
// TraitHostRoot, TraitSensitivePath and TraitCredentials, for task definitions.
const (
	TraitPrivileged         Traits = 1 << iota
	TraitCapabilities              // capabilities were added to the engine's default
	TraitHostPID                   // it sees and can signal the host's processes
	TraitHostNetwork               // it has the host's network
	TraitHostIPC                   // it has the host's shared memory
	TraitHostUTS                   // it can rename the host
	TraitHostRoot                  // the host's root directory is mounted
	TraitSensitivePath             // a directory of the host is mounted that holds its secrets, programs or configuration
	TraitDockerSocket              // it can have the engine do anything
	TraitHostDevices               // it has devices of the host
	TraitNewPrivileges             // set-user-ID programs in it give privileges
	TraitSeccompUnconfined         // no system call is forbidden
	TraitAppArmorUnconfined        // where the engine has AppArmor
	TraitRootUser                  // it runs as the host's user 0
	TraitWritableRoot              // its root file system can be written to
	TraitCredentials               // there are credentials in its environment
	TraitPublicPorts               // ports are published on all of the host's addresses
)

var traitNames = []string{
	"privileged", "capabilities_added", "host_pid", "host_network", "host_ipc", "host_uts", "host_root_mounted",
	"sensitive_path_mounted", "docker_socket_mounted", "host_devices", "new_privileges", "seccomp_unconfined",
	"apparmor_unconfined", "root_user", "writable_root", "plaintext_credentials", "public_ports",
}

// Names returns the names of the traits.
func (t Traits) Names() []string { return bitNames(uint32(t), traitNames) }

// MarshalJSON implements json.Marshaler.
func (t Traits) MarshalJSON() ([]byte, error) { return json.Marshal(t.Names()) }

// UnmarshalJSON implements json.Unmarshaler.
func (t *Traits) UnmarshalJSON(data []byte) error {
	bits, err := parseBitNames(data, traitNames)
	*t = Traits(bits)
	return err
}

// ECS is the task a container belongs to. TaskID alone is known from the cgroup's path.
type ECS struct {
	Cluster              string `json:"cluster,omitempty"` // its name
	ClusterARN           string `json:"cluster_arn,omitempty"`
	ContainerInstanceARN string `json:"container_instance_arn,omitempty"`
	TaskARN              string `json:"task_arn,omitempty"`
	TaskID               string `json:"task_id,omitempty"`
	Family               string `json:"family,omitempty"`
	Revision             string `json:"revision,omitempty"`
	Container            string `json:"container,omitempty"` // the container's name in the task definition
	Service              string `json:"service,omitempty"`
	LaunchType           string `json:"launch_type,omitempty"` // "EC2", "FARGATE" or "EXTERNAL"
	DesiredStatus        string `json:"desired_status,omitempty"`
	KnownStatus          string `json:"known_status,omitempty"`
	// StartedAt is when the container was started, by the ECS agent.
	StartedAt time.Time `json:"started_at,omitzero"`
	Tags      []Tag     `json:"tags,omitempty"` // of the task; there may be more than are kept

	// Disputed says that someone told of another task, and was not believed: labels that are not the ECS agent's.
	Disputed bool `json:"disputed,omitempty"`
	// Sources says which of these facts are by whose word. Where there are several, it is the one that counts most:
	// from the first to the last as the fields stand here.
	Sources ECSSources `json:"sources,omitzero"`
}

// ECSSources says who told what of a task.
type ECSSources struct {
	Cgroup        ECSFacts `json:"cgroup,omitempty"`        // the kernel: the path of the container's cgroup
	Metadata      ECSFacts `json:"metadata,omitempty"`      // the task metadata endpoint, version 4
	Introspection ECSFacts `json:"introspection,omitempty"` // the ECS agent's introspection API
	Label         ECSFacts `json:"label,omitempty"`         // the container's labels, which whoever starts it can set
}

// ECSFacts is a set of fields of ECS. Its JSON form is an array of their names there.
type ECSFacts uint32

// The facts.
const (
	FactCluster ECSFacts = 1 << iota
	FactClusterARN
	FactContainerInstanceARN
	FactTaskARN
	FactTaskID
	FactFamily
	FactRevision
	FactContainer
	FactService
	FactLaunchType
	FactDesiredStatus
	FactKnownStatus
	FactStartedAt
	FactTags
)

var factNames = []string{
	"cluster", "cluster_arn", "container_instance_arn", "task_arn", "task_id", "family", "revision", "container",
	"service", "launch_type", "desired_status", "known_status", "started_at", "tags",
}

// MarshalJSON implements json.Marshaler.
func (f ECSFacts) MarshalJSON() ([]byte, error) { return json.Marshal(bitNames(uint32(f), factNames)) }

// UnmarshalJSON implements json.Unmarshaler.
func (f *ECSFacts) UnmarshalJSON(data []byte) error {
	bits, err := parseBitNames(data, factNames)
	*f = ECSFacts(bits)
	return err
}
