// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/binary"
	"math/bits"
)

// memberSet is a set of members.
type memberSet []uint64

func (c *comparer) set() memberSet { return make(memberSet, (len(c.members)+63)/64) }

func (s memberSet) add(m int32)      { s[m/64] |= 1 << (m % 64) }
func (s memberSet) remove(m int32)   { s[m/64] &^= 1 << (m % 64) }
func (s memberSet) has(m int32) bool { return s[m/64]>>(m%64)&1 != 0 }

func (s memberSet) addAll(list []int32) {
	for _, m := range list {
		s.add(m)
	}
}

func (s memberSet) merge(other memberSet) {
	for i := range s {
		s[i] |= other[i]
	}
}

func (s memberSet) count() int {
	n := 0
	for _, word := range s {
		n += bits.OnesCount64(word)
	}
	return n
}

func (s memberSet) list() []int32 {
	var list []int32
	for i, word := range s {
		for ; word != 0; word &= word - 1 {
			list = append(list, int32(64*i+bits.TrailingZeros64(word)))
		}
	}
	return list
}

func receiversOf(key string) []int32 {
	list := make([]int32, len(key)/4)
	for i := range list {
		list[i] = int32(binary.LittleEndian.Uint32([]byte(key[4*i : 4*i+4])))
	}
	return list
}

func setBytes(s memberSet) []byte {
	b := make([]byte, 0, 8*len(s))
	for _, word := range s {
		b = binary.LittleEndian.AppendUint64(b, word)
	}
	return b
}

func setOf(b string) memberSet {
	s := make(memberSet, len(b)/8)
	for i := range s {
		s[i] = binary.LittleEndian.Uint64([]byte(b[8*i : 8*i+8]))
	}
	return s
}
