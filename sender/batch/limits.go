package batch

import (
	"fmt"

	"google.golang.org/protobuf/encoding/protowire"
)

// The fields of batch.proto that hold a message or string of their own in memory.
const (
	fieldStrings    protowire.Number = 6
	fieldContainers protowire.Number = 7
	fieldProcesses  protowire.Number = 8
	fieldEvents     protowire.Number = 9
	fieldUpdates    protowire.Number = 10
	fieldLedger     protowire.Number = 11
	fieldUsers      protowire.Number = 12
	fieldGroups     protowire.Number = 13
	fieldDigests    protowire.Number = 14
	// fieldDigestUpdates is the last of the tables.
	fieldDigestUpdates protowire.Number = 15

	fieldEventDNS     protowire.Number = 9
	fieldEventAgent   protowire.Number = 10
	fieldDNSQuestions protowire.Number = 4
	fieldDNSAnswers   protowire.Number = 5
	fieldAgentSources protowire.Number = 8
	fieldAgentDropped protowire.Number = 11
	fieldLedgerLost   protowire.Number = 2

	fieldAgentHeartbeat  protowire.Number = 13
	fieldHeartbeatIssues protowire.Number = 12

	fieldAgentInstance      protowire.Number = 12
	fieldInstanceInterfaces protowire.Number = 7
	fieldInstanceTags       protowire.Number = 8

	fieldContainerECS     protowire.Number = 6
	fieldContainerPosture protowire.Number = 17
	fieldECSTags          protowire.Number = 14
)

// The fields of a container, of its posture, and of an interface, that are lists.
var (
	containerLists = [...]protowire.Number{13, 14, 15, 16}
	postureLists   = [...]protowire.Number{2, 3, 15, 16}
	interfaceLists = [...]protowire.Number{5, 6, 7, 8}
)

// checkLimits counts what a batch holds before it is decoded: an empty message takes two bytes on the wire and
// some hundred in memory.
func checkLimits(data []byte) error {
	var c counter
	if err := eachValue(data, c.batch); err != nil {
		return err
	}
	for _, table := range []struct {
		name      string
		size, max int
	}{
		{"events", c.tables[fieldEvents], MaxEvents},
		{"strings", c.tables[fieldStrings], MaxEntries},
		{"processes", c.tables[fieldProcesses], MaxEntries},
		{"containers", c.tables[fieldContainers], MaxEntries},
		{"updates", c.tables[fieldUpdates], MaxEntries},
		{"users", c.tables[fieldUsers], MaxEntries},
		{"groups", c.tables[fieldGroups], MaxEntries},
		{"digests", c.tables[fieldDigests], MaxEntries},
		{"digest updates", c.tables[fieldDigestUpdates], MaxEntries},
		{"records", c.records, MaxRecords},
	} {
		if table.size > table.max {
			return fmt.Errorf("%d %s, want at most %d", table.size, table.name, table.max)
		}
	}
	return nil
}

// counter counts the entries of the batch's tables by field, and the records inside them.
type counter struct {
	tables  [fieldDigestUpdates + 1]int
	records int
}

func (c *counter) batch(field protowire.Number, value []byte) error {
	if int(field) < len(c.tables) {
		c.tables[field]++
	}
	switch field {
	case fieldEvents:
		return eachValue(value, c.event)
	case fieldContainers, fieldUpdates:
		return eachValue(value, c.container)
	case fieldLedger:
		return eachValue(value, c.record(fieldLedgerLost))
	}
	return nil
}

func (c *counter) event(field protowire.Number, value []byte) error {
	switch field {
	case fieldEventDNS:
		return eachValue(value, c.record(fieldDNSQuestions, fieldDNSAnswers))
	case fieldEventAgent:
		return eachValue(value, c.agent)
	}
	return nil
}

func (c *counter) agent(field protowire.Number, value []byte) error {
	switch field {
	case fieldAgentInstance:
		return eachValue(value, c.instance)
	case fieldAgentHeartbeat:
		return eachValue(value, c.record(fieldHeartbeatIssues))
	}
	return c.record(fieldAgentSources, fieldAgentDropped)(field, value)
}

func (c *counter) instance(field protowire.Number, value []byte) error {
	if field == fieldInstanceInterfaces {
		c.records++
		return eachValue(value, c.record(interfaceLists[:]...))
	}
	return c.record(fieldInstanceTags)(field, value)
}

func (c *counter) container(field protowire.Number, value []byte) error {
	switch field {
	case fieldContainerECS:
		return eachValue(value, c.record(fieldECSTags))
	case fieldContainerPosture:
		return eachValue(value, c.record(postureLists[:]...))
	}
	return c.record(containerLists[:]...)(field, value)
}

func (c *counter) record(fields ...protowire.Number) func(protowire.Number, []byte) error {
	return func(field protowire.Number, _ []byte) error {
		for _, f := range fields {
			if f == field {
				c.records++
			}
		}
		return nil
	}
}

// eachValue calls visit for each field of a message that has a length: messages, strings and bytes.
func eachValue(data []byte, visit func(field protowire.Number, value []byte) error) error {
	for len(data) > 0 {
		field, kind, n := protowire.ConsumeTag(data)
		if n < 0 {
			return protowire.ParseError(n)
		}
		data = data[n:]
		if n = protowire.ConsumeFieldValue(field, kind, data); n < 0 {
			return protowire.ParseError(n)
		}
		if kind == protowire.BytesType {
			value, _ := protowire.ConsumeBytes(data)
			if err := visit(field, value); err != nil {
				return err
			}
		}
		data = data[n:]
	}
	return nil
}
