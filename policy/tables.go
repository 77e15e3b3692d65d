// SPDX-License-Identifier: Apache-2.0

package policy

import "net/netip"

// The tables below are what Compile yields beside the image, as plain values: the loader writes them into kernel maps, and
// Lookup's callers and tests read them directly. Numbers equal those of bpf/maps.h (a test in bpf holds them together).

// Reserved identity numbers, Cilium's.
const (
	IdentityUnknown       uint32 = 0
	IdentityHost          uint32 = 1
	IdentityWorld         uint32 = 2
	IdentityUnmanaged     uint32 = 3
	IdentityHealth        uint32 = 4
	IdentityInit          uint32 = 5
	IdentityRemoteNode    uint32 = 6
	IdentityKubeAPIServer uint32 = 7
	IdentityIngress       uint32 = 8
	IdentityWorldIPv4     uint32 = 9
	IdentityWorldIPv6     uint32 = 10
	FirstIdentity         uint32 = 256       // the first number handed out
	MaxIdentity           uint32 = 1<<24 - 1 // an address entry has 24 bits for it
)

// AddressKind says whose an address is; the numbers are those of enum address_kind.
type AddressKind uint8

// Address kinds.
const (
	AddressNone AddressKind = iota
	AddressLocalPod
	AddressRemotePod
	AddressNode
	AddressHost
	AddressLocalCIDR
	AddressRemoteCIDR
)

// AddressFlags are properties of an address; the numbers are those of ADDRESS_*.
type AddressFlags uint8

// Address flags.
const (
	AddressUnderlay  AddressFlags = 1 << 0
	AddressTunnelled AddressFlags = 1 << 1
)

// Address is one entry of the address table: the longest Prefix that contains an address decides.
type Address struct {
	Prefix   netip.Prefix
	Identity uint32
	Kind     AddressKind
	Flags    AddressFlags
	Slot     uint16 // endpoint (AddressLocalPod) or owning node
	Tenancy  uint8  // counts the pods that have had this address, modulo 256
}

// Endpoint is a local pod and its slot.
type Endpoint struct {
	Slot     uint16
	Pod      string // Pod.Key
	UID      string
	Identity uint32
	Addrs    []netip.Addr
	Policed  [2]bool // by direction: some policy selects the pod
}

// NodeEntry is a node and its slot.
type NodeEntry struct {
	Slot    uint16
	Name    string
	VTEPMAC [6]byte
}

// ServiceEntry is one Service address with the distinct backends behind it. The unspecified address stands for the addresses
// under which nodes serve NodePorts (Address.ServesNodePorts).
type ServiceEntry struct {
	Addr     netip.Addr
	Protocol uint8
	Port     uint16
	Backends []Backend
	Tunnel   bool // a backend is a node's address at its tunnel port
}

// Backend is an {identity, port} pair that a ready endpoint of a Service has.
type Backend struct {
	Identity uint32
	Port     uint16
	Host     bool // an address of this node
	Node     bool // an address of a node, be it this one
}

// Compiled is all that enforcing a model on its node takes.
type Compiled struct {
	Image     *Image
	Addresses []Address // sorted by prefix
	Endpoints []Endpoint
	Nodes     []NodeEntry
	Services  []ServiceEntry
}
