package process

import "github.com/taskguard/taskguard/collector/event"

// credentials are a process's users and groups, as far as events tell of them.
type credentials struct{ uid, euid, gid, egid uint32 }

func credentialsOf(p *event.Process) credentials { return credentials{p.UID, p.EUID, p.GID, p.EGID} }

// after returns the credentials that a call leaves: it succeeded, so what it asked for was granted. setuid(2) and
// setgid(2) name one id: it is the effective one, and for a privileged caller also the real one.
func (c credentials) after(s *event.SetID) credentials {
	privileged := c.euid == 0
	one := func(real, effective *uint32, id event.Optional[uint32]) {
		if id.Known && privileged {
			*real = id.Value
		}
		if id.Known {
			*effective = id.Value
		}
	}
	switch {
	case s.Call == "setuid" && !s.EUID.Known:
		one(&c.uid, &c.euid, s.UID)
	case s.Call == "setgid" && !s.EGID.Known:
		one(&c.gid, &c.egid, s.GID)
	default:
		for _, id := range [...]struct {
			is  *uint32
			set event.Optional[uint32]
		}{{&c.uid, s.UID}, {&c.euid, s.EUID}, {&c.gid, s.GID}, {&c.egid, s.EGID}} {
			if id.set.Known {
				*id.is = id.set.Value
			}
		}
	}
	return c
}

// setID returns the snapshot from before a call that changed a process's credentials, and has the table know those from
// after it. A source may report either with the event. The process's next event has the last word.
func (t *Table) setID(p *event.Process, asked *event.SetID) *snapshot {
	s := t.find(p.PID, p.Start)
	if s == nil || s.Start == 0 || credentialsOf(&s.Process).after(asked) != credentialsOf(p) {
		s = t.current(p)
	}
	if t.live[s.PID] == s {
		t.update(s, s.Start, credentialsOf(&s.Process).after(asked))
	}
	return s
}
