// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"time"
	"unsafe"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/policy"
)

// Grace is how long both the old and the new facts of a node hold after a change: as long as the rest of the cluster may
// take to hear of it.
const Grace = 60 * time.Second

const nodeWords = uint32(unsafe.Sizeof(bpf.Node{}) / 8)

// ipv4Wire is the EtherType of IPv4 as it stands in a frame, read as a number of this machine.
var ipv4Wire = binary.NativeEndian.Uint16([]byte{0x08, 0x00})

type nodeRaw = [nodeWords]uint64

// nodeTable is the nodes by slot.
type nodeTable struct {
	words  *words
	names  map[uint16]string // by the last Apply of this process
	timers map[uint16]nodeTimer
}

// nodeTimer is when what a node was ceases to hold; zero: nothing to end.
type nodeTimer struct{ oldMAC, predecessor time.Time }

// newNodeTable starts a whole grace for what it finds in one: when it began is not known.
func newNodeTable(w *words, now time.Time) *nodeTable {
	t := &nodeTable{w, make(map[uint16]string), make(map[uint16]nodeTimer)}
	for slot := range uint16(bpf.MaxNodes) {
		var timer nodeTimer
		n := t.get(slot)
		if n.Flags&bpf.NodeOldMACKnown != 0 {
			timer.oldMAC = now.Add(Grace)
		}
		if n.Predecessor != 0 {
			timer.predecessor = now.Add(Grace)
		}
		if timer != (nodeTimer{}) {
			t.timers[slot] = timer
		}
	}
	return t
}

func (t *nodeTable) get(slot uint16) bpf.Node {
	var raw nodeRaw
	for i := range nodeWords {
		raw[i] = t.words.load(uint32(slot)*nodeWords + i)
	}
	return *(*bpf.Node)(unsafe.Pointer(&raw))
}

// put writes what differs in a node, from the last word to the first: flags come after what they say is there.
func (t *nodeTable) put(slot uint16, n bpf.Node) {
	raw := *(*nodeRaw)(unsafe.Pointer(&n))
	for i := nodeWords; i > 0; i-- {
		t.words.change(uint32(slot)*nodeWords+i-1, raw[i-1])
	}
}

// set writes a node. If its MAC changes, the old one holds for the grace period too; of a node that took over another's
// slot, nothing holds.
func (t *nodeTable) set(w policy.NodeEntry, now time.Time) {
	n := t.get(w.Slot)
	if name, ok := t.names[w.Slot]; ok && name != w.Name {
		n = bpf.Node{}
		delete(t.timers, w.Slot)
	}
	t.names[w.Slot] = w.Name
	n.Ethertype = ipv4Wire
	known := w.VTEPMAC != [6]byte{}
	switch {
	case n.Flags&bpf.NodeMACKnown == 0 || !known:
		n.Flags &^= bpf.NodeOldMACKnown
	case n.VtepMac != w.VTEPMAC:
		// The old MAC is in its place, and its flag set, before the new one is stored.
		n.Flags &^= bpf.NodeOldMACKnown
		t.put(w.Slot, n)
		n.OldVtepMac = n.VtepMac
		t.put(w.Slot, n)
		n.Flags |= bpf.NodeOldMACKnown
		t.put(w.Slot, n)
		timer := t.timers[w.Slot]
		timer.oldMAC = now.Add(Grace)
		t.timers[w.Slot] = timer
	}
	if known {
		n.VtepMac = w.VTEPMAC
		n.Flags |= bpf.NodeMACKnown
	} else {
		n.Flags &^= bpf.NodeMACKnown // and the MAC stays: who read the flag a moment ago may yet compare it
	}
	t.put(w.Slot, n)
}

// underlay writes the shortcut of a node's underlay addresses: as many as fit, the rest is found in the trie.
func (t *nodeTable) underlay(slot uint16, addrs [bpf.NodeUnderlay]uint32) {
	n := t.get(slot)
	n.Underlay4 = addrs
	t.put(slot, n)
}

// forget takes an address out of a node's shortcut.
func (t *nodeTable) forget(slot uint16, p prefix4) {
	n := t.get(slot)
	for i, a := range n.Underlay4 {
		if p == newPrefix4(a, 32) {
			n.Underlay4[i] = 0
		}
	}
	t.put(slot, n)
}

// succeed says that slot has addresses which were predecessor's until now.
func (t *nodeTable) succeed(slot, predecessor uint16, now time.Time) {
	n := t.get(slot)
	n.Predecessor = uint32(predecessor) + 1
	t.put(slot, n)
	timer := t.timers[slot]
	timer.predecessor = now.Add(Grace)
	t.timers[slot] = timer
}

// tick ends what has had its time.
func (t *nodeTable) tick(now time.Time) {
	for slot, timer := range t.timers {
		n := t.get(slot)
		if !timer.oldMAC.IsZero() && !now.Before(timer.oldMAC) {
			n.Flags &^= bpf.NodeOldMACKnown
			timer.oldMAC = time.Time{}
		}
		if !timer.predecessor.IsZero() && !now.Before(timer.predecessor) {
			n.Predecessor = 0
			timer.predecessor = time.Time{}
		}
		t.put(slot, n)
		if t.timers[slot] = timer; timer == (nodeTimer{}) {
			delete(t.timers, slot)
		}
	}
}

// gone lists the nodes that are neither wanted nor owners of an address.
func (t *nodeTable) gone(want []policy.NodeEntry, entries *prefixSet) (slots []uint16) {
	keep := make(map[uint16]bool)
	for i := range want {
		keep[want[i].Slot] = true
	}
	for _, e := range entries.entries {
		if slot, ok := e.remoteOwner(); ok {
			keep[slot] = true
		}
	}
	for slot := range uint16(bpf.MaxNodes) {
		if !keep[slot] && t.get(slot) != (bpf.Node{}) {
			slots = append(slots, slot)
		}
	}
	return slots
}

func (t *nodeTable) clear(slot uint16) {
	t.put(slot, bpf.Node{})
	delete(t.names, slot)
	delete(t.timers, slot)
}

// linger is an address that a node has lost, and until when it still counts as the node's.
type linger struct {
	entry addressEntry
	node  string // name of the node when it lost the address; "" if not known
	until time.Time
}

// withLingering adds to want, which it returns, the addresses that nodes have lost less than a grace period ago and nobody
// else owns.
func (t *Tables) withLingering(want *prefixSet, nodes []policy.NodeEntry, now time.Time) *prefixSet {
	names := make(map[uint16]string)
	for i := range nodes {
		names[nodes[i].Slot] = nodes[i].Name
	}
	next := make(map[prefix4]linger)
	for p, e := range t.addresses.entries.entries {
		slot, owned := e.remoteOwner()
		if !owned || e.kind() == policy.AddressRemotePod {
			continue
		}
		if want.has(p) || want.match(p.addr(), p.bits()).kind() != policy.AddressNone {
			continue
		}
		l, known := t.lingering[p]
		if !known {
			l = linger{node: t.nodes.names[slot], until: now.Add(Grace)}
		}
		if name, ok := names[slot]; ok && l.node != "" && name != l.node {
			continue // the slot is another node's now, and that one never had the address
		}
		if !now.Before(l.until) {
			continue
		}
		l.entry = e.withIdentity(lingeringIdentity(e))
		next[p] = l
	}
	for p, l := range next {
		want.set(p, l.entry)
	}
	t.lingering = next
	return want
}

// lingeringIdentity is a reserved number: others may be given to somebody else before the grace is over.
func lingeringIdentity(e addressEntry) uint32 {
	switch {
	case e.identity() < policy.FirstIdentity:
		return e.identity()
	case e.kind() == policy.AddressNode:
		return policy.IdentityRemoteNode
	}
	return policy.IdentityUnmanaged
}

// predecessors finds nodes that now own what another node owned: by new owner, the old one.
func predecessors(have, want *prefixSet) map[uint16]uint16 {
	moved := make(map[uint16]uint16)
	compare := func(p prefix4) {
		if have.entries[p] == want.entries[p] {
			return
		}
		from, ok1 := have.match(p.addr(), p.bits()).remoteOwner()
		to, ok2 := want.match(p.addr(), p.bits()).remoteOwner()
		if ok1 && ok2 && from != to {
			moved[to] = from
		}
	}
	for p := range have.entries {
		compare(p)
	}
	for p := range want.entries {
		compare(p)
	}
	return moved
}
