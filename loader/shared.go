// SPDX-License-Identifier: Apache-2.0

package loader

import "sync/atomic"

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

// readFilter is the half of flow_filter that the programs read.
func (s *sharedState) readFilter() uint32        { return atomic.LoadUint32(s.flowFilter()) & 1 }
func (s *sharedState) setReadFilter(half uint32) { s.set(s.flowFilter(), half) }

func (s *sharedState) set(field *uint32, v uint32) {
	if atomic.LoadUint32(field) != v {
		s.words.writes.point()
		atomic.StoreUint32(field, v)
	}
}
