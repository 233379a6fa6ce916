package batch

import (
	"net/netip"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/sender/batch/batchpb"
)

func appendInstance(m []byte, i *event.Instance) []byte {
	m = appendString(m, 1, i.Type)
	m = appendString(m, 2, i.ImageID)
	m = appendString(m, 3, i.AvailabilityZone)
	m = appendString(m, 4, i.AvailabilityZoneID)
	m = appendFixed(m, 5, unixNano(i.LaunchTime))
	m = appendString(m, 6, i.InstanceProfileARN)
	for _, network := range i.Interfaces {
		n := appendString(nil, 1, network.ID)
		n = appendString(n, 2, network.MAC)
		n = appendString(n, 3, network.VPCID)
		n = appendString(n, 4, network.SubnetID)
		n = appendStrings(n, 5, network.SecurityGroups)
		n = appendAddrs(n, 6, network.PrivateIPs)
		n = appendAddrs(n, 7, network.PublicIPs)
		m = appendMessage(m, 7, appendAddrs(n, 8, network.IPv6s))
	}
	m = appendTags(m, 8, i.Tags)
	m = appendString(m, 9, i.ECSCluster)
	m = appendString(m, 10, i.ContainerInstanceARN)
	m = appendString(m, 11, i.Architecture)
	m = appendString(m, 12, i.Kernel)
	m = appendString(m, 13, i.OS)
	m = appendUint(m, 14, uint64(i.CPUs))
	return appendUint(m, 15, i.MemoryBytes)
}

func appendAddrs(m []byte, field protowire.Number, list []netip.Addr) []byte {
	for _, addr := range list {
		m = appendMessage(m, field, addr.AsSlice())
	}
	return m
}

func (d *decoder) instance(i *batchpb.Instance) *event.Instance {
	if i == nil {
		return nil
	}
	out := &event.Instance{
		Type: string(i.Type), ImageID: string(i.ImageId), AvailabilityZone: string(i.AvailabilityZone),
		AvailabilityZoneID: string(i.AvailabilityZoneId), LaunchTime: unixTime(i.LaunchTime),
		InstanceProfileARN: string(i.InstanceProfileArn), Tags: tagsOf(i.Tags), ECSCluster: string(i.EcsCluster),
		ContainerInstanceARN: string(i.ContainerInstanceArn), Architecture: string(i.Architecture),
		Kernel: string(i.Kernel), OS: string(i.Os), CPUs: i.Cpus, MemoryBytes: i.MemoryBytes,
	}
	for _, n := range i.Interfaces {
		out.Interfaces = append(out.Interfaces, event.Interface{
			ID: string(n.Id), MAC: string(n.Mac), VPCID: string(n.VpcId), SubnetID: string(n.SubnetId),
			SecurityGroups: stringsOf(n.SecurityGroups), PrivateIPs: d.addrs(n.PrivateIps), PublicIPs: d.addrs(n.PublicIps),
			IPv6s: d.addrs(n.Ipv6S),
		})
	}
	return out
}

func (d *decoder) addrs(list [][]byte) (out []netip.Addr) {
	for _, b := range list {
		out = append(out, d.addr(b))
	}
	return out
}
