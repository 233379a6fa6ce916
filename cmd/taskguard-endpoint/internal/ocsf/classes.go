package ocsf

// Class is a class of the schema.
type Class struct {
	UID          int32
	Name         string // as the schema's address has it; the partition "class" of the store
	Caption      string
	CategoryUID  int32
	CategoryName string
}

// Row is a pointer to one of the row types.
type Row interface {
	// Of returns the row's class.
	Of() Class
	common() *Common
}

// ProcessActivity is class 1007.
type ProcessActivity struct {
	Common
	Process         Process `parquet:"process" json:"process"` // the one it was done to
	ExitCode        *int32  `parquet:"exit_code,optional" json:"exit_code,omitempty"`
	InjectionTypeID int32   `parquet:"injection_type_id,optional" json:"injection_type_id,omitempty"`
}

// FileActivity is class 1001, file system activity.
type FileActivity struct {
	Common
	File       File  `parquet:"file" json:"file"`
	FileResult *File `parquet:"file_result,optional" json:"file_result,omitempty"`
	AccessMask int64 `parquet:"access_mask,optional" json:"access_mask,omitempty"` // the flags of open(2), x86-64
}

// NetworkActivity is class 4001.
type NetworkActivity struct {
	Common
	Src            Endpoint       `parquet:"src_endpoint" json:"src_endpoint"`
	Dst            Endpoint       `parquet:"dst_endpoint" json:"dst_endpoint"`
	ConnectionInfo ConnectionInfo `parquet:"connection_info" json:"connection_info"`
}

// DNSActivity is class 4003. Of several questions it has the first.
type DNSActivity struct {
	Common
	Src            Endpoint       `parquet:"src_endpoint" json:"src_endpoint"` // who asks
	Dst            Endpoint       `parquet:"dst_endpoint" json:"dst_endpoint"` // the server
	ConnectionInfo ConnectionInfo `parquet:"connection_info" json:"connection_info"`
	Query          *DNSQuery      `parquet:"query,optional" json:"query,omitempty"`
	Answers        []DNSAnswer    `parquet:"answers,list,optional" json:"answers,omitempty"`
	RcodeID        *int32         `parquet:"rcode_id,optional" json:"rcode_id,omitempty"`
}

// MemoryActivity is class 1004.
type MemoryActivity struct {
	Common
	Process              Process `parquet:"process" json:"process"` // the one whose memory it is
	BaseAddress          string  `parquet:"base_address,optional" json:"base_address,omitempty"`
	Size                 int64   `parquet:"size,optional" json:"size,omitempty"`
	RequestedPermissions int64   `parquet:"requested_permissions,optional" json:"requested_permissions,omitempty"` // PROT_* of mmap(2)
}

// ModuleActivity is class 1005: a file was mapped as code.
type ModuleActivity struct {
	Common
	Module Module `parquet:"module" json:"module"`
}

// KernelExtension is class 1002.
type KernelExtension struct {
	Common
	Driver Driver `parquet:"driver" json:"driver"`
}

// KernelActivity is class 1003.
type KernelActivity struct {
	Common
	Kernel Kernel `parquet:"kernel" json:"kernel"`
}

// ApplicationLifecycle is class 6002: the agent, and containers; and what this version does not know.
type ApplicationLifecycle struct {
	Common
	App Product `parquet:"app" json:"app"`
}

const system, network, application = "System Activity", "Network Activity", "Application Activity"

// Of implements Row.
func (*ProcessActivity) Of() Class {
	return Class{1007, "process_activity", "Process Activity", 1, system}
}

// Of implements Row.
func (*FileActivity) Of() Class {
	return Class{1001, "file_activity", "File System Activity", 1, system}
}

// Of implements Row.
func (*NetworkActivity) Of() Class {
	return Class{4001, "network_activity", "Network Activity", 4, network}
}

// Of implements Row.
func (*DNSActivity) Of() Class { return Class{4003, "dns_activity", "DNS Activity", 4, network} }

// Of implements Row.
func (*MemoryActivity) Of() Class {
	return Class{1004, "memory_activity", "Memory Activity", 1, system}
}

// Of implements Row.
func (*ModuleActivity) Of() Class {
	return Class{1005, "module_activity", "Module Activity", 1, system}
}

// Of implements Row.
func (*KernelExtension) Of() Class {
	return Class{1002, "kernel_extension", "Kernel Extension Activity", 1, system}
}

// Of implements Row.
func (*KernelActivity) Of() Class {
	return Class{1003, "kernel_activity", "Kernel Activity", 1, system}
}

// Of implements Row.
func (*ApplicationLifecycle) Of() Class {
	return Class{6002, "application_lifecycle", "Application Lifecycle", 6, application}
}

func (c *Common) common() *Common { return c }

// Head returns what all classes have in common.
func Head(r Row) *Common { return r.common() }
