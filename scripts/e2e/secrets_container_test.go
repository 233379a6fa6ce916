package e2e

import (
	"bytes"
	"crypto/rand"
	"encoding/hex"
	"encoding/json"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/scripts/dockertest"
	"github.com/taskguard/taskguard/scripts/stack"
	"github.com/taskguard/taskguard/sender/batch"
)

// secrets are values that nothing may tell, and one that everything does: so that a search which finds nothing is
// known to look in the right place.
type secrets struct {
	values map[string]string // what for, and the value
	marker string
}

// make returns a new value, in the form of one that stands for.
func (s *secrets) make(what, form string) string {
	value := strings.ReplaceAll(form, "RANDOM", randomHex())
	s.values[what] = value
	return value
}

func randomHex() string {
	var b [6]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

func TestSecretsStayOnTheHost(t *testing.T) {
	d := dockertest.Start(t)
	d.Import(t, "shop:1")
	settings := []string{"docker.socket=" + d.Socket, "ecs.agent=", "log.level=debug"}
	s := newStack(t, settings...)
	var watched bytes.Buffer
	watch, err := s.Watch(&watched, "--json")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = watch.Stop() })
	hidden := secrets{values: map[string]string{}, marker: "harmless-" + randomHex()}
	d.Run(t, "version") // the client writes files when it runs for the first time

	hidden.use(t, d, "web-1")
	wantDescribed(t, s)
	if _, err := s.Delivered(t.Context(), time.Minute); err != nil {
		t.Fatal(err)
	}
	stored, err := s.Events(t.Context(), "--json")
	if err != nil {
		t.Fatal(err)
	}
	hidden.wantNone(t, "the endpoint's events", stored, true)
	hidden.wantPosture(t, s, "web-1")
	hidden.wantStatus(t, s)

	// An agent that starts later reads the command lines that run from /proc, and asks for containers it has not seen.
	if err := s.Agent.Stop(); err != nil {
		t.Fatal(err)
	}
	<-watch.Ended()
	hidden.wantNone(t, "the agent's stream of events", watched.Bytes(), true)
	if err := s.Endpoint.Stop(); err != nil {
		t.Fatal(err)
	}
	if err := s.StartAgent(t.Context(), append(settings, "host.imds=off")...); err != nil {
		t.Fatal(err)
	}
	d.Run(t, "exec", "web-1", "/bin/true", hidden.marker)
	hidden.use(t, d, "web-2")
	wantDescribed(t, s)
	await(t, "batches to be spooled", func() bool { return mustStatus(t, s).Ledger.Spooled > 0 })
	if _, err := s.Ask(t.Context(), "status"); err != nil {
		t.Error(err)
	}
	hidden.wantStatus(t, s)
	if err := s.Agent.Stop(); err != nil {
		t.Fatal(err)
	}
	hidden.wantNone(t, "the agent's spool", spooled(t, s), true)
	hidden.wantNoneInFiles(t, s.Dir())
}

// use runs a container of that name, and programs in it, with secrets wherever people put them.
func (s *secrets) use(t *testing.T, d *dockertest.Daemon, name string) {
	t.Helper()
	in := func(what, form string) string { return s.make(name+": "+what, form) }
	task := d.NewTask(t)
	d.Run(t, slices.Concat([]string{"run", "--detach", "--name", name, "--net", "none"}, task.Args, []string{
		"-e", "AWS_ACCESS_KEY_ID=" + in("key id", "AKIAIOSFODNN7RANDOM"),
		"-e", "AWS_SECRET_ACCESS_KEY=" + in("secret key", "/JalrXUtnFEMI/K7MDENG/bPxRfRANDOM"),
		"-e", "DB_PASSWORD=" + in("password", "hunter2-RANDOM"),
		"-e", "dbpassword=" + in("another password", "$ecret RANDOM"),
		"--env=DATABASE_URL=" + "postgres://shop:" + in("url", "hun/t@er2-RANDOM") + "@db:5432/shop",
		"--env", "MYSQL_DSN=shop:" + in("dsn", "hunter2-RANDOM") + "@tcp(db:3306)/shop",
		"-e", "GITHUB_PAT=" + in("token", "ghp_0123456789abcdefghijklmnRANDOM"),
		"-e", "TEAM=" + s.marker,
		"--label", "com.example/db.password=" + in("label", "hunter2-RANDOM"),
		"--label", "upstream=https://me:" + in("url in label", "hunter2-RANDOM") + "@h/",
		"--label", "team=" + s.marker,
		"shop:1", "/bin/sh", "-c", "while :; do sleep 1; done", "sh", "--password", in("argument", "hunter2-RANDOM"), s.marker,
	})...)
	for _, program := range [][]string{
		{"-e", "API_KEY=" + in("exec", "RANDOM"), name, "/bin/true", "--token=" + in("option", "RANDOM")},
		{name, "/bin/true", "--api-key", in("next word", "RANDOM"), s.marker},
		{name, "/bin/env", "PGPASSWORD=" + in("environment", "hunter2-RANDOM"), "/bin/true"},
		{name, "/bin/sh", "-c", "DB_PASSWORD='" + in("script", "two words RANDOM") + "' /bin/true -H 'Authorization: Bearer " +
			in("header", "RANDOM") + "'"},
		{name, "/bin/true", "redis://:" + in("url argument", "hunter2-RANDOM") + "@cache/0"},
	} {
		d.Run(t, append([]string{"exec"}, program...)...)
	}
}

// wantNone checks that none of the values is in a text, and that the marker is, if it should.
func (s *secrets) wantNone(t *testing.T, where string, text []byte, marked bool) {
	t.Helper()
	for what, value := range s.values {
		if bytes.Contains(text, []byte(value)) {
			t.Errorf("%s: the secret of %q is in %s", what, value, where)
		}
	}
	if marked && !bytes.Contains(text, []byte(s.marker)) {
		t.Errorf("%s has no %s: it is not what was to be searched", where, s.marker)
	}
}

// wantNoneInFiles checks the bytes of all files as they are.
func (s *secrets) wantNoneInFiles(t *testing.T, dir string) {
	t.Helper()
	files := 0
	err := filepath.WalkDir(dir, func(path string, entry fs.DirEntry, err error) error {
		if err != nil || !entry.Type().IsRegular() {
			return err
		}
		content, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		files++
		s.wantNone(t, path, content, false)
		return nil
	})
	t.Logf("searched %d files, for %d secrets", files, len(s.values))
	if err != nil || files == 0 {
		t.Errorf("search files: %v", err)
	}
}

// wantStatus checks what the agent tells an operator.
func (s *secrets) wantStatus(t *testing.T, from *stack.Stack) {
	t.Helper()
	for _, command := range [][]string{
		{"status"}, {"status", "--json"}, {"status", "containers"}, {"status", "containers", "--json"},
	} {
		out, err := from.Ask(t.Context(), command...)
		if err != nil {
			t.Fatal(err)
		}
		s.wantNone(t, strings.Join(command, " "), out, slices.Equal(command, []string{"status", "containers", "--json"}))
	}
}

// wantPosture checks that a container's credentials are told of by name and kind, and where a secret was that the rest
// is still told.
func (s *secrets) wantPosture(t *testing.T, from *stack.Stack, name string) {
	t.Helper()
	list := events(t, from, "--container", name)
	if len(list) == 0 || list[0].Container.Posture == nil {
		t.Fatalf("%d events of the container, of no known posture", len(list))
	}
	want := []event.Credential{
		{Name: "AWS_ACCESS_KEY_ID", Kind: "aws_access_key"}, {Name: "AWS_SECRET_ACCESS_KEY", Kind: "aws_access_key"},
		{Name: "DATABASE_URL", Kind: "url_password"}, {Name: "DB_PASSWORD", Kind: "password"},
		{Name: "GITHUB_PAT", Kind: "token"}, {Name: "MYSQL_DSN", Kind: "url_password"}, {Name: "dbpassword", Kind: "password"},
	}
	got := slices.SortedFunc(slices.Values(list[0].Container.Posture.Credentials), func(a, b event.Credential) int {
		return strings.Compare(a.Name, b.Name)
	})
	if !slices.Equal(got, want) {
		t.Errorf("credentials %v, want %v", got, want)
	}
	for _, masked := range []string{"--token=***", "PGPASSWORD=***", "redis://:***@cache/0"} {
		if !slices.ContainsFunc(list, func(e event.Event) bool {
			return e.Process != nil && e.Process.ArgsMasked && slices.Contains(e.Process.Args.Split(), masked)
		}) {
			t.Errorf("no process of the container has the argument %s", masked)
		}
	}
	client := slices.ContainsFunc(events(t, from, "--kind", "process.exec"), func(e event.Event) bool {
		return e.Container == nil && e.Process.Name == "docker" && slices.Contains(e.Process.Args.Split(), "DB_PASSWORD=***")
	})
	if !client {
		t.Error("docker's own command line is not told of")
	}
}

// spooled returns all that is in the batches that the agent could not deliver, as JSON.
func spooled(t *testing.T, s *stack.Stack) []byte {
	t.Helper()
	codec, err := batch.NewCodec()
	if err != nil {
		t.Fatal(err)
	}
	files, err := os.ReadDir(s.Spool())
	if err != nil {
		t.Fatal(err)
	}
	var out bytes.Buffer
	for _, file := range files {
		if !file.Type().IsRegular() {
			continue
		}
		frame, err := os.ReadFile(filepath.Join(s.Spool(), file.Name()))
		if err != nil {
			t.Fatal(err)
		}
		data, err := codec.Decompress(nil, frame)
		if err != nil {
			t.Fatalf("%s: %v", file.Name(), err)
		}
		out.Write(data) // what no field shows is in here too
		b, err := batch.Decode(data)
		if err != nil {
			t.Fatalf("%s: %v", file.Name(), err)
		}
		if err := json.NewEncoder(&out).Encode(b); err != nil {
			t.Fatal(err)
		}
	}
	return out.Bytes()
}
