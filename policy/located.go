// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"net/netip"
	"slices"
	"sort"
)

// located is an entry of the address table, and the pod whose it is, as far as that is known.
type located struct {
	Address
	pod *Pod
}

// addressList is the address table, sorted by prefix, in leaves short enough to insert into.
type addressList struct {
	leaves [][]located
	count  int
}

// Leaves are split when they are full; a list that is made at once leaves some room in them.
const (
	fullLeaf  = 128
	freshLeaf = 112
)

// newAddressList needs sorted entries, which it copies.
func newAddressList(sorted []located) *addressList {
	l := &addressList{count: len(sorted)}
	for len(sorted) > 0 {
		n := min(len(sorted), freshLeaf)
		l.leaves = append(l.leaves, append(make([]located, 0, n), sorted[:n]...))
		sorted = sorted[n:]
	}
	return l
}

// find returns the entry of exactly this prefix; nil if there is none. It holds until the list changes.
func (l *addressList) find(p netip.Prefix) *located {
	leaf, at, found := l.place(p)
	if !found {
		return nil
	}
	return &l.leaves[leaf][at]
}

// place is where p is, or belongs.
func (l *addressList) place(p netip.Prefix) (leaf, at int, found bool) {
	leaf = max(0, sort.Search(len(l.leaves), func(i int) bool { return comparePrefix(l.leaves[i][0].Prefix, p) > 0 })-1)
	if leaf == len(l.leaves) {
		return leaf, 0, false
	}
	at, found = slices.BinarySearchFunc(l.leaves[leaf], p, func(e located, p netip.Prefix) int { return comparePrefix(e.Prefix, p) })
	return leaf, at, found
}

func (l *addressList) set(e located) {
	leaf, at, found := l.place(e.Prefix)
	if found {
		l.leaves[leaf][at] = e
		return
	}
	l.count++
	if leaf == len(l.leaves) {
		l.leaves = append(l.leaves, nil)
	}
	full := slices.Insert(l.leaves[leaf], at, e)
	if l.leaves[leaf] = full; len(full) > fullLeaf {
		half := len(full) / 2
		rest := append(make([]located, 0, fullLeaf), full[half:]...)
		clear(full[half:])
		l.leaves[leaf] = full[:half]
		l.leaves = slices.Insert(l.leaves, leaf+1, rest)
	}
}

func (l *addressList) remove(p netip.Prefix) {
	leaf, at, found := l.place(p)
	if !found {
		return
	}
	l.count--
	if l.leaves[leaf] = slices.Delete(l.leaves[leaf], at, at+1); len(l.leaves[leaf]) == 0 {
		l.leaves = slices.Delete(l.leaves, leaf, leaf+1)
	}
}

// covering is the entry of the longest prefix of at most so many bits that contains a.
func (l *addressList) covering(a netip.Addr, bits int) Address {
	for ; bits >= 0; bits-- {
		p, err := a.Prefix(bits)
		if err != nil {
			break
		}
		if e := l.find(p); e != nil {
			return e.Address
		}
	}
	return Address{}
}

// inside calls yield for the entries of p and of all prefixes in it, until it says no.
func (l *addressList) inside(p netip.Prefix, yield func(*located) bool) {
	leaf, at, _ := l.place(p)
	for ; leaf < len(l.leaves); leaf, at = leaf+1, 0 {
		for ; at < len(l.leaves[leaf]); at++ {
			if e := &l.leaves[leaf][at]; !p.Contains(e.Prefix.Addr()) || !yield(e) {
				return
			}
		}
	}
}

// each calls yield for all entries in order.
func (l *addressList) each(yield func(*located)) {
	for _, leaf := range l.leaves {
		for i := range leaf {
			yield(&leaf[i])
		}
	}
}
