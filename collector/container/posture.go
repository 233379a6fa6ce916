package container

import (
	"path"
	"slices"
	"strings"

	"github.com/moby/moby/api/types/container"
	"github.com/moby/moby/api/types/mount"

	"github.com/taskguard/taskguard/collector/event"
)

// engineInfo is what the engine says of itself.
type engineInfo struct {
	appArmor        bool   // it confines containers with AppArmor
	userRemap       bool   // root in its containers is not the host's
	noNewPrivileges bool   // of containers that do not say
	seccomp         string // its profile for containers that name none: "default", "custom" or "unconfined"
	socketPath      string // of its API
}

// engineInfoOf reads the engine's list of security options, such as "name=seccomp,profile=builtin".
func engineInfoOf(options []string, socket string) engineInfo {
	info := engineInfo{seccomp: unconfined, socketPath: socket}
	for _, option := range options {
		name, rest, _ := strings.Cut(option, ",")
		switch strings.TrimPrefix(name, "name=") {
		case "apparmor":
			info.appArmor = true
		case "no-new-privileges":
			info.noNewPrivileges = true
		case "userns", "rootless":
			info.userRemap = true
		case "seccomp":
			switch profile := strings.TrimPrefix(rest, "profile="); profile {
			case "default", "builtin":
				info.seccomp = "default"
			case unconfined:
			default:
				info.seccomp = "custom"
			}
		}
	}
	return info
}

const (
	unconfined = "unconfined"
	hostMode   = "host"
)

// posture returns what a container may do to its host.
func (i *inspection) posture(c *container.InspectResponse, ports []event.Port) *event.Posture {
	h := c.HostConfig
	p := &event.Posture{
		Privileged:          h.Privileged,
		CapabilitiesAdded:   i.capabilities(h.CapAdd),
		CapabilitiesDropped: i.capabilities(h.CapDrop),
		PIDMode:             i.text(string(h.PidMode)), NetworkMode: i.text(string(h.NetworkMode)),
		IPCMode: i.text(string(h.IpcMode)), UTSMode: i.text(string(h.UTSMode)),
		UserMode: i.text(string(h.UsernsMode)), CgroupMode: i.text(string(h.CgroupnsMode)),
		User: i.text(c.Config.User), ReadOnlyRoot: h.ReadonlyRootfs,
		NoNewPrivileges: i.engine.noNewPrivileges, Seccomp: i.engine.seccomp, AppArmor: i.text(c.AppArmorProfile),
		Devices: i.devices(h.Devices), Credentials: i.credentials(c.Config.Env),
	}
	for _, option := range h.SecurityOpt {
		confine(p, option)
	}
	if h.Privileged {
		p.Seccomp = unconfined
		if i.engine.appArmor {
			p.AppArmor = unconfined
		}
	}
	p.Traits = i.traits(p, ports) | mountTraits(h, c.Mounts, i.engine.socketPath)
	return p
}

// confine applies one of the options that say how a container is confined, with either separator that Docker takes.
func confine(p *event.Posture, option string) {
	name, value := option, ""
	if i := strings.IndexAny(option, "=:"); i >= 0 {
		name, value = option[:i], option[i+1:]
	}
	switch name {
	case "no-new-privileges":
		p.NoNewPrivileges = value == "" || value == "true"
	case "seccomp":
		switch value {
		case unconfined:
			p.Seccomp = unconfined
		case "builtin":
			p.Seccomp = "default"
		default: // the profile itself
			p.Seccomp = "custom"
		}
	case "apparmor":
		if value == unconfined {
			p.AppArmor = unconfined
		}
	}
}

func (i *inspection) traits(p *event.Posture, ports []event.Port) (t event.Traits) {
	for _, trait := range [...]struct {
		has bool
		is  event.Traits
	}{
		{p.Privileged, event.TraitPrivileged},
		{len(p.CapabilitiesAdded) > 0, event.TraitCapabilities},
		{p.PIDMode == hostMode, event.TraitHostPID},
		{p.NetworkMode == hostMode, event.TraitHostNetwork},
		{p.IPCMode == hostMode, event.TraitHostIPC},
		{p.UTSMode == hostMode, event.TraitHostUTS},
		{len(p.Devices) > 0 || p.Privileged, event.TraitHostDevices},
		{!p.NoNewPrivileges, event.TraitNewPrivileges},
		{p.Seccomp == unconfined, event.TraitSeccompUnconfined},
		{i.engine.appArmor && p.AppArmor == unconfined, event.TraitAppArmorUnconfined},
		{isRoot(p.User) && (!i.engine.userRemap || p.UserMode == hostMode), event.TraitRootUser},
		{!p.ReadOnlyRoot, event.TraitWritableRoot},
		{len(p.Credentials) > 0, event.TraitCredentials},
		{slices.ContainsFunc(ports, isPublic), event.TraitPublicPorts},
	} {
		if trait.has {
			t |= trait.is
		}
	}
	return t
}

// isRoot reports whether a configured user is root; none is.
func isRoot(user string) bool {
	name, _, _ := strings.Cut(user, ":")
	return name == "" || name == "root" || strings.Trim(name, "0") == ""
}

func isPublic(p event.Port) bool { return p.HostIP.IsValid() && p.HostIP.IsUnspecified() }

func (i *inspection) capabilities(names []string) []string {
	var list []string
	for _, name := range bound(i, names, maxNames) {
		list = append(list, i.text(strings.TrimPrefix(strings.ToUpper(name), "CAP_")))
	}
	slices.Sort(list)
	return slices.Compact(list)
}

func (i *inspection) devices(devices []container.DeviceMapping) []string {
	var list []string
	for _, d := range bound(i, devices, maxNames) {
		list = append(list, i.text(d.PathOnHost))
	}
	return list
}

// credentials returns the names of the variables of an environment that hold credentials. Their values go no further
// than here.
func (i *inspection) credentials(env []string) []event.Credential {
	var list []event.Credential
	for _, variable := range slices.Sorted(slices.Values(env)) { // the engine has them in any order
		name, value, _ := strings.Cut(variable, "=")
		if kind := i.credential(name, value); kind != "" {
			list = append(list, event.Credential{Name: i.text(name), Kind: kind})
		}
	}
	return bound(i, list, maxNames)
}

// sensitivePaths are directories and files of a host that hold its secrets, its programs, its configuration or what
// runs it. Whoever has one of them, or what it is in, has the host, or its secrets. Those ending in "/" are so with all
// that is in them.
var sensitivePaths = [...]string{
	"/boot/", "/dev", "/dev/mem", "/dev/kmem", "/etc", "/etc/cron.d/", "/etc/crontab", "/etc/ecs/", "/etc/ld.so.preload",
	"/etc/passwd", "/etc/profile.d/", "/etc/shadow", "/etc/ssh/", "/etc/sudoers", "/etc/sudoers.d/", "/etc/systemd/",
	"/home", "/lib", "/lib64", "/bin", "/sbin", "/proc/", "/root/", "/run", "/run/containerd/", "/run/systemd/", "/sys/",
	"/usr", "/usr/bin", "/usr/lib", "/usr/local/bin", "/usr/sbin", "/var", "/var/lib", "/var/lib/amazon/",
	"/var/lib/containerd/", "/var/lib/docker", "/var/lib/ecs", "/var/run", "/var/run/crio/", "/var/run/containerd/",
	"/run/crio/", "/run/podman/", "/var/spool/cron/",
}

// mountTraits says what a container's mounts expose. A volume of the local driver may be a directory of the host too,
// when it is made with the container.
func mountTraits(h *container.HostConfig, points []container.MountPoint, socket string) (t event.Traits) {
	for _, m := range points {
		if m.Type == mount.TypeBind {
			t |= pathTraits(m.Source, socket)
		}
	}
	for _, m := range h.Mounts {
		if v := m.VolumeOptions; v != nil && v.DriverConfig != nil && strings.HasPrefix(v.DriverConfig.Options["device"], "/") {
			t |= pathTraits(v.DriverConfig.Options["device"], socket)
		}
	}
	return t
}

func pathTraits(source, socket string) (t event.Traits) {
	source = path.Clean(source)
	if source == "/" {
		return event.TraitHostRoot | event.TraitSensitivePath | event.TraitDockerSocket
	}
	for _, at := range [...]string{socket, "/var/run/docker.sock", "/run/docker.sock"} {
		if at != "" && holds(source, at) {
			t |= event.TraitDockerSocket
		}
	}
	for name := range strings.SplitSeq(source, "/") {
		switch name {
		case ".ssh", ".aws", ".docker", ".kube", ".gnupg":
			t |= event.TraitSensitivePath
		}
	}
	for _, sensitive := range sensitivePaths {
		whole := strings.HasSuffix(sensitive, "/")
		sensitive = strings.TrimSuffix(sensitive, "/")
		if holds(source, sensitive) || whole && holds(sensitive, source) {
			t |= event.TraitSensitivePath
		}
	}
	return t
}

// holds reports whether a path is another one or a directory above it.
func holds(dir, path string) bool {
	rest, ok := strings.CutPrefix(path, dir)
	return ok && (rest == "" || rest[0] == '/')
}
