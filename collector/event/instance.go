package event

import (
	"net/netip"
	"time"
)

// Instance is what is known of the machine beside its identity. What EC2's instance metadata service does not tell is
// absent: on other machines, most of it.
type Instance struct {
	Type                 string      `json:"type,omitempty"`
	ImageID              string      `json:"image_id,omitempty"` // the AMI
	AvailabilityZone     string      `json:"availability_zone,omitempty"`
	AvailabilityZoneID   string      `json:"availability_zone_id,omitempty"`
	LaunchTime           time.Time   `json:"launch_time,omitzero"`
	InstanceProfileARN   string      `json:"instance_profile_arn,omitempty"`
	Interfaces           []Interface `json:"interfaces,omitempty"` // the primary one first
	Tags                 []Tag       `json:"tags,omitempty"`       // where the instance's metadata options allow it
	ECSCluster           string      `json:"ecs_cluster,omitempty"`
	ContainerInstanceARN string      `json:"container_instance_arn,omitempty"`

	Architecture string `json:"architecture,omitempty"` // as uname(2) has it
	Kernel       string `json:"kernel,omitempty"`       // its release
	OS           string `json:"os,omitempty"`           // PRETTY_NAME of os-release(5)
	CPUs         uint32 `json:"cpus,omitempty"`
	MemoryBytes  uint64 `json:"memory_bytes,omitempty"`
}

// Interface is a network interface of an instance.
type Interface struct {
	ID             string       `json:"id,omitempty"`
	MAC            string       `json:"mac"`
	VPCID          string       `json:"vpc_id,omitempty"`
	SubnetID       string       `json:"subnet_id,omitempty"`
	SecurityGroups []string     `json:"security_groups,omitempty"` // their ids
	PrivateIPs     []netip.Addr `json:"private_ips,omitempty"`
	PublicIPs      []netip.Addr `json:"public_ips,omitempty"`
	IPv6s          []netip.Addr `json:"ipv6s,omitempty"`
}
