// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"encoding/binary"
	"fmt"
	"math"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
)

// constants is the section of what config.h declares.
const constants = ".rodata"

// fold makes immediates of the loads of constants. The verifier knows their values, but leaves the loads in the program:
// one of ten instructions of a verdict. Jumps keep their distances, and whatever fold is not sure of stays as it is.
func fold(spec *ebpf.CollectionSpec) error {
	var values []byte
	for name, v := range spec.Variables {
		if v.SectionName != constants {
			continue
		}
		end := int(v.Offset) + len(v.Value)
		if end > math.MaxUint16 {
			return fmt.Errorf("fold constants: %s ends at byte %d of %s", name, end, constants)
		}
		values = append(values, make([]byte, max(0, end-len(values)))...)
		copy(values[v.Offset:], v.Value)
	}
	for _, p := range spec.Programs {
		foldInstructions(p.Instructions, values)
	}
	return nil
}

// pointer is where in the constants a register points, and the index of the instruction that made it do so.
type pointer struct {
	offset uint64
	at     int
}

func foldInstructions(insns asm.Instructions, values []byte) {
	targets := jumpTargets(insns)
	known := map[asm.Register]pointer{}
	for it := insns.Iterate(); it.Next(); {
		ins := it.Ins
		if targets[it.Offset] {
			clear(known)
		}
		switch class := ins.OpCode.Class(); {
		case ins.IsLoadFromMap() && ins.Src == asm.PseudoMapValue && ins.Reference() == constants:
			known[ins.Dst] = pointer{uint64(ins.Constant) >> 32, it.Index}
		case class == asm.LdXClass:
			p, ok := known[ins.Src]
			delete(known, ins.Dst)
			if !ok || ins.OpCode.Mode() != asm.MemMode {
				continue
			}
			value, ok := constant(values, int64(p.offset)+int64(ins.Offset), ins.OpCode.Size())
			switch {
			case !ok:
			case ins.Dst == ins.Src && p.at == it.Index-1:
				// The register lives between the two only: the first can be the constant, and the second nothing.
				replace(&insns[p.at], asm.LoadImm(ins.Dst, int64(value), asm.DWord))
				replace(ins, asm.Instruction{OpCode: asm.Ja.Op(asm.ImmSource)})
			case value <= math.MaxInt32 || value <= math.MaxUint32 && ins.OpCode.Size() != asm.DWord:
				replace(ins, asm.Mov.Imm32(ins.Dst, int32(uint32(value))))
			}
		case class.IsALU() || class == asm.LdClass:
			delete(known, ins.Dst)
		case class == asm.StXClass && ins.OpCode.Mode() != asm.MemMode: // atomics may fetch into a register
			clear(known)
		case class.IsJump() && ins.OpCode.JumpOp() == asm.Call:
			for r := asm.R0; r <= asm.R5; r++ {
				delete(known, r)
			}
		}
	}
}

// replace puts an instruction of the same width in the place of another, whose symbol and source line stay.
func replace(old *asm.Instruction, by asm.Instruction) {
	by.Metadata = old.Metadata
	*old = by.WithReference("")
}

// constant reads a little-endian value.
func constant(values []byte, offset int64, size asm.Size) (uint64, bool) {
	if offset < 0 || offset+int64(size.Sizeof()) > int64(len(values)) {
		return 0, false
	}
	b := make([]byte, 8)
	copy(b, values[offset:][:size.Sizeof()])
	return binary.LittleEndian.Uint64(b), true
}

// jumpTargets are the offsets that any jump leads to.
func jumpTargets(insns asm.Instructions) map[asm.RawInstructionOffset]bool {
	targets := map[asm.RawInstructionOffset]bool{}
	for it := insns.Iterate(); it.Next(); {
		if !it.Ins.OpCode.Class().IsJump() {
			continue
		}
		switch it.Ins.OpCode.JumpOp() {
		case asm.Call, asm.Exit:
			continue
		}
		distance := int64(it.Ins.Offset)
		if it.Ins.OpCode.Class() == asm.Jump32Class && it.Ins.OpCode.JumpOp() == asm.Ja {
			distance = it.Ins.Constant
		}
		targets[asm.RawInstructionOffset(int64(it.Offset)+int64(it.Ins.Width())+distance)] = true
	}
	return targets
}
