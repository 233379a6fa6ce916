package ocsf

import (
	"encoding/json"
	"fmt"
	"maps"
	"math"
	"os"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/event/eventtest"
	"github.com/taskguard/taskguard/sender/batch"
)

// schema is what testdata/ocsf-1.2.0.json says of the classes and objects that are used.
type schema struct {
	Classes map[string]map[string]attribute
	Objects map[string]struct {
		OneOf      []string `json:"one_of"`
		Attributes map[string]attribute
	}
}

type attribute struct {
	Type     string
	Array    bool
	Required bool
	Profile  string
	Enum     map[string]string
}

func readSchema(t testing.TB) *schema {
	t.Helper()
	text, err := os.ReadFile("testdata/ocsf-1.2.0.json")
	if err != nil {
		t.Fatal(err)
	}
	s := new(schema)
	if err := json.Unmarshal(text, s); err != nil {
		t.Fatal(err)
	}
	return s
}

// validate returns what is wrong with a row by the schema.
func (s *schema) validate(r Row) (wrong []string) {
	text, err := json.Marshal(r)
	if err != nil {
		return []string{err.Error()}
	}
	var row map[string]any
	if err := json.Unmarshal(text, &row); err != nil {
		return []string{err.Error()}
	}
	var profiles []string
	for _, p := range row["metadata"].(map[string]any)["profiles"].([]any) {
		profiles = append(profiles, p.(string))
	}
	return s.object(r.Of().Name, s.Classes[r.Of().Name], row, profiles)
}

func (s *schema) object(at string, attributes map[string]attribute, got map[string]any, profiles []string) (wrong []string) {
	for name, a := range attributes {
		if _, ok := got[name]; !ok && a.Required && (a.Profile == "" || slices.Contains(profiles, a.Profile)) {
			wrong = append(wrong, at+"."+name+" is required")
		}
	}
	for name, value := range got {
		a, ok := attributes[name]
		switch {
		case !ok && name == "time_dt" && slices.Contains(profiles, "datetime"):
		case !ok:
			wrong = append(wrong, at+"."+name+" is not in the schema")
		case a.Profile != "" && !slices.Contains(profiles, a.Profile):
			wrong = append(wrong, at+"."+name+" wants profile "+a.Profile)
		case a.Array:
			list, ok := value.([]any)
			if !ok {
				wrong = append(wrong, at+"."+name+" is no list")
			}
			for _, v := range list {
				wrong = append(wrong, s.value(at+"."+name, a, v, profiles)...)
			}
		default:
			wrong = append(wrong, s.value(at+"."+name, a, value, profiles)...)
		}
	}
	return wrong
}

func (s *schema) value(at string, a attribute, value any, profiles []string) (wrong []string) {
	object, isObject := s.Objects[a.Type]
	switch v := value.(type) {
	case string:
		if isObject || slices.Contains([]string{"integer", "long", "boolean", "timestamp", "port"}, a.Type) {
			return []string{at + " is a string"}
		}
	case float64:
		if !slices.Contains([]string{"integer", "long", "timestamp", "port"}, a.Type) || v != math.Trunc(v) {
			return []string{at + " is a number"}
		}
		if _, ok := a.Enum[fmt.Sprint(int64(v))]; len(a.Enum) > 0 && !ok {
			return []string{fmt.Sprintf("%s is %v, which is not in the schema", at, v)}
		}
	case map[string]any:
		if !isObject {
			return []string{at + " is an object"}
		}
		if a.Type == "object" {
			return nil // anything
		}
		if len(object.OneOf) > 0 && !slices.ContainsFunc(object.OneOf, func(name string) bool { _, ok := v[name]; return ok }) {
			wrong = append(wrong, fmt.Sprintf("%s wants one of %v", at, object.OneOf))
		}
		return append(wrong, s.object(at, object.Attributes, v, profiles)...)
	default:
		return []string{fmt.Sprintf("%s is %v", at, value)}
	}
	return nil
}

func batchOf(e ...event.Event) *batch.Batch {
	return &batch.Batch{Header: batch.Header{ID: batch.ID{Agent: event.ID{1}, Epoch: 2, Sequence: 3}}, Events: e}
}

// Each kind, with all fields and with none, is a row that the schema finds nothing wrong with, of a class that is not
// the one for the unknown; and the event can be had back.
func TestEveryKindIsValid(t *testing.T) {
	s := readSchema(t)
	seen := map[string]bool{}
	for _, kind := range event.Kinds() {
		for _, group := range append(eventtest.Groups(), "") {
			var full event.Event
			if group != "" {
				eventtest.Full(&full)
				eventtest.KeepGroup(&full, group)
			}
			full.Kind = kind
			for _, result := range []int32{0, 111, 2, 9999} {
				full.Result = result
				b := batchOf(full)
				if group != "" {
					b.Host = *full.Host
				}
				row, err := From(b, 0)
				if err != nil {
					t.Fatal(err)
				}
				if wrong := s.validate(row); len(wrong) > 0 {
					t.Errorf("%v with %q, result %d: %s", kind, group, result, strings.Join(wrong, "; "))
				}
				seen[row.Of().Name] = true
				wantActivity(t, s, row)
				wantBack(t, row, &full)
			}
		}
	}
	for _, r := range Classes() {
		if !seen[r.Of().Name] {
			t.Errorf("no event is of class %s", r.Of().Name)
		}
	}
	row, err := From(batchOf(event.Event{Kind: 200}), 0)
	if err != nil {
		t.Fatal(err)
	}
	if wrong := s.validate(row); row.Of().UID != 6002 || len(wrong) > 0 {
		t.Errorf("a kind that is not known: %v", wrong)
	}
}

// wantActivity checks that the names beside the numbers are the schema's.
func wantActivity(t *testing.T, s *schema, row Row) {
	t.Helper()
	c, class := row.common(), s.Classes[row.Of().Name]
	if want := class["activity_id"].Enum[fmt.Sprint(c.ActivityID)]; c.ActivityName != want {
		t.Errorf("activity %d of %s is %q, want %q", c.ActivityID, c.ClassName, c.ActivityName, want)
	}
	for name, got := range map[string][2]string{
		"category_uid": {fmt.Sprint(c.CategoryUID), c.CategoryName}, "class_uid": {fmt.Sprint(c.ClassUID), c.ClassName},
		"severity_id": {fmt.Sprint(c.SeverityID), c.Severity}, "status_id": {fmt.Sprint(c.StatusID), c.Status},
	} {
		if want := class[name].Enum[got[0]]; got[1] != want {
			t.Errorf("%s %s of %s is %q, want %q", name, got[0], c.ClassName, got[1], want)
		}
	}
}

// wantBack checks that the event comes back from the row as from JSON.
func wantBack(t *testing.T, row Row, e *event.Event) {
	t.Helper()
	got, err := row.common().Unmapped.Event()
	if err != nil {
		t.Fatal(err)
	}
	text, err := json.Marshal(e)
	want := new(event.Event)
	if err == nil {
		err = json.Unmarshal(text, want)
	}
	if err != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%v comes back as %+v, want %+v (%v)", e.Kind, got, want, err)
	}
}

// Whatever a process or a host says of itself, the row is valid.
func FuzzRows(f *testing.F) {
	for i := range 8 {
		f.Add([]byte(strings.Repeat(string(rune('a'+i)), 200*i)), uint8(i))
	}
	s := readSchema(f)
	f.Fuzz(func(t *testing.T, data []byte, kind uint8) {
		var e event.Event
		eventtest.Fuzzed(&e, data, false)
		e.Kind = event.Kind(kind % event.KindCount)
		if year := e.Time.Year(); year < 1 || year > 9999 {
			e.Time = time.Unix(0, 0)
		}
		row, err := From(batchOf(e), 0)
		if err != nil {
			t.Skip(err) // what JSON cannot say
		}
		if wrong := s.validate(row); len(wrong) > 0 {
			t.Errorf("%v: %s", e.Kind, strings.Join(wrong, "; "))
		}
	})
}

// The validator finds what it is there to find.
func TestValidatorRefuses(t *testing.T) {
	s := readSchema(t)
	for want, spoil := range map[string]func(r *FileActivity){
		"severity_id is 7":        func(r *FileActivity) { r.SeverityID = 7 },
		"actor is required":       func(r *FileActivity) { r.Actor = nil },
		"actor wants one of":      func(r *FileActivity) { r.Actor = &Actor{} },
		"file.type_id is 55":      func(r *FileActivity) { r.File.TypeID = 55 },
		"wants profile container": func(r *FileActivity) { r.Metadata.Profiles = []string{"datetime", "host", "linux/linux_users"} },
		"cloud is required":       func(r *FileActivity) { r.Metadata.Profiles = append(r.Metadata.Profiles, "cloud") },
	} {
		var e event.Event
		eventtest.Full(&e)
		eventtest.KeepGroup(&e, "File")
		e.Kind = event.FileOpen
		e.Host = &event.Host{Hostname: "h"}
		row, err := From(batchOf(e), 0)
		if err != nil {
			t.Fatal(err)
		}
		spoil(row.(*FileActivity))
		if wrong := strings.Join(s.validate(row), "; "); !strings.Contains(wrong, want) {
			t.Errorf("wrong: %q, want %q in it", wrong, want)
		}
	}
	if len(s.Classes) != len(Classes()) {
		t.Errorf("classes %v", slices.Sorted(maps.Keys(s.Classes)))
	}
}
