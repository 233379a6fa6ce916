package main

import (
	"io"
	"os"
	"strings"
	"testing"
	"time"

	"github.com/taskguard/taskguard/scripts/stack"
)

func TestConfigure(t *testing.T) {
	for name, c := range map[string]struct {
		format, seconds string
		json            bool
		length          time.Duration
		fails           string
	}{
		"nothing said": {},
		"both":         {format: "json", seconds: "20", json: true, length: 20 * time.Second},
		"a fraction":   {format: "table", seconds: "0.5", length: 500 * time.Millisecond},
		"no format":    {format: "xml", fails: `DEMO_FORMAT="xml": want table or json`},
		"no number":    {seconds: "soon", fails: `DEMO_SECONDS="soon"`},
		"no time":      {seconds: "0", fails: `DEMO_SECONDS="0"`},
	} {
		t.Run(name, func(t *testing.T) {
			env := map[string]string{"DEMO_FORMAT": c.format, "DEMO_SECONDS": c.seconds}
			var d demo
			err := d.configure(func(key string) string { return env[key] }, io.Discard)
			switch {
			case c.fails != "" && (err == nil || !strings.Contains(err.Error(), c.fails)):
				t.Errorf("error %v, want %s", err, c.fails)
			case c.fails == "" && (err != nil || d.json != c.json || d.length != c.length):
				t.Errorf("json %v, length %v, error %v", d.json, d.length, err)
			}
		})
	}
}

func TestSummary(t *testing.T) {
	var start, end stack.Status
	start.Agent.UptimeSeconds, start.Agent.CPUSeconds = 1, 0.25
	end.Agent.UptimeSeconds, end.Agent.CPUSeconds, end.Agent.RSSBytes = 21, 0.65, 30e6
	end.Ledger = stack.Ledger{Observed: 12, Acked: 10, Lost: map[string]uint64{"queue/full": 2}}
	end.Kinds = map[string]stack.Kind{"process.exec": {Observed: 12, Lost: 2}}
	end.Sources = map[string]stack.Source{
		"process.exec": {Via: "ebpf/tracepoint", Healthy: true}, "net.connect": {Reason: "refused\x1b[2J"},
	}
	var out strings.Builder
	if err := printSummary(&out, &start, &end, map[string]uint64{"process.exec": 10}); err != nil {
		t.Fatal(err)
	}
	for _, want := range []string{
		"process.exec                12          2         10",
		"observed 12 = acked 10 + spooled 0 + open 0 + lost 2",
		"lost queue/full: 2",
		`process.exec by ebpf/tracepoint; net.connect by none (refused\x1b[2J)`,
		"2.0 % of one core in 20 s, after 0.25 s of CPU to start; 30 MB",
	} {
		if !strings.Contains(out.String(), want) {
			t.Errorf("no %q in:\n%s", want, &out)
		}
	}
	if strings.Contains(out.String(), "\nnet.connect") {
		t.Errorf("a line for a kind without events:\n%s", &out)
	}
}

func TestTakeTerminalWithoutOne(t *testing.T) {
	file, err := os.Open(os.DevNull)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	takeTerminal(file)()
}
