package ebpf

import "testing"

// On a kernel without callbacks no program names a function, and none changes otherwise.
func TestDropCallbacks(t *testing.T) {
	spec, err := loadFile()
	if err != nil {
		t.Fatal(err)
	}
	dropped := 0
	for name, program := range spec.Programs {
		before := append(program.Instructions[:0:0], program.Instructions...)
		dropCallbacks(program.Instructions)
		for i, ins := range program.Instructions {
			switch {
			case ins.IsLoadOfFunctionPointer():
				t.Errorf("%s: instruction %d still names a function", name, i)
			case before[i].IsLoadOfFunctionPointer():
				dropped++
				if ins.Constant != 0 || ins.Reference() != "" || ins.Dst != before[i].Dst {
					t.Errorf("%s: instruction %d became %v", name, i, ins)
				}
			case ins.OpCode != before[i].OpCode || ins.Constant != before[i].Constant:
				t.Errorf("%s: instruction %d became %v", name, i, ins)
			}
		}
	}
	if dropped == 0 {
		t.Error("no program named a function")
	}
}
