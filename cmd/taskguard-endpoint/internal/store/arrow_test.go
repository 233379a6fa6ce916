package store

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"os"
	"reflect"
	"strings"
	"testing"

	"github.com/apache/arrow-go/v18/arrow"
	"github.com/apache/arrow-go/v18/arrow/array"
	"github.com/apache/arrow-go/v18/arrow/memory"
	arrowfile "github.com/apache/arrow-go/v18/parquet/file"
	"github.com/apache/arrow-go/v18/parquet/pqarrow"
	"github.com/parquet-go/parquet-go"

	"github.com/taskguard/taskguard/collector/event"
)

// recorded are events as agents recorded them.
func recorded(t *testing.T) (events []event.Event) {
	t.Helper()
	for _, name := range []string{"sender/batch/testdata/ten-kinds.jsonl", "testdata/corpus/container.jsonl"} {
		f, err := os.Open("../../../../" + name)
		if err != nil {
			t.Fatal(err)
		}
		lines := bufio.NewScanner(f)
		lines.Buffer(nil, 4<<20)
		for lines.Scan() {
			var e event.Event
			if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
				t.Fatal(err)
			}
			events = append(events, e)
		}
		f.Close()
	}
	return events
}

// Another implementation of Parquet reads what was written: every row, and in it every value.
func TestReadByArrow(t *testing.T) {
	w := newWorld(t)
	events := recorded(t)
	events[0].Process = &event.Process{PID: 1, Name: "not\xfftext", Args: "a\x00\xfe\x00"}
	for i, n := 0, 0; i < len(events); i, n = i+50, n+1 {
		m := message(uint64(4+2*n), 1, "111122223333", 0, 0)
		m.Stored = began.Add(-1e9)
		m.Batch.Events = events[i:min(i+50, len(events))]
		w.append(0, m)
	}
	role := (&replica{world: w}).role(t, "a")
	role.codec, role.cfg.MaxFileBytes = &parquet.Zstd, DefaultMaxFileBytes
	if err := role.partition(0).run(t.Context()); err != nil {
		t.Fatal(err)
	}
	var want []row
	for _, m := range w.log[0] {
		for i := range m.Batch.Events {
			var r row
			if err := r.set(&m, i); err != nil {
				t.Fatal(err)
			}
			want = append(want, r)
		}
	}
	_, names := w.visible(t)
	if len(names) != 1 {
		t.Fatalf("files %s, want one", names)
	}
	data, err := w.ReadAll(t.Context(), names[0])
	if err != nil {
		t.Fatal(err)
	}
	table := readArrow(t, data)
	defer table.Release()
	if table.NumRows() != int64(len(want)) {
		t.Fatalf("%d rows, want %d", table.NumRows(), len(want))
	}
	fields := reflect.TypeFor[row]()
	if int(table.NumCols()) != fields.NumField() {
		t.Errorf("%d columns, want %d", table.NumCols(), fields.NumField())
	}
	for c := range fields.NumField() {
		name, _, _ := strings.Cut(fields.Field(c).Tag.Get("parquet"), ",")
		got := columnOf(t, table, name)
		for i := range want {
			if value := fmt.Sprint(reflect.ValueOf(want[i]).Field(c).Interface()); got[i] != value {
				t.Fatalf("%s of row %d is %q, want %q", name, i, got[i], value)
			}
		}
	}
}

func readArrow(t *testing.T, data []byte) arrow.Table {
	t.Helper()
	f, err := arrowfile.NewParquetReader(bytes.NewReader(data))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	r, err := pqarrow.NewFileReader(f, pqarrow.ArrowReadProperties{}, memory.DefaultAllocator)
	if err != nil {
		t.Fatal(err)
	}
	table, err := r.ReadTable(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	return table
}

// columnOf gives a column's values as text, where null is the zero value.
func columnOf(t *testing.T, table arrow.Table, name string) (values []string) {
	t.Helper()
	indices := table.Schema().FieldIndices(name)
	if len(indices) != 1 {
		t.Fatalf("%d columns are called %s", len(indices), name)
	}
	for _, chunk := range table.Column(indices[0]).Data().Chunks() {
		for i := range chunk.Len() {
			values = append(values, valueOf(t, chunk, i))
		}
	}
	return values
}

func valueOf(t *testing.T, chunk arrow.Array, i int) string {
	t.Helper()
	switch a := chunk.(type) {
	case *array.String:
		if a.IsNull(i) {
			return ""
		}
		return a.Value(i)
	case *array.Int32:
		if a.IsNull(i) {
			return "0"
		}
		return fmt.Sprint(a.Value(i))
	case *array.Int64:
		if a.IsNull(i) {
			return "0"
		}
		return fmt.Sprint(a.Value(i))
	case *array.Timestamp:
		return fmt.Sprint(int64(a.Value(i)))
	}
	t.Fatalf("column of type %s", chunk.DataType())
	return ""
}
