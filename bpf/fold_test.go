// SPDX-License-Identifier: Apache-2.0

package bpf

import (
	"fmt"
	"strings"
	"testing"

	"github.com/cilium/ebpf/asm"
)

// at loads the address of the constant at an offset, as the ELF reader leaves it.
func at(r asm.Register, offset int64) asm.Instruction {
	ins := asm.LoadImm(r, offset<<32, asm.DWord)
	ins.Src = asm.PseudoMapValue
	return ins.WithReference(constants)
}

// Bytes 0-3 are 7, 4-7 the largest uint32, 8-15 a number of more than 32 bits, 16-17 the number 9.
func someConstants() []byte {
	return []byte{7, 0, 0, 0, 0xff, 0xff, 0xff, 0xff, 8, 0, 0, 0, 0, 0, 1, 0, 9, 0}
}

func TestLoadsOfConstantsBecomeImmediates(t *testing.T) {
	load := func(dst, src asm.Register, offset int16, size asm.Size) asm.Instruction {
		return asm.LoadMem(dst, src, offset, size)
	}
	constant := func(r asm.Register, v int64) asm.Instruction { return asm.LoadImm(r, v, asm.DWord) }
	nothing := asm.Instruction{OpCode: asm.Ja.Op(asm.ImmSource)}
	r1, r2 := asm.R1, asm.R2
	for _, c := range []struct {
		name         string
		before, want asm.Instructions
	}{
		{"a register of its own", asm.Instructions{at(r1, 0), load(r1, r1, 0, asm.Word)}, asm.Instructions{constant(r1, 7), nothing}},
		{"64 bits", asm.Instructions{at(r1, 8), load(r1, r1, 0, asm.DWord)}, asm.Instructions{constant(r1, 1<<48|8), nothing}},
		{"no sign", asm.Instructions{at(r1, 4), load(r2, r1, 0, asm.Word)}, asm.Instructions{at(r1, 4), asm.Mov.Imm32(r2, -1)}},
		{"an offset in the load", asm.Instructions{at(r1, 0), load(r2, r1, 16, asm.Half)}, asm.Instructions{at(r1, 0), asm.Mov.Imm32(r2, 9)}},
		{"the address is used again", asm.Instructions{at(r1, 0), load(r2, r1, 0, asm.Word), load(r1, r1, 16, asm.Half)},
			asm.Instructions{at(r1, 0), asm.Mov.Imm32(r2, 7), asm.Mov.Imm32(r1, 9)}},
	} {
		t.Run(c.name, func(t *testing.T) { same(t, c.before, c.want) })
	}
	for _, c := range []struct {
		name  string
		stays asm.Instructions
	}{
		{"64 bits in another register", asm.Instructions{at(r1, 8), load(r2, r1, 0, asm.DWord)}},
		{"past the constants", asm.Instructions{at(r1, 16), load(r1, r1, 0, asm.Word)}},
		{"the register has changed", asm.Instructions{at(r1, 0), asm.Add.Imm(r1, 4), load(r1, r1, 0, asm.Word)}},
		{"it was loaded over", asm.Instructions{at(r1, 0), load(r1, asm.R10, -8, asm.DWord), load(r1, r1, 0, asm.Word)}},
		{"a call lies between", asm.Instructions{at(r1, 0), asm.FnGetPrandomU32.Call(), load(r2, r1, 0, asm.Word)}},
		{"a jump leads to the load", asm.Instructions{
			{OpCode: asm.JNE.Op(asm.ImmSource), Dst: r2, Offset: 2}, at(r1, 0), load(r2, r1, 0, asm.Word)}},
		{"a long jump leads to the load", asm.Instructions{
			{OpCode: asm.OpCode(asm.Jump32Class).SetJumpOp(asm.Ja), Constant: 2}, at(r1, 0), load(r2, r1, 0, asm.Word)}},
		{"another map", asm.Instructions{at(r1, 0).WithReference("state"), load(r1, r1, 0, asm.Word)}},
	} {
		t.Run("stays: "+c.name, func(t *testing.T) { same(t, c.stays, append(asm.Instructions(nil), c.stays...)) })
	}
}

func same(t *testing.T, before, want asm.Instructions) {
	t.Helper()
	width := before.Size()
	foldInstructions(before, someConstants())
	if got, want := printed(before), printed(want); got != want {
		t.Errorf("got\n%swant\n%s", got, want)
	}
	if before.Size() != width {
		t.Errorf("%d bytes have become %d: jumps lead elsewhere", width, before.Size())
	}
}

func printed(insns asm.Instructions) string {
	var b strings.Builder
	for i := range insns {
		fmt.Fprintf(&b, "%v %v %v %d %d %q\n", insns[i].OpCode, insns[i].Dst, insns[i].Src, insns[i].Offset, insns[i].Constant, insns[i].Reference())
	}
	return b.String()
}
