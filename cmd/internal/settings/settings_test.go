package settings

import (
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"
)

type example struct {
	Name  string
	Wide  bool
	Size  int64
	Count int
	Wait  time.Duration
	Level slog.Level
	Tags  []string
}

func table() []Setting[example] {
	return []Setting[example]{
		{Key: "name", Want: "a path", Set: Path(func(c *example) *string { return &c.Name }, true)},
		{Key: "shape.wide", Want: "true or false", Set: Bool(func(c *example) *bool { return &c.Wide })},
		{Key: "shape.size", Want: "1KiB to 1MiB", Set: Bytes(func(c *example) *int64 { return &c.Size }, 1<<10, 1<<20)},
		{Key: "shape.count", Want: "1 to 9", Set: Int(func(c *example) *int { return &c.Count }, 1, 9)},
		{Key: "wait", Want: "1s to 1h, or 0s",
			Set: Duration(func(c *example) *time.Duration { return &c.Wait }, time.Second, time.Hour, true)},
		{Key: "level", Want: WantLevel, Set: Level(func(c *example) *slog.Level { return &c.Level })},
		List("tags", "a word, once", 3, func(c *example) *[]string { return &c.Tags },
			func(v string) (string, bool) { return v, v != "" }),
	}
}

func load(t *testing.T, text string, overrides ...string) (example, error) {
	t.Helper()
	file := filepath.Join(t.TempDir(), "x.yaml")
	if err := os.WriteFile(file, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	c := example{Tags: []string{"default"}, Count: 5}
	err := Load(&c, table(), file, overrides)
	return c, err
}

func TestLoad(t *testing.T) {
	c, err := load(t, "name: /n\nshape:\n  wide: true\n  size: 2KiB\n  count: 9\nwait: 1m\nlevel: warn\ntags: [a, b]\n",
		"shape.count=1", "tags=c,d,e")
	if err != nil {
		t.Fatal(err)
	}
	if c.Name != "/n" || !c.Wide || c.Size != 2048 || c.Count != 1 || c.Wait != time.Minute || c.Level != slog.LevelWarn ||
		!slices.Equal(c.Tags, []string{"c", "d", "e"}) {
		t.Errorf("%+v", c)
	}
	if c, err := load(t, ""); err != nil || c.Count != 5 || len(c.Tags) != 1 {
		t.Errorf("an empty file: %+v, %v, want the defaults", c, err)
	}
	if c, err := load(t, "tags:\n"); err != nil || len(c.Tags) != 0 {
		t.Errorf("an empty list: %+v, %v", c, err)
	}
}

func TestMistakes(t *testing.T) {
	for text, want := range map[string]string{
		"nam: x\n":                               ":1: nam: unknown key: want one of name, shape.wide",
		"shape:\n  tall: x\n":                    ":2: shape.tall: unknown key: want one of shape.wide, shape.size, shape.count\x00",
		"name: /a\nname: /b\n":                   ":2: name: given twice, first in line 1",
		"shape: x\n":                             `:1: shape: "x": want a section with keys`,
		"shape: {size: 1}\n":                     `:1: shape.size: "1": want 1KiB to 1MiB`,
		"shape: {size: 2MiB}\n":                  `want 1KiB to 1MiB`,
		"shape: {count: 0}\n":                    `want 1 to 9`,
		"shape: {count: 18446744073709551617}\n": `want 1 to 9`,
		"wait: 1ms\n":                            `want 1s to 1h, or 0s`,
		"level: loud\n":                          "want debug, info, warn or error",
		"level: WARN\n":                          "want debug, info, warn or error",
		"tags: [a, a]\n":                         `:1: tags: "a": want a word, once`,
		"tags: [a, b, c, d]\n":                   "4 values: want at most 3",
		"tags: a\n":                              "want a list",
		"name: [/a]\n":                           "want a single value",
		"a: b: c\n":                              "yaml: ",
	} {
		_, err := load(t, text)
		if err == nil || !strings.Contains(err.Error()+"\x00", want) {
			t.Errorf("%q: %v, want %q", text, err, want)
		}
	}
	_, err := load(t, "level: loud\nname: x\n", "wait", "nope=1")
	if err == nil || strings.Count(err.Error(), "\n") != 3 || !strings.Contains(err.Error(), "--set wait: want key=value") {
		t.Errorf("%v, want all four mistakes", err)
	}
	if _, err := load(t, strings.Repeat("# x\n", maxFile/4+1)); err == nil || !strings.Contains(err.Error(), "larger than") {
		t.Errorf("a file that is too large: %v", err)
	}
}

func TestParseBytes(t *testing.T) {
	for text, want := range map[string]int64{
		"0": 0, "17": 17, "1KiB": 1 << 10, "64MiB": 64 << 20, "2GiB": 2 << 30, "3TiB": 3 << 40,
		"": -1, "-1": -1, "1GB": -1, "1.5GiB": -1, "GiB": -1, "9999999999TiB": -1,
	} {
		if got, err := ParseBytes(text); (err != nil) != (want < 0) || err == nil && got != want {
			t.Errorf("%q: %d, %v, want %d", text, got, err, want)
		}
	}
}
