package container

import (
	"testing"

	"github.com/moby/moby/api/types/container"

	"github.com/taskguard/taskguard/collector/event"
)

// The engine may be told to give no container new privileges; a container's own option counts more.
func TestNoNewPrivilegesOfTheEngine(t *testing.T) {
	for _, test := range []struct {
		engine, own []string
		want        bool
	}{
		{nil, nil, false},
		{nil, []string{"no-new-privileges"}, true},
		{[]string{"name=seccomp,profile=builtin", "name=no-new-privileges"}, nil, true},
		{[]string{"name=no-new-privileges"}, []string{"no-new-privileges:false"}, false},
	} {
		i := inspection{
			engine:     engineInfoOf(test.engine, "/run/docker.sock"),
			mask:       func(args string) (string, bool) { return args, false },
			credential: func(string, string) string { return "" },
		}
		p := i.posture(&container.InspectResponse{
			Config: &container.Config{}, HostConfig: &container.HostConfig{SecurityOpt: test.own},
		}, nil)
		if trait := p.Traits&event.TraitNewPrivileges != 0; p.NoNewPrivileges != test.want || trait == test.want {
			t.Errorf("%+v: no new privileges %v, trait %v", test, p.NoNewPrivileges, trait)
		}
	}
}
