package ocsf

import "time"

// Common holds the attributes that every class has. Severity, status and the names beside numbers are the captions of
// the schema.
type Common struct {
	ActivityID   int32     `parquet:"activity_id" json:"activity_id"`
	ActivityName string    `parquet:"activity_name" json:"activity_name"`
	CategoryUID  int32     `parquet:"category_uid" json:"category_uid"`
	CategoryName string    `parquet:"category_name" json:"category_name"`
	ClassUID     int32     `parquet:"class_uid" json:"class_uid"`
	ClassName    string    `parquet:"class_name" json:"class_name"`
	TypeUID      int64     `parquet:"type_uid" json:"type_uid"`
	SeverityID   int32     `parquet:"severity_id" json:"severity_id"`
	Severity     string    `parquet:"severity" json:"severity"`
	StatusID     int32     `parquet:"status_id" json:"status_id"`
	Status       string    `parquet:"status" json:"status"`
	StatusCode   string    `parquet:"status_code,optional" json:"status_code,omitempty"` // the errno of a failed attempt
	Time         int64     `parquet:"time" json:"time"`                                  // ms since 1970
	TimeDT       time.Time `parquet:"time_dt,timestamp(microsecond)" json:"time_dt"`
	Metadata     Metadata  `parquet:"metadata" json:"metadata"`
	Device       Device    `parquet:"device" json:"device"`
	Cloud        *Cloud    `parquet:"cloud,optional" json:"cloud,omitempty"`
	Actor        *Actor    `parquet:"actor,optional" json:"actor,omitempty"`
	// Unmapped is the whole event in its JSON form, from which Event reads it back.
	Unmapped Object `parquet:"unmapped,json" json:"unmapped"`
}

// Object is the JSON of an object.
type Object string

// MarshalJSON implements json.Marshaler.
func (o Object) MarshalJSON() ([]byte, error) { return []byte(o), nil }

// UnmarshalJSON implements json.Unmarshaler.
func (o *Object) UnmarshalJSON(data []byte) error {
	*o = Object(data)
	return nil
}

// Metadata says where a row is from.
type Metadata struct {
	Version    string   `parquet:"version" json:"version"`
	Product    Product  `parquet:"product" json:"product"`
	UID        string   `parquet:"uid" json:"uid"`               // of the event: no two have the same
	EventCode  string   `parquet:"event_code" json:"event_code"` // the event's kind
	LoggedTime int64    `parquet:"logged_time,optional" json:"logged_time,omitempty"`
	Profiles   []string `parquet:"profiles,list" json:"profiles"`
}

// Product is a program.
type Product struct {
	VendorName string `parquet:"vendor_name" json:"vendor_name"`
	Name       string `parquet:"name,optional" json:"name,omitempty"`
	UID        string `parquet:"uid,optional" json:"uid,omitempty"`
	Version    string `parquet:"version,optional" json:"version,omitempty"`
}

// Device is the host.
type Device struct {
	TypeID      int32      `parquet:"type_id" json:"type_id"`
	UID         string     `parquet:"uid,optional" json:"uid,omitempty"`
	InstanceUID string     `parquet:"instance_uid,optional" json:"instance_uid,omitempty"`
	Hostname    string     `parquet:"hostname,optional" json:"hostname,omitempty"`
	Region      string     `parquet:"region,optional" json:"region,omitempty"`
	OS          OS         `parquet:"os" json:"os"`
	Container   *Container `parquet:"container,optional" json:"container,omitempty"` // what application_lifecycle is about
}

// OS is an operating system.
type OS struct {
	Name   string `parquet:"name" json:"name"`
	TypeID int32  `parquet:"type_id" json:"type_id"`
}

// Cloud is where the host is.
type Cloud struct {
	Provider string   `parquet:"provider" json:"provider"`
	Region   string   `parquet:"region,optional" json:"region,omitempty"`
	Account  *Account `parquet:"account,optional" json:"account,omitempty"`
}

// Account is an AWS account.
type Account struct {
	UID    string `parquet:"uid" json:"uid"`
	TypeID int32  `parquet:"type_id" json:"type_id"`
}

// Actor is who did it: a process, or, when none is known, a program's name.
type Actor struct {
	Process *Process `parquet:"process,optional" json:"process,omitempty"`
	AppName string   `parquet:"app_name,optional" json:"app_name,omitempty"`
}

// Process is a process.
type Process struct {
	UID            string         `parquet:"uid,optional" json:"uid,omitempty"`
	PID            int64          `parquet:"pid" json:"pid"`
	NamespacePID   int64          `parquet:"namespace_pid,optional" json:"namespace_pid,omitempty"`
	Name           string         `parquet:"name,optional" json:"name,omitempty"`
	CmdLine        string         `parquet:"cmd_line,optional" json:"cmd_line,omitempty"`
	CreatedTime    int64          `parquet:"created_time,optional" json:"created_time,omitempty"`
	TerminatedTime int64          `parquet:"terminated_time,optional" json:"terminated_time,omitempty"`
	File           *File          `parquet:"file,optional" json:"file,omitempty"`
	User           *User          `parquet:"user,optional" json:"user,omitempty"`
	Group          *Group         `parquet:"group,optional" json:"group,omitempty"`
	EUID           *int64         `parquet:"euid,optional" json:"euid,omitempty"`
	EGID           *int64         `parquet:"egid,optional" json:"egid,omitempty"`
	Container      *Container     `parquet:"container,optional" json:"container,omitempty"`
	ParentProcess  *ParentProcess `parquet:"parent_process,optional" json:"parent_process,omitempty"`
	Lineage        []string       `parquet:"lineage,list,optional" json:"lineage,omitempty"` // executables of the ancestors, parent first
}

// ParentProcess is what is told of a parent.
type ParentProcess struct {
	UID  string `parquet:"uid,optional" json:"uid,omitempty"`
	PID  int64  `parquet:"pid" json:"pid"`
	Name string `parquet:"name,optional" json:"name,omitempty"`
	File *File  `parquet:"file,optional" json:"file,omitempty"`
}

// User is an account of the host, or of the container.
type User struct {
	UID    string `parquet:"uid" json:"uid"`
	Name   string `parquet:"name,optional" json:"name,omitempty"`
	TypeID int32  `parquet:"type_id" json:"type_id"`
}

// Group is a group of the host, or of the container.
type Group struct {
	UID  string `parquet:"uid" json:"uid"`
	Name string `parquet:"name,optional" json:"name,omitempty"`
}

// Container is a container.
type Container struct {
	UID          string       `parquet:"uid" json:"uid"`
	Name         string       `parquet:"name,optional" json:"name,omitempty"`
	Runtime      string       `parquet:"runtime,optional" json:"runtime,omitempty"`
	Orchestrator string       `parquet:"orchestrator,optional" json:"orchestrator,omitempty"`
	Image        *Image       `parquet:"image,optional" json:"image,omitempty"`
	Hash         *Fingerprint `parquet:"hash,optional" json:"hash,omitempty"` // of the image, in its registry
}

// Image is what a container was made of.
type Image struct {
	UID  string `parquet:"uid,optional" json:"uid,omitempty"`
	Name string `parquet:"name,optional" json:"name,omitempty"`
}

// File is a file.
type File struct {
	TypeID int32         `parquet:"type_id" json:"type_id"`
	Name   string        `parquet:"name,optional" json:"name,omitempty"`
	Path   string        `parquet:"path,optional" json:"path,omitempty"`
	Hashes []Fingerprint `parquet:"hashes,list,optional" json:"hashes,omitempty"`
}

// Fingerprint is a digest.
type Fingerprint struct {
	AlgorithmID int32  `parquet:"algorithm_id" json:"algorithm_id"`
	Value       string `parquet:"value" json:"value"`
}

// Endpoint is one side of a connection.
type Endpoint struct {
	IP          string `parquet:"ip,optional" json:"ip,omitempty"`
	Port        int32  `parquet:"port,optional" json:"port,omitempty"`
	Hostname    string `parquet:"hostname,optional" json:"hostname,omitempty"`
	InstanceUID string `parquet:"instance_uid,optional" json:"instance_uid,omitempty"`
	Name        string `parquet:"name,optional" json:"name,omitempty"` // of AF_UNIX the path; "unknown"
}

// ConnectionInfo says how two sides speak.
type ConnectionInfo struct {
	DirectionID   int32  `parquet:"direction_id" json:"direction_id"`
	ProtocolNum   int32  `parquet:"protocol_num,optional" json:"protocol_num,omitempty"`
	ProtocolVerID int32  `parquet:"protocol_ver_id" json:"protocol_ver_id"`
	ProtocolVer   string `parquet:"protocol_ver,optional" json:"protocol_ver,omitempty"` // the address family, when it is neither IPv4 nor IPv6
}

// DNSQuery is a name that was asked for.
type DNSQuery struct {
	Hostname  string `parquet:"hostname" json:"hostname"`
	Type      string `parquet:"type,optional" json:"type,omitempty"`
	PacketUID int64  `parquet:"packet_uid" json:"packet_uid"`
}

// DNSAnswer is a record of an answer.
type DNSAnswer struct {
	RData     string `parquet:"rdata" json:"rdata"`
	Type      string `parquet:"type,optional" json:"type,omitempty"`
	TTL       int64  `parquet:"ttl" json:"ttl"`
	PacketUID int64  `parquet:"packet_uid" json:"packet_uid"`
}

// Module is a file that is mapped as code.
type Module struct {
	LoadTypeID  int32  `parquet:"load_type_id" json:"load_type_id"`
	BaseAddress string `parquet:"base_address,optional" json:"base_address,omitempty"`
	File        *File  `parquet:"file,optional" json:"file,omitempty"`
}

// Driver is a kernel module.
type Driver struct {
	File File `parquet:"file" json:"file"`
}

// Kernel is something of the kernel's.
type Kernel struct {
	Name       string `parquet:"name" json:"name"`
	TypeID     int32  `parquet:"type_id" json:"type_id"`
	SystemCall string `parquet:"system_call,optional" json:"system_call,omitempty"`
}
