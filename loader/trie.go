// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"github.com/weirnet/weir/bpf"
)

// errDamaged is an address table that no sequence of our writes can have left.
var errDamaged = errors.New("address table is damaged")

const noBlock = -1

// trie is the address table of the programs: a multibit trie with strides 16-8-8 (Srinivasan and Varghese, SIGMETRICS
// 1998) in two flat arrays. An entry is an answer, or a pointer to a block of 256 entries for the next 8 bits; answers
// are pushed down to every slot that a prefix covers, and carry its length, so that a longer prefix is never overwritten
// by a shorter one.
//
// The programs read while it changes. Each slot changes by one 8-byte store, a block is filled before the store that
// publishes it, and one that is taken out is used again only after wait, which returns when no program can still hold
// a pointer to it. An address therefore has its old answer or its new one at any time.
type trie struct {
	root, blocks *words
	prefixes     *prefixSet // all that were set: what an answer falls back to is not in the arrays
	inside       []int32    // by block: prefixes that end in it, and blocks below it
	free         []uint32
	retired      []uint32 // taken out; programs may still read them
	wait         func() error
}

// newTrie takes the arrays as they are, with all that is in them.
func newTrie(root, blocks *words, wait func() error) (*trie, error) {
	t := &trie{
		root: root, blocks: blocks, wait: wait,
		prefixes: newPrefixSet(), inside: make([]int32, len(blocks.word)/bpf.Addr4Block),
	}
	return t, t.recover()
}

// recover reads the prefixes back out of the arrays. One that longer ones hide completely is not seen, and one that was
// cut short in being set or removed may be there in part: whoever holds the whole set must set all of it again.
func (t *trie) recover() error {
	used := make([]bool, len(t.inside))
	var walk func(w *words, first, n uint32, base uint32, step uint32, depth int) error
	walk = func(w *words, first, n, base, step uint32, depth int) error {
		for i := range n {
			e, addr := addressEntry(w.load(first+i)), base+i*step
			switch {
			case e.isPointer():
				b := e.block()
				if newPointer(b) != e || depth == 2 || int(b) >= len(used) || used[b] {
					return fmt.Errorf("read block %d at %s: %w", b, newPrefix4(addr, 32), errDamaged)
				}
				used[b] = true
				if err := walk(t.blocks, b*bpf.Addr4Block, bpf.Addr4Block, addr, step>>8, depth+1); err != nil {
					return err
				}
			case e.bits() > 16+8*depth:
				return fmt.Errorf("read the entry %#x at %s: %w", uint64(e), newPrefix4(addr, 32), errDamaged)
			case e != 0:
				t.prefixes.set(newPrefix4(addr, e.bits()), e)
			}
		}
		return nil
	}
	if err := walk(t.root, 0, bpf.Addr4Root, 0, 1<<16, 0); err != nil {
		return err
	}
	for b := len(used) - 1; b >= 0; b-- {
		if !used[b] {
			t.free = append(t.free, uint32(b))
		}
	}
	for p := range t.prefixes.entries {
		if _, block := t.find(p); block != noBlock {
			t.inside[block]++
		}
	}
	t.recoverEmpty()
	// What is free now may have been taken out a moment ago.
	t.free, t.retired = nil, append(t.retired, t.free...)
	return nil
}

// recoverEmpty counts blocks below blocks, and takes out those that nothing ends in any more.
func (t *trie) recoverEmpty() {
	for i := range uint32(bpf.Addr4Root) {
		e := addressEntry(t.root.load(i))
		if !e.isPointer() {
			continue
		}
		middle := e.block()
		for j := range uint32(bpf.Addr4Block) {
			at := middle*bpf.Addr4Block + j
			if leaf := addressEntry(t.blocks.load(at)); leaf.isPointer() {
				t.inside[middle]++
				t.prune(t.blocks, at, leaf.block(), int(middle))
			}
		}
		t.prune(t.root, i, middle, noBlock)
	}
}

// span is where the answers of a prefix lie.
type span struct {
	array    *words
	first, n uint32
}

// find returns where p's answers lie and in which block; noBlock for the root, or if the block does not exist.
func (t *trie) find(p prefix4) (span, int) {
	addr, bits := p.addr(), p.bits()
	if bits <= 16 {
		return span{t.root, addr >> 16, 1 << (16 - bits)}, noBlock
	}
	e := addressEntry(t.root.load(addr >> 16))
	if !e.isPointer() {
		return span{}, noBlock
	}
	first := e.block()*bpf.Addr4Block + addr>>8&0xff
	if bits <= 24 {
		return span{t.blocks, first, 1 << (24 - bits)}, int(e.block())
	}
	if e = addressEntry(t.blocks.load(first)); !e.isPointer() {
		return span{}, noBlock
	}
	return span{t.blocks, e.block()*bpf.Addr4Block + addr&0xff, 1 << (32 - bits)}, int(e.block())
}

// missing counts the blocks that must be made before p can be set.
func (t *trie) missing(p prefix4) int {
	addr, bits := p.addr(), p.bits()
	switch e := addressEntry(t.root.load(addr >> 16)); {
	case bits <= 16:
		return 0
	case !e.isPointer() && bits <= 24:
		return 1
	case !e.isPointer():
		return 2
	case bits <= 24 || addressEntry(t.blocks.load(e.block()*bpf.Addr4Block+addr>>8&0xff)).isPointer():
		return 0
	}
	return 1
}

func (t *trie) available() int { return len(t.free) + len(t.retired) }

// set adds p or changes its answer. It returns false, with nothing changed, if the pool has no room for it.
func (t *trie) set(p prefix4, e addressEntry) (bool, error) {
	need := t.missing(p)
	if need > t.available() {
		return false, nil
	}
	if need > len(t.free) {
		if err := t.reclaim(); err != nil {
			return false, err
		}
	}
	if addr := p.addr(); p.bits() > 16 {
		middle := t.child(t.root, addr>>16, noBlock)
		if p.bits() > 24 {
			t.child(t.blocks, middle*bpf.Addr4Block+addr>>8&0xff, int(middle))
		}
	}
	at, block := t.find(p)
	if block != noBlock && !t.prefixes.has(p) {
		t.inside[block]++
	}
	t.prefixes.set(p, e)
	t.paint(at, e, func(old addressEntry) bool { return old.bits() <= p.bits() })
	return true, nil
}

// remove takes p out: its addresses get the answer of the longest prefix that still covers them.
func (t *trie) remove(p prefix4) {
	if !t.prefixes.has(p) {
		return
	}
	t.prefixes.remove(p)
	at, block := t.find(p)
	// In p's range, an answer of p's length is p's.
	t.paint(at, t.prefixes.match(p.addr(), p.bits()-1), func(old addressEntry) bool { return old.bits() == p.bits() })
	if block == noBlock {
		return
	}
	t.inside[block]--
	i := p.addr() >> 16
	middle := addressEntry(t.root.load(i)).block()
	if p.bits() > 24 {
		t.prune(t.blocks, middle*bpf.Addr4Block+p.addr()>>8&0xff, uint32(block), int(middle))
	}
	t.prune(t.root, i, middle, noBlock)
}

// paint stores e in the slots of at, and of the blocks below, whose answer may be replaced.
func (t *trie) paint(at span, e addressEntry, replaces func(addressEntry) bool) {
	for i := at.first; i < at.first+at.n; i++ {
		old := addressEntry(at.array.load(i))
		switch {
		case old.isPointer():
			t.paint(span{t.blocks, old.block() * bpf.Addr4Block, bpf.Addr4Block}, e, replaces)
		case old != e && replaces(old):
			at.array.store(i, uint64(e))
		}
	}
}

// child returns the block that slot i of array points to, and makes it if the slot holds an answer.
func (t *trie) child(array *words, i uint32, parent int) uint32 {
	e := addressEntry(array.load(i))
	if e.isPointer() {
		return e.block()
	}
	block := t.free[len(t.free)-1]
	t.free = t.free[:len(t.free)-1]
	t.blocks.fill(block*bpf.Addr4Block, bpf.Addr4Block, uint64(e))
	if parent != noBlock {
		t.inside[parent]++
	}
	array.store(i, uint64(newPointer(block)))
	return block
}

// prune takes out the block that slot i of array points to if nothing ends in it: then all its answers are one.
func (t *trie) prune(array *words, i, block uint32, parent int) {
	if t.inside[block] != 0 {
		return
	}
	array.store(i, t.blocks.load(block*bpf.Addr4Block))
	t.retired = append(t.retired, block)
	if parent != noBlock {
		t.inside[parent]--
	}
}

// reclaim waits until no program can read the retired blocks, and frees them.
func (t *trie) reclaim() error {
	if err := t.wait(); err != nil {
		return fmt.Errorf("free blocks of the address table: %w", err)
	}
	t.reclaimed()
	return nil
}

// reclaimed frees the retired blocks; some other wait has just ended.
func (t *trie) reclaimed() {
	t.free = append(t.free, t.retired...)
	t.retired = t.retired[:0]
}

// lookup is what the programs do, but for cidr4.
func (t *trie) lookup(addr uint32) addressEntry {
	e := addressEntry(t.root.load(addr >> 16))
	if e.isPointer() {
		e = addressEntry(t.blocks.load(e.block()*bpf.Addr4Block + addr>>8&0xff))
	}
	if e.isPointer() {
		e = addressEntry(t.blocks.load(e.block()*bpf.Addr4Block + addr&0xff))
	}
	return e
}
