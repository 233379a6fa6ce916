package main

import (
	"bytes"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"github.com/taskguard/taskguard/collector/container"
	"github.com/taskguard/taskguard/collector/event"
)

func TestStatusContainers(t *testing.T) {
	a := startLocal(t)
	id, task := strings.Repeat("0a", 32), strings.Repeat("1b", 16)
	a.tracker.Describe(a.tracker.Locate(0, "/ecs/demo/"+task+"/"+id), 7)
	status := func(args ...string) string {
		t.Helper()
		var out bytes.Buffer
		args = append([]string{"status", "containers", "--socket", a.cfg.Socket}, args...)
		if err := run(t.Context(), args, &out, &out); err != nil {
			t.Fatal(err)
		}
		return out.String()
	}
	var c container.Known
	if err := json.Unmarshal([]byte(status("--json")), &c); err != nil {
		t.Fatal(err)
	}
	if c.ID != id || c.ECS.TaskID != task || c.Events != 7 {
		t.Errorf("%+v", c)
	}
	if got, want := status(), ""+
		"ID            NAME  TASK                              IMAGE  EVENTS  EXPOSURE\n"+
		"0a0a0a0a0a0a  -     "+task+"  -      7       -\n"; got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}

// What containers are called cannot steer a terminal.
func TestPrintContainers(t *testing.T) {
	var in, out bytes.Buffer
	for _, c := range []container.Known{
		{Container: event.Container{ID: "0123456789abcdef", Name: "web\x1b[2J", Image: "shop:1\n", ECS: &event.ECS{
			Cluster: "demo", TaskID: "t1", Family: "shop", Revision: "42", Container: "web",
		}, Posture: &event.Posture{Traits: event.TraitPrivileged | event.TraitHostPID}}, Events: 3},
		{Container: event.Container{ID: "1", Pending: true}},
		{Container: event.Container{ID: "2", Name: "db"}, EndedAt: time.Unix(1, 0)},
	} {
		if err := json.NewEncoder(&in).Encode(c); err != nil {
			t.Fatal(err)
		}
	}
	if err := printContainers(&out, &in); err != nil {
		t.Fatal(err)
	}
	if got, want := out.String(), ""+
		`ID            NAME         TASK                    IMAGE     EVENTS  EXPOSURE`+"\n"+
		`0123456789ab  web\x1b[2J   shop:42/web demo/t1     shop:1\n  3       privileged host_pid`+"\n"+
		`1             -            -                       -         0       (not described yet)`+"\n"+
		`2             db           -                       -         0       (removed)`+"\n"; strings.Join(strings.Fields(got), " ") !=
		strings.Join(strings.Fields(want), " ") {
		t.Errorf("got\n%swant\n%s", got, want)
	}
}
