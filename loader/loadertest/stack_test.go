// SPDX-License-Identifier: Apache-2.0

package loadertest_test

import (
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// What the verifier grants a chain of calls, and what it rounds each frame up to; newer kernels are content with 16 where
// there is a JIT.
const (
	maxStack = 512
	frame    = 32
)

// Every chain of calls fits the stack on the oldest kernel that weir supports, whatever this one says.
func TestCallChainsFitTheStack(t *testing.T) {
	for _, object := range []string{"../../xdp/underlay_bpfel.o", "../../tc/pod_bpfel.o"} {
		spec, err := ebpf.LoadCollectionSpec(object)
		if err != nil {
			t.Fatal(err)
		}
		for name, p := range spec.Programs {
			if p.SectionName == ".text" {
				continue
			}
			size, chain := deepest(functions(p.Instructions), name)
			if t.Logf("%s: %d bytes: %s", name, size, strings.Join(chain, " → ")); size > maxStack {
				t.Errorf("%s takes %d bytes of stack, there are %d: %s", name, size, maxStack, strings.Join(chain, " → "))
			}
		}
	}
}

// function is how much of the stack a function uses, and whom it calls.
type function struct {
	used  int
	calls map[string]bool
}

func functions(insns asm.Instructions) map[string]*function {
	all := map[string]*function{}
	var f *function
	for i, ins := range insns {
		// The labels of a program's own functions only: a jump's target may have one, too.
		if name := ins.Symbol(); name != "" && !strings.HasPrefix(name, "LBB") {
			f = &function{calls: map[string]bool{}}
			all[name] = f
		}
		var at int64
		switch class := ins.OpCode.Class(); {
		case class == asm.LdXClass && ins.Src == asm.RFP, (class == asm.StClass || class == asm.StXClass) && ins.Dst == asm.RFP:
			at = int64(ins.Offset)
		case ins.OpCode == asm.Mov.Op(asm.RegSource) && ins.Src == asm.RFP && i+1 < len(insns) &&
			insns[i+1].OpCode == asm.Add.Op(asm.ImmSource) && insns[i+1].Dst == ins.Dst:
			at = insns[i+1].Constant
		case ins.IsFunctionCall():
			f.calls[ins.Reference()] = true
		}
		f.used = max(f.used, int(-at))
	}
	return all
}

// deepest is the chain of calls from name on that takes most.
func deepest(all map[string]*function, name string) (size int, chain []string) {
	f := all[name]
	for callee := range f.calls {
		if n, below := deepest(all, callee); n > size {
			size, chain = n, below
		}
	}
	return size + (max(f.used, 1)+frame-1)/frame*frame, append([]string{name}, chain...)
}
