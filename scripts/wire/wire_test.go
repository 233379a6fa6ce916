package main

import "testing"

// The wire form is worth its format as long as it takes less than what everybody can read.
func TestWireTakesLessThanNDJSON(t *testing.T) {
	all, err := corpora("../..")
	if err != nil {
		t.Fatal(err)
	}
	for i := range all {
		sizes, err := measure(&all[i])
		if err != nil {
			t.Fatal(err)
		}
		for _, s := range sizes {
			if s.events < 20 || s.wire > s.ndjson {
				t.Errorf("%s, sealed %s: %d events take %d bytes on the wire, %d as NDJSON+gzip", s.corpus, s.sealed, s.events,
					s.wire, s.ndjson)
			}
		}
	}
}
