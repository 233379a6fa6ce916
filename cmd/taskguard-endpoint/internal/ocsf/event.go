// Package ocsf turns events into events of the Open Cybersecurity Schema Framework (schema.ocsf.io), version 1.2.0.
//
// It promises: what From gives is valid by that schema, whatever an agent sent, and its attribute unmapped is the whole
// event, from which Event.Original reads it back.
package ocsf

import "encoding/json"

// Version is the version of the schema.
const Version = "1.2.0"

// Event is an event of any class: attributes that its class does not have are absent. Names beside numbers are the
// captions of the schema. Times are milliseconds since 1970.
type Event struct {
	ActivityID   int32  `json:"activity_id"`
	ActivityName string `json:"activity_name"`
	CategoryUID  int32  `json:"category_uid"`
	CategoryName string `json:"category_name"`
	ClassUID     int32  `json:"class_uid"`
	ClassName    string `json:"class_name"`
	TypeUID      int64  `json:"type_uid"`
	SeverityID   int32  `json:"severity_id"`
	Severity     string `json:"severity"`
	StatusID     int32  `json:"status_id"`
	Status       string `json:"status"`
	StatusCode   string `json:"status_code,omitempty"` // the errno of a failed attempt
	Time         int64  `json:"time"`

	Metadata Metadata `json:"metadata"`
	Device   *Device  `json:"device,omitempty"`
	Cloud    *Cloud   `json:"cloud,omitempty"`
	Actor    *Actor   `json:"actor,omitempty"`

	Process              *Process        `json:"process,omitempty"`               // 1007, 1004: the one it was done to
	ExitCode             *int32          `json:"exit_code,omitempty"`             // 1007; 128 and the signal that ended it, as shells have it
	File                 *File           `json:"file,omitempty"`                  // 1001
	FileResult           *File           `json:"file_result,omitempty"`           // 1001: what it is called after a rename
	AccessMask           *uint32         `json:"access_mask,omitempty"`           // 1001: the flags of open(2), x86-64
	BaseAddress          string          `json:"base_address,omitempty"`          // 1004
	Size                 int64           `json:"size,omitempty"`                  // 1004: bytes
	RequestedPermissions *uint32         `json:"requested_permissions,omitempty"` // 1004: PROT_* of mmap(2)
	Module               *Module         `json:"module,omitempty"`                // 1005
	Driver               *Driver         `json:"driver,omitempty"`                // 1002
	Kernel               *Kernel         `json:"kernel,omitempty"`                // 1003
	Src                  *Endpoint       `json:"src_endpoint,omitempty"`          // 4001, 4003: who asks
	Dst                  *Endpoint       `json:"dst_endpoint,omitempty"`          // 4001, 4003: who is asked
	ConnectionInfo       *ConnectionInfo `json:"connection_info,omitempty"`       // 4001, 4003
	Query                *DNSQuery       `json:"query,omitempty"`                 // 4003: the first question
	Answers              []DNSAnswer     `json:"answers,omitempty"`               // 4003: those with an address or a name
	Rcode                string          `json:"rcode,omitempty"`                 // 4003
	RcodeID              *int32          `json:"rcode_id,omitempty"`              // 4003
	App                  *Product        `json:"app,omitempty"`                   // 6002

	Unmapped json.RawMessage `json:"unmapped"` // the whole event in its JSON form
}

// Metadata says where an event is from.
type Metadata struct {
	Version    string   `json:"version"`
	Product    Product  `json:"product"`
	UID        string   `json:"uid"`                   // agent/epoch/sequence/index: no two events have the same
	EventCode  string   `json:"event_code"`            // the event's kind
	LoggedTime int64    `json:"logged_time,omitempty"` // when the endpoint stored it
	Profiles   []string `json:"profiles"`
}

// Product is a program.
type Product struct {
	VendorName string `json:"vendor_name"`
	Name       string `json:"name,omitempty"`
	UID        string `json:"uid,omitempty"`
	Version    string `json:"version,omitempty"`
}

// Device is the host.
type Device struct {
	TypeID      int32      `json:"type_id"`
	UID         string     `json:"uid"` // the instance id, or the machine id
	InstanceUID string     `json:"instance_uid,omitempty"`
	Hostname    string     `json:"hostname,omitempty"`
	Region      string     `json:"region,omitempty"`
	OS          OS         `json:"os"`
	Container   *Container `json:"container,omitempty"` // what the event is about, or happened in
}

// OS is an operating system.
type OS struct {
	Name   string `json:"name"`
	TypeID int32  `json:"type_id"`
}

// Cloud is where the host is.
type Cloud struct {
	Provider string   `json:"provider"`
	Region   string   `json:"region,omitempty"`
	Account  *Account `json:"account,omitempty"`
}

// Account is an AWS account.
type Account struct {
	UID    string `json:"uid"`
	TypeID int32  `json:"type_id"`
}

// Actor is who did it: a process, or, when none is known, a program's name.
type Actor struct {
	Process *Process `json:"process,omitempty"`
	AppName string   `json:"app_name,omitempty"`
}

// Process is a process. PID 0 is one that is not known.
type Process struct {
	UID            string     `json:"uid,omitempty"`
	PID            int64      `json:"pid"`
	NamespacePID   int64      `json:"namespace_pid,omitempty"`
	Name           string     `json:"name,omitempty"`
	CmdLine        string     `json:"cmd_line,omitempty"` // the arguments with spaces between them
	CreatedTime    int64      `json:"created_time,omitempty"`
	TerminatedTime int64      `json:"terminated_time,omitempty"`
	File           *File      `json:"file,omitempty"`
	User           *User      `json:"user,omitempty"`
	Group          *Group     `json:"group,omitempty"`
	EUID           *int64     `json:"euid,omitempty"`
	EGID           *int64     `json:"egid,omitempty"`
	Container      *Container `json:"container,omitempty"`
	ParentProcess  *Process   `json:"parent_process,omitempty"`
	Lineage        []string   `json:"lineage,omitempty"` // the ancestors' executables, parent first
}

// User is an account of the host, or of the container.
type User struct {
	UID    string `json:"uid"`
	Name   string `json:"name,omitempty"`
	TypeID int32  `json:"type_id"`
}

// Group is a group of the host, or of the container.
type Group struct {
	UID  string `json:"uid"`
	Name string `json:"name,omitempty"`
}

// Container is a container.
type Container struct {
	UID          string       `json:"uid"`
	Name         string       `json:"name,omitempty"`
	Runtime      string       `json:"runtime,omitempty"`
	Orchestrator string       `json:"orchestrator,omitempty"`
	Image        *Image       `json:"image,omitempty"`
	Hash         *Fingerprint `json:"hash,omitempty"` // of the image, in its registry
}

// Image is what a container was made of.
type Image struct {
	UID  string `json:"uid"`
	Name string `json:"name,omitempty"`
}

// File is a file.
type File struct {
	TypeID int32         `json:"type_id"`
	Name   string        `json:"name"`
	Path   string        `json:"path,omitempty"`
	UID    string        `json:"uid,omitempty"` // device:inode, the device as major:minor
	Hashes []Fingerprint `json:"hashes,omitempty"`
}

// Fingerprint is a digest.
type Fingerprint struct {
	AlgorithmID int32  `json:"algorithm_id"`
	Algorithm   string `json:"algorithm,omitempty"`
	Value       string `json:"value"`
}

// Endpoint is one side of a connection. Its Name is the path of AF_UNIX, or "unknown".
type Endpoint struct {
	IP          string `json:"ip,omitempty"`
	Port        int32  `json:"port,omitempty"`
	Hostname    string `json:"hostname,omitempty"`
	InstanceUID string `json:"instance_uid,omitempty"`
	Name        string `json:"name,omitempty"`
}

// ConnectionInfo says how two sides speak.
type ConnectionInfo struct {
	DirectionID   int32  `json:"direction_id"`
	ProtocolNum   int32  `json:"protocol_num,omitempty"`
	ProtocolVerID int32  `json:"protocol_ver_id"`
	ProtocolVer   string `json:"protocol_ver,omitempty"` // the address family, when it is neither IPv4 nor IPv6
}

// DNSQuery is a name that was asked for.
type DNSQuery struct {
	Hostname  string `json:"hostname"`
	Type      string `json:"type,omitempty"`
	PacketUID int32  `json:"packet_uid"`
}

// DNSAnswer is a record of an answer.
type DNSAnswer struct {
	RData     string `json:"rdata"`
	Type      string `json:"type,omitempty"`
	TTL       int64  `json:"ttl"`
	PacketUID int32  `json:"packet_uid"`
}

// Module is a file that is mapped as code.
type Module struct {
	LoadTypeID  int32  `json:"load_type_id"`
	BaseAddress string `json:"base_address,omitempty"`
	File        *File  `json:"file,omitempty"`
}

// Driver is a kernel module.
type Driver struct {
	File File `json:"file"`
}

// Kernel is something of the kernel's.
type Kernel struct {
	Name       string `json:"name"`
	TypeID     int32  `json:"type_id"`
	SystemCall string `json:"system_call,omitempty"`
}
