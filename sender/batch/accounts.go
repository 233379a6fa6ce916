package batch

import (
	"google.golang.org/protobuf/encoding/protowire"

	"github.com/taskguard/taskguard/sender/batch/batchpb"
)

// account is a user or a group of a container, 0 for the host.
type account struct{ container, id uint32 }

// accounts are a batch's users, or groups, in the order of their first use.
type accounts struct {
	names map[account]string // as recorded events have them; empty where the name is asked for at Seal
	list  []account
}

func (a *accounts) add(container, id uint32, name string) {
	key := account{container, id}
	if _, ok := a.names[key]; !ok {
		a.list = append(a.list, key)
		a.names[key] = name
	}
}

func (a *accounts) reset() {
	clear(a.names)
	a.list = a.list[:0]
}

// appendAccounts appends the accounts that have a name.
func (b *Builder) appendAccounts(m []byte, field protowire.Number, a *accounts, late func(string, uint32) string) []byte {
	for _, key := range a.list {
		container, name := "", a.names[key]
		if key.container > 0 {
			container = b.described[key.container-1].container.ID
		}
		if late != nil && name == "" {
			name = late(container, key.id)
		}
		if name != "" {
			n := appendUint(nil, 1, uint64(key.container))
			n = appendUint(n, 2, uint64(key.id))
			m = appendMessage(m, field, appendString(n, 3, name))
		}
	}
	return m
}

// names gives the processes the names of their users and groups.
func (d *decoder) names() {
	users, groups := namesOf(d.pb.Users), namesOf(d.pb.Groups)
	if len(users)+len(groups) == 0 {
		return
	}
	for i := range d.processes {
		p, container := &d.processes[i], d.pb.Processes[i].Container
		p.User, p.Group = users[account{container, p.UID}], groups[account{container, p.GID}]
	}
}

func namesOf(list []*batchpb.Account) map[account]string {
	names := make(map[account]string, len(list))
	for _, a := range list {
		names[account{a.Container, a.Id}] = string(a.Name)
	}
	return names
}
