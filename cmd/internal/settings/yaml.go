package settings

import (
	"cmp"
	"fmt"
	"slices"
	"strings"

	"go.yaml.in/yaml/v3"
)

// decode applies a YAML document of sections and keys.
func decode[C any](c *C, table []Setting[C], file string, text []byte) []error {
	var document yaml.Node
	if err := yaml.Unmarshal(text, &document); err != nil {
		return []error{fmt.Errorf("%s: %w", file, err)}
	}
	if len(document.Content) == 0 {
		return nil
	}
	d := decoder[C]{config: c, table: table, file: file, seen: map[string]int{}}
	d.mapping(document.Content[0], "")
	slices.SortStableFunc(d.mistakes, func(a, b mistake) int { return cmp.Compare(a.line, b.line) })
	var errs []error
	for _, m := range d.mistakes {
		errs = append(errs, m)
	}
	return errs
}

type decoder[C any] struct {
	config   *C
	table    []Setting[C]
	file     string
	seen     map[string]int // line of each key
	mistakes []mistake
}

type mistake struct {
	file string
	line int
	error
}

func (m mistake) Error() string { return fmt.Sprintf("%s:%d: %v", m.file, m.line, m.error) }

func (d *decoder[C]) fail(n *yaml.Node, format string, args ...any) {
	d.mistakes = append(d.mistakes, mistake{d.file, n.Line, fmt.Errorf(format, args...)})
}

func (d *decoder[C]) mapping(n *yaml.Node, prefix string) {
	if n.Kind != yaml.MappingNode {
		if n.Kind != yaml.ScalarNode || n.Tag != "!!null" {
			d.fail(n, "%s: %q: want a section with keys", cmp.Or(strings.TrimSuffix(prefix, "."), "document"), n.Value)
		}
		return
	}
	for i := 0; i+1 < len(n.Content); i += 2 {
		d.entry(n.Content[i], n.Content[i+1], prefix+n.Content[i].Value)
	}
}

func (d *decoder[C]) entry(key, value *yaml.Node, path string) {
	if line, again := d.seen[path]; again {
		d.fail(key, "%s: given twice, first in line %d", path, line)
		return
	}
	d.seen[path] = key.Line
	if d.isSection(path) {
		d.mapping(value, path+".")
		return
	}
	setting, err := find(d.table, path)
	switch {
	case err != nil:
		d.fail(key, "%w", err)
	case setting.Max > 0:
		d.list(setting, value)
	case value.Kind != yaml.ScalarNode:
		d.fail(value, "%s: want a single value", path)
	default:
		d.value(setting, key, scalar(value))
	}
}

// list applies a list; nothing is an empty one.
func (d *decoder[C]) list(s *Setting[C], n *yaml.Node) {
	s.Empty(d.config)
	switch {
	case n.Kind == yaml.ScalarNode && n.Tag == "!!null":
		return
	case n.Kind != yaml.SequenceNode:
		d.fail(n, "%s: %q: want a list", s.Key, n.Value)
		return
	case len(n.Content) > s.Max:
		d.fail(n, "%s: %d values: want at most %d", s.Key, len(n.Content), s.Max)
		return
	}
	for _, value := range n.Content {
		if value.Kind != yaml.ScalarNode {
			d.fail(value, "%s: want a list of single values", s.Key)
			continue
		}
		d.value(s, value, scalar(value))
	}
}

// value applies one value; a mistake is in the line of at.
func (d *decoder[C]) value(s *Setting[C], at *yaml.Node, value string) {
	if err := s.apply(d.config, value); err != nil {
		d.fail(at, "%w", err)
	}
}

func scalar(n *yaml.Node) string {
	if n.Tag == "!!null" {
		return ""
	}
	return n.Value
}

func (d *decoder[C]) isSection(path string) bool {
	return slices.ContainsFunc(d.table, func(s Setting[C]) bool { return strings.HasPrefix(s.Key, path+".") })
}
