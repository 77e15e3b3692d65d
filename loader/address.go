// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"net/netip"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/policy"
)

// An address entry in the layout of bpf/maps.h: this file and bpf/address.h are the only two that know it.
type addressEntry uint64

const blockPointer addressEntry = 1 << 63

const blockBytes = bpf.Addr4Block * 8

// newPointer leads to block number n of the pool.
func newPointer(n uint32) addressEntry { return blockPointer | addressEntry(n*blockBytes) }

func newAddressEntry(a policy.Address) addressEntry {
	return addressEntry(a.Identity&policy.MaxIdentity) | addressEntry(a.Kind&0xf)<<24 | addressEntry(a.Flags&0xf)<<28 |
		addressEntry(a.Slot)<<32 | addressEntry(a.Tenancy)<<48 | addressEntry(a.Prefix.Bits()&0x3f)<<56
}

func (e addressEntry) isPointer() bool          { return e&blockPointer != 0 }
func (e addressEntry) block() uint32            { return uint32(e) / blockBytes }
func (e addressEntry) identity() uint32         { return uint32(e) & policy.MaxIdentity }
func (e addressEntry) kind() policy.AddressKind { return policy.AddressKind(e >> 24 & 0xf) }
func (e addressEntry) slot() uint16             { return uint16(e >> 32) }
func (e addressEntry) tenancy() uint8           { return uint8(e >> 48) }
func (e addressEntry) bits() int                { return int(e >> 56 & 0x3f) }

func (e addressEntry) withIdentity(number uint32) addressEntry {
	return e&^addressEntry(policy.MaxIdentity) | addressEntry(number)
}

// remoteOwner says whether the entry's slot is another node's, and which.
func (e addressEntry) remoteOwner() (slot uint16, ok bool) {
	switch e.kind() {
	case policy.AddressNode, policy.AddressRemotePod, policy.AddressRemoteCIDR:
		return e.slot(), true
	}
	return 0, false
}

// prefix4 is an IPv4 prefix: address << 8 | bits, the address masked.
type prefix4 uint64

func newPrefix4(addr uint32, bits int) prefix4 {
	return prefix4(addr&mask4(bits))<<8 | prefix4(bits)
}

func mask4(bits int) uint32 { return uint32(uint64(0xffffffff) << (32 - bits)) }

// prefix4From turns a prefix of either family into a prefix4; false for IPv6.
func prefix4From(p netip.Prefix) (prefix4, bool) {
	if !p.Addr().Is4() || !p.IsValid() {
		return 0, false
	}
	return newPrefix4(addr4(p.Addr()), p.Bits()), true
}

// addr4 is an IPv4 address in host order; 0 for any other address.
func addr4(a netip.Addr) uint32 {
	if !a.Is4() {
		return 0
	}
	b := a.As4()
	return binary.BigEndian.Uint32(b[:])
}

func (p prefix4) addr() uint32 { return uint32(p >> 8) }
func (p prefix4) bits() int    { return int(p & 0xff) }

func (p prefix4) String() string {
	return netip.PrefixFrom(netip.AddrFrom4(p.wire()), p.bits()).String()
}

func (p prefix4) wire() (b [4]byte) {
	binary.BigEndian.PutUint32(b[:], p.addr())
	return b
}

func (p prefix4) cidr4Key() bpf.CIDR4Key {
	return bpf.CIDR4Key{PrefixLen: uint32(p.bits()), Addr: p.wire()}
}

// prefixSet is a set of prefixes with an entry each.
type prefixSet struct {
	entries map[prefix4]addressEntry
	lengths [33]int // how many there are of each length
}

func newPrefixSet() *prefixSet { return &prefixSet{entries: make(map[prefix4]addressEntry)} }

func (s *prefixSet) has(p prefix4) bool {
	_, ok := s.entries[p]
	return ok
}

func (s *prefixSet) set(p prefix4, e addressEntry) {
	if !s.has(p) {
		s.lengths[p.bits()]++
	}
	s.entries[p] = e
}

func (s *prefixSet) remove(p prefix4) {
	if s.has(p) {
		s.lengths[p.bits()]--
		delete(s.entries, p)
	}
}

// match returns the entry of the longest prefix of at most bits that contains addr; 0 if there is none.
func (s *prefixSet) match(addr uint32, bits int) addressEntry {
	for ; bits >= 0; bits-- {
		if s.lengths[bits] == 0 {
			continue
		}
		if e, ok := s.entries[newPrefix4(addr, bits)]; ok {
			return e
		}
	}
	return 0
}
