package ocsf_test

import (
	"bytes"
	"encoding/json"
	"fmt"
	"maps"
	"os"
	"slices"
	"testing"
)

// attribute is one of a class or an object. The schema file has what matters here of schema.ocsf.io/1.2.0: every class
// that From gives with all its attributes, and the objects that it uses.
type attribute struct {
	Type     string            `json:"type"`
	Array    bool              `json:"array"`
	Required bool              `json:"required"`
	Profile  string            `json:"profile"`
	Enum     map[string]string `json:"enum"`
}

// attributes are those of a class or an object; of atLeastOne one has to be there.
type attributes struct {
	of         map[string]attribute
	atLeastOne []string
}

func (a *attributes) UnmarshalJSON(data []byte) error {
	var object struct {
		OneOf      []string             `json:"one_of"`
		Attributes map[string]attribute `json:"attributes"`
	}
	if err := json.Unmarshal(data, &object); err == nil && object.Attributes != nil {
		a.of, a.atLeastOne = object.Attributes, object.OneOf
		return nil
	}
	return json.Unmarshal(data, &a.of) // a class
}

type schema struct {
	Classes map[string]attributes `json:"classes"`
	Objects map[string]attributes `json:"objects"`
}

func readSchema(t testing.TB) *schema {
	t.Helper()
	text, err := os.ReadFile("testdata/ocsf-1.2.0.json")
	if err != nil {
		t.Fatal(err)
	}
	var s schema
	if err := json.Unmarshal(text, &s); err != nil {
		t.Fatal(err)
	}
	return &s
}

// check returns what the schema finds wrong with an event in its JSON form.
func (s *schema) check(text []byte) []string {
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var e map[string]any
	if err := d.Decode(&e); err != nil {
		return []string{err.Error()}
	}
	metadata, _ := e["metadata"].(map[string]any)
	list, _ := metadata["profiles"].([]any)
	c := checker{schema: s, profiles: map[string]bool{"": true}}
	for _, p := range list {
		c.profiles[fmt.Sprint(p)] = true
	}
	for _, class := range s.Classes {
		if _, ok := class.of["class_uid"].Enum[fmt.Sprint(e["class_uid"])]; ok {
			c.object("", class, e)
			c.captions(class, e)
			return c.wrong
		}
	}
	return []string{fmt.Sprintf("class_uid %v is no class", e["class_uid"])}
}

type checker struct {
	schema   *schema
	profiles map[string]bool
	wrong    []string
}

func (c *checker) add(format string, args ...any) {
	c.wrong = append(c.wrong, fmt.Sprintf(format, args...))
}

func (c *checker) object(path string, as attributes, o map[string]any) {
	for _, name := range slices.Sorted(maps.Keys(as.of)) {
		a := as.of[name]
		if _, there := o[name]; a.Required && c.profiles[a.Profile] && !there {
			c.add("%s%s is required", path, name)
		}
	}
	if len(as.atLeastOne) > 0 && !slices.ContainsFunc(as.atLeastOne, func(name string) bool { return o[name] != nil }) {
		c.add("%swants one of %v", path, as.atLeastOne)
	}
	for _, name := range slices.Sorted(maps.Keys(o)) {
		a, ok := as.of[name]
		switch {
		case !ok:
			c.add("%s%s is no attribute", path, name)
		case !c.profiles[a.Profile]:
			c.add("%s%s is of profile %s, which metadata.profiles has not", path, name, a.Profile)
		case a.Array:
			list, ok := o[name].([]any)
			if !ok {
				c.add("%s%s is %T, want an array", path, name, o[name])
			}
			for _, v := range list {
				c.value(path+name, a, v)
			}
		default:
			c.value(path+name, a, o[name])
		}
	}
}

func (c *checker) value(path string, a attribute, v any) {
	ok := true
	switch a.Type {
	case "integer", "long", "timestamp", "port":
		n, number := v.(json.Number)
		_, err := n.Int64()
		ok = number && err == nil
	case "boolean":
		_, ok = v.(bool)
	case "object", "json":
		return
	default:
		if as, object := c.schema.Objects[a.Type]; object {
			var o map[string]any
			if o, ok = v.(map[string]any); ok {
				c.object(path+".", as, o)
			}
		} else {
			_, ok = v.(string)
		}
	}
	if !ok {
		c.add("%s is %T %v, want %s", path, v, v, a.Type)
	}
	if _, known := a.Enum[fmt.Sprint(v)]; a.Enum != nil && !known {
		c.add("%s is %v, want one of %v", path, v, a.Enum)
	}
}

// captions checks that the names beside numbers are those of the schema, and that type_uid is what it has to be.
func (c *checker) captions(class attributes, e map[string]any) {
	for id, name := range map[string]string{
		"activity_id": "activity_name", "category_uid": "category_name", "class_uid": "class_name",
		"severity_id": "severity", "status_id": "status",
	} {
		want := class.of[id].Enum[fmt.Sprint(e[id])]
		if fmt.Sprint(e[id]) != "99" && want != e[name] {
			c.add("%s is %v for %v, want %v", name, e[name], e[id], want)
		}
	}
	classUID, _ := e["class_uid"].(json.Number).Int64()
	activity, _ := e["activity_id"].(json.Number).Int64()
	if want := fmt.Sprint(classUID*100 + activity); fmt.Sprint(e["type_uid"]) != want {
		c.add("type_uid is %v, want %s", e["type_uid"], want)
	}
}

// The check itself finds what is wrong.
func TestCheckFinds(t *testing.T) {
	s := readSchema(t)
	for _, text := range []string{
		`{}`, `{"class_uid":1}`,
		`{"class_uid":6002,"activity_id":3,"category_uid":6,"type_uid":600203,"severity_id":1,"time":"now","metadata":{}}`,
	} {
		if len(s.check([]byte(text))) == 0 {
			t.Errorf("%s passes", text)
		}
	}
}
