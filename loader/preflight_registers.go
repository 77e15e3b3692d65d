// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"slices"

	"golang.org/x/sys/unix"
)

// What the registers of nf_tables hold of an interface while a rule is followed.

// nftWord is four bytes of registers. load tells values apart that were loaded one after the other, and is zero for what does
// not come of an interface.
type nftWord struct {
	load    int
	what    string
	value   [4]byte
	nfproto bool
}

// nftField is a part of a key that comes of an interface: what of it, the value it has for the one in question, and where in
// the key.
type nftField struct {
	offset int
	what   string
	value  []byte
}

// anyLength is for loads whose length depends on more than their attributes; none is longer.
const anyLength = 16

// nftRegister returns where a register begins: there are four of 16 bytes each, the same as sixteen of 4.
func nftRegister(number uint64) (int, error) {
	switch {
	case number >= unix.NFT_REG_1 && number <= unix.NFT_REG_4:
		return int(number-unix.NFT_REG_1) * 4, nil
	case number >= unix.NFT_REG32_00 && number <= unix.NFT_REG32_15:
		return int(number - unix.NFT_REG32_00), nil
	}
	return 0, fmt.Errorf("register %d is unknown", number)
}

// fields returns what comes of an interface among so many bytes of registers.
func (v *nftEvaluation) fields(first, length int) (out []nftField) {
	for i := first; i < min(first+(length+3)/4, len(v.registers)); i++ {
		w := v.registers[i]
		if w.load == 0 {
			continue
		}
		value := w.value[:min(4, length-(i-first)*4)]
		if i > first && v.registers[i-1].load == w.load {
			last := &out[len(out)-1]
			last.value = append(last.value, value...)
			continue
		}
		out = append(out, nftField{(i - first) * 4, w.what, slices.Clone(value)})
	}
	return out
}

// store writes a value that comes of an interface.
func (v *nftEvaluation) store(first int, what string, value []byte) {
	v.clear(first, len(value))
	v.loads++
	for i := 0; i*4 < len(value) && first+i < len(v.registers); i++ {
		w := nftWord{load: v.loads, what: what}
		copy(w.value[:], value[i*4:])
		v.registers[first+i] = w
	}
}

// clear writes something else.
func (v *nftEvaluation) clear(first, length int) {
	for i := first; i < min(first+(length+3)/4, len(v.registers)); i++ {
		v.registers[i] = nftWord{}
	}
}

// load clears the register that an expression writes something else to.
func (v *nftEvaluation) load(a nftAttrs, dreg uint16, length int) error {
	if !a.has(dreg) {
		return nil
	}
	first, err := nftRegister(a.number(dreg))
	if err != nil {
		return err
	}
	v.clear(first, length)
	return nil
}

// keeps refuses an expression that writes an interface where another rule can find it, but not we: into a mark, say.
func (v *nftEvaluation) keeps(a nftAttrs, sreg uint16) error { return v.keepsAll(a, sreg, 4) }

func (v *nftEvaluation) keepsAll(a nftAttrs, sreg uint16, length int) error {
	if !a.has(sreg) {
		return nil
	}
	first, err := nftRegister(a.number(sreg))
	if err != nil {
		return err
	}
	for _, f := range v.fields(first, length) {
		return fmt.Errorf("it passes on %s", f.what)
	}
	return nil
}
