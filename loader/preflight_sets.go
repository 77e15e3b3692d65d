// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"errors"
	"fmt"

	"github.com/vishvananda/netlink/nl"
	"golang.org/x/sys/unix"
)

type nftSetName struct {
	family      uint8
	table, name string
}

// nftSet is a set or map of nf_tables, anonymous ones included.
type nftSet struct {
	keyLen    int
	intervals bool
}

type nftElement struct {
	key, last []byte // both ends belong to the element; last may be nil
	end       bool   // the first key behind an interval, not a member
}

// among says whether a field of the key that a rule looks up, one that comes of an interface, has a value by which some element
// is chosen: with the interface's, what the rule does is another thing than without.
func (r *nftReader) among(name nftSetName, fields func(keyLen int) []nftField) (bool, error) {
	if r.sets == nil {
		return false, errLater
	}
	set, ok := r.sets[name]
	if !ok {
		return false, fmt.Errorf("set %s is not listed", name.name)
	}
	asked := fields(set.keyLen)
	if len(asked) == 0 {
		return false, nil
	}
	elements, err := r.readElements(name)
	if err != nil {
		return false, err
	}
	for _, f := range asked {
		if f.offset == 0 && len(f.value) == set.keyLen && set.intervals {
			if within(elements, f.value) {
				return true, nil
			}
			continue
		}
		for _, e := range elements {
			last := e.last
			if last == nil {
				last = e.key
			}
			from, to := f.offset, f.offset+len(f.value)
			if to > len(e.key) || to > len(last) {
				return false, fmt.Errorf("an element of set %s has a key of %d bytes", name.name, len(e.key))
			}
			if bytes.Compare(e.key[from:to], f.value) <= 0 && bytes.Compare(f.value, last[from:to]) <= 0 {
				return true, nil
			}
		}
	}
	return false, nil
}

// within decides as the kernel does for intervals of whole keys: by the nearest element at or below the value. Where an interval
// begins at the end of another, it is a beginning.
func within(elements []nftElement, value []byte) bool {
	var nearest *nftElement
	for i, e := range elements {
		if bytes.Compare(e.key, value) > 0 {
			continue
		}
		if e.last != nil && bytes.Compare(value, e.last) <= 0 {
			return true
		}
		if e.last != nil {
			continue
		}
		if order := 1; nearest != nil {
			order = bytes.Compare(e.key, nearest.key)
			if order < 0 || order == 0 && e.end {
				continue
			}
		}
		nearest = &elements[i]
	}
	return nearest != nil && !nearest.end
}

func (r *nftReader) readSets() error {
	r.sets = map[nftSetName]nftSet{}
	err := r.dump(unix.NFT_MSG_GETSET, unix.NFT_MSG_NEWSET, func(family uint8, a nftAttrs) error {
		name := nftSetName{family, a.text(unix.NFTA_SET_TABLE), a.text(unix.NFTA_SET_NAME)}
		r.sets[name] = nftSet{int(a.number(unix.NFTA_SET_KEY_LEN)), a.number(unix.NFTA_SET_FLAGS)&unix.NFT_SET_INTERVAL != 0}
		return nil
	})
	if err != nil {
		return fmt.Errorf("read nf_tables sets: %w", err)
	}
	return nil
}

func (r *nftReader) readElements(name nftSetName) ([]nftElement, error) {
	if elements, ok := r.elements[name]; ok {
		return elements, nil
	}
	elements := []nftElement{}
	q := nftQuestion{get: unix.NFT_MSG_GETSETELEM, answer: unix.NFT_MSG_NEWSETELEM, flags: unix.NLM_F_DUMP, family: name.family}
	q.where = []*nl.RtAttr{
		nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_TABLE, nl.ZeroTerminated(name.table)),
		nl.NewRtAttr(unix.NFTA_SET_ELEM_LIST_SET, nl.ZeroTerminated(name.name)),
	}
	err := q.ask(r.ctx, func(_ uint8, a nftAttrs) error {
		list, err := a.nested(unix.NFTA_SET_ELEM_LIST_ELEMENTS)
		if err != nil {
			return err
		}
		for _, item := range list {
			e, err := parseNFTElement(item.value)
			if err != nil {
				return err
			}
			if e.key != nil {
				elements = append(elements, e)
			}
		}
		return nil
	})
	if err != nil {
		return nil, fmt.Errorf("read elements of nf_tables set %s: %w", name.name, err)
	}
	r.elements[name] = elements
	return elements, nil
}

// parseNFTElement returns no key for the element that stands for all others: it is about no interface.
func parseNFTElement(b []byte) (e nftElement, err error) {
	a, err := parseNFTAttrs(b)
	if err != nil {
		return e, err
	}
	const last, catchall = 10, 2 // NFTA_SET_ELEM_KEY_END, NFT_SET_ELEM_CATCHALL
	flags := a.number(unix.NFTA_SET_ELEM_FLAGS)
	if flags&catchall != 0 {
		return e, nil
	}
	e.end = flags&unix.NFT_SET_ELEM_INTERVAL_END != 0
	if e.key, err = a.data(unix.NFTA_SET_ELEM_KEY); err != nil {
		return e, err
	}
	if e.last, err = a.data(last); err != nil {
		return e, err
	}
	if e.key == nil {
		return e, errors.New("an element has no key")
	}
	return e, nil
}
