package store

import (
	"bytes"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"
	"time"

	allocator "github.com/apache/arrow-go/v18/arrow/memory"
	parquetfile "github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/parquet-go/parquet-go"

	"github.com/taskguard/taskguard/cmd/taskguard-endpoint/internal/ocsf"
	"github.com/taskguard/taskguard/collector/event"
	"github.com/taskguard/taskguard/collector/event/eventtest"
)

// What is written here is read by Apache Arrow, which has nothing in common with the writer but the format: as many
// rows, and the same values in each column.
func TestArrowReadsTheSame(t *testing.T) {
	w := newWorld(t)
	want := map[string]map[string]any{} // by metadata.uid
	for i, kind := range event.Kinds() {
		for _, group := range append(eventtest.Groups(), "") {
			var e event.Event
			if group != "" {
				eventtest.Full(&e)
				eventtest.KeepGroup(&e, group)
			}
			e.Kind, e.Host = kind, nil
			e.Time = time.Date(2026, 11, 24, 10, 0, i, 123456789, time.UTC)
			m := message(uint64(2*len(want)+2), 1, "111122223333", 0, 0)
			m.Batch.Events = []event.Event{e}
			w.append(0, m)
			row, err := ocsf.From(m.Batch, 0)
			if err != nil {
				t.Fatal(err)
			}
			want[ocsf.Head(row).Metadata.UID] = plain(t, row)
		}
	}
	role := (&replica{world: w}).role(t, "a")
	role.codec = &parquet.Zstd
	if err := role.partition(0).run(t.Context()); err != nil {
		t.Fatal(err)
	}

	rows := 0
	for list := w.List(nil); ; {
		object, err := list.Next(t.Context())
		if err != nil {
			break
		}
		content, err := w.ReadAll(t.Context(), object.Key)
		if err != nil {
			t.Fatal(err)
		}
		for _, got := range arrowRows(t, content) {
			rows++
			uid := got["metadata"].(map[string]any)["uid"].(string)
			if diff := difference("", want[uid], got); diff != "" {
				t.Errorf("%s, row %s: %s", object.Key, uid, diff)
			}
		}
	}
	if rows != len(want) {
		t.Errorf("Arrow reads %d rows, want %d", rows, len(want))
	}
	t.Logf("%d rows of %d kinds", rows, len(event.Kinds()))
}

// plain is a row as JSON has it.
func plain(t *testing.T, row any) map[string]any {
	t.Helper()
	text, err := json.Marshal(row)
	if err != nil {
		t.Fatal(err)
	}
	return parse(t, text)
}

func parse(t *testing.T, text []byte) map[string]any {
	t.Helper()
	d := json.NewDecoder(bytes.NewReader(text))
	d.UseNumber()
	var row map[string]any
	if err := d.Decode(&row); err != nil {
		t.Fatalf("%v: %s", err, text)
	}
	return row
}

// arrowRows reads a Parquet file by Arrow, into what its records are as JSON.
func arrowRows(t *testing.T, content []byte) (rows []map[string]any) {
	t.Helper()
	reader, err := parquetfile.NewParquetReader(bytes.NewReader(content))
	if err != nil {
		t.Fatal(err)
	}
	defer reader.Close()
	arrow, err := pqarrow.NewFileReader(reader, pqarrow.ArrowReadProperties{BatchSize: 1 << 20}, allocator.DefaultAllocator)
	if err != nil {
		t.Fatal(err)
	}
	records, err := arrow.GetRecordReader(t.Context(), nil, nil)
	if err != nil {
		t.Fatal(err)
	}
	defer records.Release()
	for records.Next() {
		text, err := records.RecordBatch().MarshalJSON()
		if err != nil {
			t.Fatal(err)
		}
		var list []json.RawMessage
		if err := json.Unmarshal(text, &list); err != nil {
			t.Fatal(err)
		}
		for _, one := range list {
			rows = append(rows, parse(t, one))
		}
	}
	if int64(len(rows)) != reader.NumRows() {
		t.Errorf("%d rows in records, %d in the file's footer", len(rows), reader.NumRows())
	}
	return rows
}

// difference says where two values differ, "" if nowhere. What Arrow has and want has not must be null, zero or empty.
func difference(at string, want, got any) string {
	switch w := want.(type) {
	case map[string]any:
		g, ok := got.(map[string]any)
		if at == ".unmapped" { // Parquet's JSON is bytes, which Arrow's JSON has in base64
			text, err := base64.StdEncoding.DecodeString(fmt.Sprint(got))
			d := json.NewDecoder(bytes.NewReader(text))
			d.UseNumber()
			ok = err == nil && d.Decode(&g) == nil
		}
		if !ok {
			return fmt.Sprintf("%s is %v, want an object", at, got)
		}
		for _, key := range slices.Sorted(maps.Keys(w)) {
			if diff := difference(at+"."+key, w[key], g[key]); diff != "" {
				return diff
			}
		}
		for key, value := range g {
			if _, ok := w[key]; !ok && !empty(value) {
				return fmt.Sprintf("%s.%s is %v, want nothing", at, key, value)
			}
		}
	case []any:
		g, ok := got.([]any)
		if !ok || len(g) != len(w) {
			return fmt.Sprintf("%s is %v, want %v", at, got, want)
		}
		for i := range w {
			if diff := difference(fmt.Sprintf("%s[%d]", at, i), w[i], g[i]); diff != "" {
				return diff
			}
		}
	default:
		if at == ".time_dt" {
			g, w := strings.TrimSuffix(strings.Replace(fmt.Sprint(got), " ", "T", 1), "Z"), strings.TrimSuffix(fmt.Sprint(want), "Z")
			if g == w {
				return ""
			}
		}
		if fmt.Sprint(got) != fmt.Sprint(want) {
			return fmt.Sprintf("%s is %v, want %v", at, got, want)
		}
	}
	return ""
}

func empty(value any) bool {
	switch v := value.(type) {
	case nil:
		return true
	case map[string]any:
		for _, one := range v {
			if !empty(one) {
				return false
			}
		}
		return true
	case []any:
		return len(v) == 0
	}
	return fmt.Sprint(value) == "0" || fmt.Sprint(value) == ""
}
