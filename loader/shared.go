// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"sync/atomic"

	"github.com/weirnet/weir/bpf"
)

// sharedState is the map `state`: struct shared_state of bpf/maps.h. Each field is one aligned store.
type sharedState struct{ words *words }

func (s *sharedState) addrGeneration() *uint32 { return s.words.half(0, false) }
func (s *sharedState) cidr4Entries() *uint32   { return s.words.half(0, true) }
func (s *sharedState) serviceEntries() *uint32 { return s.words.half(1, false) }
func (s *sharedState) flowFilter() *uint32     { return s.words.half(1, true) }

// bumpAddrGeneration makes the programs judge every flow anew on its next packet.
func (s *sharedState) bumpAddrGeneration() {
	s.words.writes.point()
	atomic.AddUint32(s.addrGeneration(), 1)
}

func (s *sharedState) setCIDR4Entries(n int)   { s.set(s.cidr4Entries(), uint32(n)) }
func (s *sharedState) setServiceEntries(n int) { s.set(s.serviceEntries(), uint32(n)) }

// imageHalf is the half of policy that the programs read.
func (s *sharedState) imageHalf() uint32        { return atomic.LoadUint32(s.words.half(4, false)) & 1 }
func (s *sharedState) setImageHalf(half uint32) { s.set(s.words.half(4, false), half) }

// readFilter is the half of flow_filter that the programs read.
func (s *sharedState) readFilter() uint32        { return atomic.LoadUint32(s.flowFilter()) & 1 }
func (s *sharedState) setReadFilter(half uint32) { s.set(s.flowFilter(), half) }

func (s *sharedState) set(field *uint32, v uint32) {
	if atomic.LoadUint32(field) != v {
		s.words.writes.point()
		atomic.StoreUint32(field, v)
	}
}

// setVTEP writes what an overlay packet for this node is addressed to. The MAC and its flag are one store.
func (s *sharedState) setVTEP(addrs [bpf.NodeUnderlay]uint32, mac [6]byte) {
	for i, a := range addrs {
		s.set(s.words.half(2+uint32(i)/2, i%2 == 1), a)
	}
	var raw [8]byte
	if copy(raw[:], mac[:]); mac != [6]byte{} {
		raw[6] = 1
	}
	s.words.change(3, binary.NativeEndian.Uint64(raw[:]))
}
