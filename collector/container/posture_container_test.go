package container

import (
	"encoding/json"
	"fmt"
	"os"
	"strings"
	"testing"
	"text/tabwriter"

	"github.com/google/go-cmp/cmp"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/secret"
	"github.com/taskguard/taskguard/scripts/dockertest"
)

// TestPosture makes a container for each way to expose its host, with a real engine, and prints what is told of it. They
// are not started, as some cannot be where the tests' root has not all capabilities.
func TestPosture(t *testing.T) {
	docker := dockertest.Start(t)
	docker.Import(t, "shop:1")
	tracker := newTracker(t, Config{Docker: "unix://" + docker.Socket, Credential: secret.Kind, Mask: secret.Mask})
	defer run(t, tracker)()
	const hidden = "hunter2-S3cr3t"
	env := t.TempDir() + "/env"
	if err := os.WriteFile(env, []byte("REDIS_TOKEN="+hidden+"\n"), 0o600); err != nil {
		t.Fatal(err)
	}

	// What a container has when it is started without any flag.
	const usual = event.TraitNewPrivileges | event.TraitRootUser | event.TraitWritableRoot
	privileged := event.TraitPrivileged | event.TraitSeccompUnconfined | event.TraitHostDevices
	if enabled, _ := os.ReadFile("/sys/module/apparmor/parameters/enabled"); string(enabled) == "Y\n" {
		privileged |= event.TraitAppArmorUnconfined
	}
	var lines strings.Builder
	table := tabwriter.NewWriter(&lines, 0, 0, 2, ' ', 0)
	fmt.Fprintln(table, "FLAGS\tTRAITS (beside those of a container without flags)")
	for _, test := range []struct {
		flags  string // of docker run
		add    event.Traits
		remove event.Traits
		facts  func(c *event.Container) any
		want   any
	}{
		{flags: ""},
		{flags: "--privileged", add: privileged},
		{
			flags: "--cap-add SYS_ADMIN --cap-add net_raw --cap-drop ALL", add: event.TraitCapabilities,
			facts: func(c *event.Container) any {
				return [][]string{c.Posture.CapabilitiesAdded, c.Posture.CapabilitiesDropped}
			},
			want: [][]string{{"NET_RAW", "SYS_ADMIN"}, {"ALL"}},
		},
		{flags: "--pid host", add: event.TraitHostPID},
		{flags: "--net host", add: event.TraitHostNetwork},
		{flags: "--ipc host", add: event.TraitHostIPC},
		{flags: "--uts host", add: event.TraitHostUTS},
		{
			flags: "-v /:/host:ro", add: event.TraitHostRoot | event.TraitSensitivePath | event.TraitDockerSocket,
			facts: func(c *event.Container) any { return c.Mounts },
			want:  []event.ContainerMount{{Type: "bind", Source: "/", Destination: "/host", ReadOnly: true}},
		},
		{
			flags: "-v /etc:/host/etc", add: event.TraitSensitivePath,
			facts: func(c *event.Container) any { return c.Mounts },
			want:  []event.ContainerMount{{Type: "bind", Source: "/etc", Destination: "/host/etc"}},
		},
		{flags: "-v /etc/hostname:/h:ro"},
		{flags: "-v /root/.ssh:/keys", add: event.TraitSensitivePath},
		{flags: "--mount type=bind,source=/proc,target=/host/proc", add: event.TraitSensitivePath},
		{flags: "--mount type=volume,target=/etc,volume-driver=local,volume-opt=type=none,volume-opt=o=bind,volume-opt=device=/etc",
			add: event.TraitSensitivePath},
		{flags: "-v data:/data"},
		{flags: "--tmpfs /root"},
		{flags: "-v SOCKET:/var/run/docker.sock", add: event.TraitDockerSocket},
		{flags: "--device /dev/null:/dev/x", add: event.TraitHostDevices},
		{flags: "--security-opt no-new-privileges", remove: event.TraitNewPrivileges},
		{flags: "--security-opt no-new-privileges:false"},
		{flags: "--security-opt seccomp=unconfined", add: event.TraitSeccompUnconfined},
		{flags: "--user 0:0"},
		{flags: "--user 1000", remove: event.TraitRootUser,
			facts: func(c *event.Container) any { return c.Posture.User }, want: "1000"},
		{flags: "--read-only", remove: event.TraitWritableRoot},
		{
			flags: "-e DB_PASSWORD=" + hidden + " -e AWS_SECRET_ACCESS_KEY=" + hidden + " -e MODE=fast -e DB=postgres://me:" + hidden + "@db/x",
			add:   event.TraitCredentials,
			facts: func(c *event.Container) any { return c.Posture.Credentials },
			want: []event.Credential{{Name: "AWS_SECRET_ACCESS_KEY", Kind: "aws_access_key"}, {Name: "DB", Kind: "url_password"},
				{Name: "DB_PASSWORD", Kind: "password"}},
		},
		{flags: "--env-file ENV --label api.token=" + hidden + " --label team=shop", add: event.TraitCredentials,
			facts: func(c *event.Container) any { return c.Labels },
			want:  []event.Tag{{Key: "api.token", Value: "***"}, {Key: "team", Value: "shop"}}},
		{flags: "-e DB_PASSWORD_FILE=/run/secrets/db"},
		{flags: "-p 8080:80", add: event.TraitPublicPorts,
			facts: func(c *event.Container) any { return fmt.Sprint(c.Ports) }, want: "[{80 tcp 0.0.0.0 8080}]"},
		{flags: "-p 127.0.0.1:8080:80/udp",
			facts: func(c *event.Container) any { return fmt.Sprint(c.Ports) }, want: "[{80 udp 127.0.0.1 8080}]"},
		{flags: "--expose 80", facts: func(c *event.Container) any { return fmt.Sprint(c.Ports) }, want: "[{80 tcp invalid IP 0}]"},
		{flags: "-P --expose 80", add: event.TraitPublicPorts},
	} {
		flags := strings.NewReplacer("SOCKET", docker.Socket, "ENV", env).Replace(test.flags)
		net := []string{"--net", "none"}
		if strings.Contains(flags, "--net ") {
			net = nil
		}
		args := append([]string{"create"}, append(net, strings.Fields(flags)...)...)
		id := docker.Run(t, append(args, "shop:1", "sh", "-c", "sleep 1000", "--password", hidden)...)
		c := tracker.Locate(0, "/docker/"+id)
		eventually(t, "the description", func() bool { return !tracker.Describe(c, 0).Pending })
		known := tracker.Describe(c, 0)
		if got, want := known.Posture.Traits, usual&^test.remove|test.add; got != want {
			t.Errorf("%s: traits %v, want %v", test.flags, got.Names(), want.Names())
		}
		if test.facts != nil {
			if diff := cmp.Diff(test.want, test.facts(&known)); diff != "" {
				t.Errorf("%s: %s", test.flags, diff)
			}
		}
		if text, err := json.Marshal(&known); err != nil || strings.Contains(string(text), hidden) {
			t.Errorf("%s: %v, with its secret: %s", test.flags, err, text)
		}
		without := strings.Join((usual &^ known.Posture.Traits).Names(), ", ")
		if without != "" {
			without = "(not: " + without + ")"
		}
		fmt.Fprintf(table, "%s\t%s %s\n", strings.ReplaceAll(test.flags, hidden, "…"),
			strings.Join((known.Posture.Traits&^usual).Names(), ", "), without)
		docker.Run(t, "rm", "--force", id)
	}
	table.Flush()
	t.Log("\n" + lines.String())
	if s := tracker.Stats(); s.EngineFailures > 0 {
		t.Errorf("%+v", s)
	}
}
