package batch

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"

	"github.com/taskguard/taskguard/collector/event"
)

const fieldAgentID protowire.Number = 1

// Outline is what the bytes of a batch tell without being decoded.
type Outline struct {
	Agent event.ID // zero if the batch has none, or none that is an id
	// Events is how many events there are.
	Events int
	// LargestEntry is the size in bytes of the largest entry of any table: a string, process, container or event.
	LargestEntry int
}

// ReadOutline reads an outline of an uncompressed batch, which is not checked otherwise.
func ReadOutline(data []byte) (Outline, error) {
	var o Outline
	err := eachValue(data, func(field protowire.Number, value []byte) error {
		switch {
		case field == fieldAgentID && len(value) == len(o.Agent):
			copy(o.Agent[:], value)
		case field == fieldEvents:
			o.Events++
		}
		if field >= fieldStrings {
			o.LargestEntry = max(o.LargestEntry, len(value))
		}
		return nil
	})
	if err != nil {
		return Outline{}, fmt.Errorf("decode batch: %w", err)
	}
	return o, nil
}
