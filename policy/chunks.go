// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"slices"
	"sort"
)

// chunks is a sorted list in runs, each packed by itself: most of them are the same in the next image, and their bytes are
// kept. Where the list is cut depends on its elements alone, not on what has been before. It is never changed: with makes
// another one, which shares the runs that stay.
type chunks[T any] []*chunk[T]

// chunk is a run of a list and its bytes in the image.
type chunk[T any] struct {
	items  []T
	packed []byte // nil: not made yet
}

// listing says how a list is sorted, cut and written.
type listing[T any] struct {
	compare func(a, b *T) int
	name    func(*T) uint32 // hash; one in shortChunk names ends a chunk
	wrap    func([]T) *keys
}

// longestChunk bounds a chunk; one in shortChunk elements ends one.
const (
	longestChunk = 256
	shortChunk   = 32
)

// edited is an element that is set, or that goes.
type edited[T any] struct {
	item T
	gone bool
}

// list cuts a sorted list, which it copies.
func (l *listing[T]) list(sorted []T) chunks[T] {
	c, _ := l.cut(make(chunks[T], 0, len(sorted)/shortChunk+1), sorted, true)
	for _, run := range c { // or one would keep all of the list in memory
		run.items = slices.Clone(run.items)
	}
	return c
}

// cut appends the chunks that items begin with, and returns what is left: the beginning of a chunk, unless it is the last.
func (l *listing[T]) cut(out chunks[T], items []T, last bool) (chunks[T], []T) {
	for len(items) > 0 {
		n := 1
		for ; n < min(len(items), longestChunk); n++ {
			if l.name(&items[n-1])%shortChunk == 0 {
				break
			}
		}
		if n < longestChunk && l.name(&items[n-1])%shortChunk != 0 && !last {
			return out, items
		}
		out = append(out, &chunk[T]{items: items[:n:n]})
		items = items[n:]
	}
	return out, nil
}

// edit is the list with edits, which it sorts.
func (l *listing[T]) edit(c chunks[T], edits []edited[T]) chunks[T] {
	slices.SortFunc(edits, func(a, b edited[T]) int { return l.compare(&a.item, &b.item) })
	return l.with(c, edits)
}

// with is the list with edits, which are sorted.
func (l *listing[T]) with(c chunks[T], edits []edited[T]) chunks[T] {
	if len(edits) == 0 {
		return c
	}
	out := make(chunks[T], 0, len(c)+len(edits)/shortChunk+2)
	var open []T // what the next chunk begins with
	for i := 0; i < len(c); i++ {
		if len(open) == 0 { // runs before the next edit's stay
			next := len(c)
			if len(edits) > 0 {
				next = max(i, i+sort.Search(len(c)-i, func(j int) bool { return l.compare(&c[i+j].items[0], &edits[0].item) > 0 })-1)
			}
			out = append(out, c[i:next]...)
			if i = next; i == len(c) {
				break
			}
		}
		n := len(edits)
		if i+1 < len(c) {
			first := &c[i+1].items[0]
			for n = 0; n < len(edits) && l.compare(&edits[n].item, first) < 0; {
				n++
			}
		}
		out, open = l.cut(out, l.merge(open, c[i].items, edits[:n]), false)
		edits = edits[n:]
	}
	if len(c) == 0 {
		open = l.merge(nil, nil, edits)
	}
	out, _ = l.cut(out, open, true)
	return out
}

// merge is a list of its own: what is open, and items with edits.
func (l *listing[T]) merge(open, items []T, edits []edited[T]) []T {
	all := make([]T, len(open), len(open)+len(items)+len(edits))
	copy(all, open)
	for i := range items {
		for len(edits) > 0 && l.compare(&edits[0].item, &items[i]) < 0 {
			if !edits[0].gone {
				all = append(all, edits[0].item)
			}
			edits = edits[1:]
		}
		if len(edits) > 0 && l.compare(&edits[0].item, &items[i]) == 0 {
			if !edits[0].gone {
				all = append(all, edits[0].item)
			}
			edits = edits[1:]
			continue
		}
		all = append(all, items[i])
	}
	for i := range edits {
		if !edits[i].gone {
			all = append(all, edits[i].item)
		}
	}
	return all
}

// find returns the element that where says 0 of; where ascends along the list.
func (c chunks[T]) find(where func(*T) int) *T {
	i := sort.Search(len(c), func(i int) bool { return where(&c[i].items[0]) > 0 }) - 1
	if i < 0 {
		return nil
	}
	items := c[i].items
	j := sort.Search(len(items), func(j int) bool { return where(&items[j]) >= 0 })
	if j == len(items) || where(&items[j]) != 0 {
		return nil
	}
	return &items[j]
}

// each calls yield for all elements in order.
func (c chunks[T]) each(yield func(*T)) {
	for _, run := range c {
		for i := range run.items {
			yield(&run.items[i])
		}
	}
}

// pack appends the bytes of a list's chunks, and keeps them.
func (l *listing[T]) pack(out [][]byte, c chunks[T], p *packer) ([][]byte, error) {
	for _, run := range c {
		if run.packed == nil {
			b, err := p.pack(l.wrap(run.items))
			if err != nil {
				return nil, err
			}
			run.packed = bytes.Clone(b)
		}
		out = append(out, run.packed)
	}
	return out, nil
}

// following is a list in place of another: chunks that say the same are the other's. Equal says whether two elements do.
func (l *listing[T]) following(have chunks[T], sorted []T, equal func(a, b *T) bool) chunks[T] {
	next, _ := l.cut(make(chunks[T], 0, len(have)+1), sorted, true)
	at := 0
	for i, run := range next {
		for at < len(have) && l.compare(&have[at].items[0], &run.items[0]) < 0 {
			at++
		}
		if at < len(have) && equalLists(have[at].items, run.items, equal) {
			next[i] = have[at]
		} else {
			run.items = slices.Clone(run.items)
		}
	}
	return next
}
