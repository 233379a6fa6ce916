package audit

import "encoding/binary"

// The layout of struct audit_rule_data (include/uapi/linux/audit.h), in words of 32 bits, and what we look for in it.
const (
	ruleFlags, ruleAction, ruleCount                     = 0, 1, 2
	ruleMask, ruleFields, ruleValues, ruleOperators, end = 3, 67, 131, 195, 260

	filterExit, actionAlways  = 4, 2            // AUDIT_FILTER_EXIT, AUDIT_ALWAYS
	fieldPID, fieldKey, notIs = 0, 210, 3 << 28 // AUDIT_PID, AUDIT_FILTERKEY, AUDIT_NOT_EQUAL
	maxRuleFields             = 64
)

// condition is a field of a rule.
type condition struct{ field, operator, value uint32 }

// covered reports whether loaded rules record all that a rule of ours would. A rule that leaves out one process by its
// pid counts as if it did not: such are our own, of a run before.
func covered(own []byte, loaded [][]byte) bool {
	ours := map[condition]bool{}
	for _, c := range conditions(own) {
		ours[c] = true
	}
	var mask [64]uint32
	for _, rule := range loaded {
		if len(rule) < 4*end || word(rule, ruleFlags) != filterExit || word(rule, ruleAction) != actionAlways ||
			!holds(ours, conditions(rule)) {
			continue
		}
		for i := range mask {
			mask[i] |= word(rule, ruleMask+i)
		}
	}
	for i := range mask {
		if word(own, ruleMask+i)&^mask[i] != 0 {
			return false
		}
	}
	return true
}

// holds reports whether all conditions of another rule hold whenever ours do.
func holds(ours map[condition]bool, theirs []condition) bool {
	for _, c := range theirs {
		if !ours[c] && c.field != fieldKey && !(c.field == fieldPID && c.operator == notIs) {
			return false
		}
	}
	return true
}

func conditions(rule []byte) (list []condition) {
	for i := range min(int(word(rule, ruleCount)), maxRuleFields) {
		list = append(list, condition{word(rule, ruleFields+i), word(rule, ruleOperators+i), word(rule, ruleValues+i)})
	}
	return list
}

func word(rule []byte, i int) uint32 { return binary.NativeEndian.Uint32(rule[4*i:]) }
