// SPDX-License-Identifier: Apache-2.0

// Package bpf is the contract between the programs and the agent: the maps that they share, the types in them, and the
// enums of hooks, verdicts and reasons. The headers beside it are its source; maps_bpfel.go is generated from them.
package bpf

import (
	"encoding/binary"
	"errors"
	"fmt"
	"strings"

	"github.com/cilium/ebpf"
)

// ABI is the version of everything that outlives the agent: map shapes, image layout, enum numbers. Pins carry it, and
// pins of another version are refused.
const ABI = 3

// Limits of the tables, as in maps.h; a test compares them.
const (
	MaxRules         = 16384
	MaxEndpoints     = 4096
	MaxNodes         = 8192
	MaxBackends      = 15
	CounterSlots     = uint32(HookCount) * uint32(DirectionCount) * uint32(VerdictCount) * uint32(ReasonCount)
	FlowFilterBits   = 14
	FlowFilterWords  = 1 << FlowFilterBits // of one half
	FlowSummaryWords = FlowFilterWords / 64
	Addr4Root        = 65536
	Addr4Block       = 256
	EventBytes       = 128
	NodeUnderlay     = 2 // addresses of a node that need no lookup
)

// Flags of address entries, nodes, Services, backends and flows, as in maps.h.
const (
	AddressUnderlay  = 1 << 0
	AddressTunnelled = 1 << 1

	NodeMACKnown    = 1 << 0
	NodeOldMACKnown = 1 << 1

	ServiceMany   = 1 << 0
	ServiceTunnel = 1 << 1

	BackendHost = 1 << 0

	FlowFINForward = 1 << 0
	FlowFINReply   = 1 << 1
	FlowRST        = 1 << 2
	FlowAssured    = 1 << 3
)

// Idle lifetimes of flows in seconds, as in flow.h.
const (
	FlowNewSeconds      = 60
	FlowTCPSeconds      = 21600
	FlowFINSeconds      = 120
	FlowClosedSeconds   = 30
	FlowRSTSeconds      = 10
	FlowDatagramSeconds = 180
	FlowICMPSeconds     = 30
)

// Types of the maps' keys and values; maps.h says what their fields mean.
type (
	AddressKind = mapsAddressKind
	Backend     = mapsBackend
	CIDR4Key    = mapsCidr4Key
	Counter     = mapsCounter
	Endpoint    = mapsEndpoint
	Event       = mapsEvent
	Flow        = mapsFlow
	FlowKey     = mapsFlowKey
	Fragment    = mapsFragment
	FragmentKey = mapsFragmentKey
	ImageHeader = mapsImageHeader
	Node        = mapsNode
	RuleHit     = mapsRuleHit
	Service     = mapsService
	ServiceKey  = mapsServiceKey
	State       = mapsSharedState
)

// Knobs are the constants of config.h. They are set before the programs are loaded; changing one means loading anew and
// replacing the links' programs.
type Knobs struct {
	VXLANPort           uint16
	VNI                 uint32
	AnyVNI              bool   // VNI is not looked at
	Frags               bool   // XDP programs take frames of several buffers
	SpoofEnforce        bool   // drop violations of the overlay check rather than count them
	DecapStrip          bool   // remove outer headers in XDP
	UnknownEndpointDrop bool   // drop what is addressed to our podCIDR where no pod is known
	FlowsPerPod         uint32 // assured flows that one pod may own
	EventInterval       uint64 // jiffies between two events of one counter on one CPU; 0: every packet
}

// DefaultKnobs returns the defaults of config.h.
func DefaultKnobs() Knobs {
	return Knobs{
		VXLANPort: 8472, VNI: 1, SpoofEnforce: true,
		FlowsPerPod: 262144 / 8, EventInterval: 32,
	}
}

// Spec returns the maps that all programs share, none of them created.
func Spec() (*ebpf.CollectionSpec, error) {
	spec, err := loadMaps()
	if err != nil {
		return nil, fmt.Errorf("read the embedded maps object: %w", err)
	}
	for name := range spec.Maps {
		if name[0] == '.' { // sections of the C object, not tables
			delete(spec.Maps, name)
		}
	}
	clear(spec.Variables)
	return spec, nil
}

// configure writes knobs, and the sizes of maps that programs must know, into the constants of a program object.
func (k Knobs) configure(spec *ebpf.CollectionSpec, maps map[string]*ebpf.Map) error {
	policy, blocks := maps["policy"], maps["addr4_blocks"]
	if policy == nil || blocks == nil {
		return errors.New("configure programs: the maps policy and addr4_blocks are missing")
	}
	image, pool := policy.ValueSize()/2, blocks.ValueSize()
	if image&(image-1) != 0 || pool&(pool-1) != 0 {
		return fmt.Errorf("configure programs: %d bytes of an image and %d of trie blocks: not powers of two", image, pool)
	}
	var header [8]byte // flags, then the VNI in the upper three bytes of the second word (RFC 7348 section 5)
	header[0] = 0x08
	binary.BigEndian.PutUint32(header[4:], k.VNI<<8)
	values := map[string]any{
		"vxlan_port":            k.VXLANPort,
		"vxlan_port_wire":       k.VXLANPort<<8 | k.VXLANPort>>8, // programs are little-endian
		"vxlan_vni":             k.VNI,
		"vxlan_any_vni":         flag(k.AnyVNI),
		"xdp_frags":             flag(k.Frags),
		"spoof_enforce":         flag(k.SpoofEnforce),
		"decap_strip":           flag(k.DecapStrip),
		"unknown_endpoint_drop": flag(k.UnknownEndpointDrop),
		"image_mask8":           image - 8,
		"image_mask4":           image - 4,
		"image_mask2":           image - 2,
		"addr4_mask":            pool - Addr4Block*8,
		"vxlan_header":          binary.LittleEndian.Uint64(header[:]),
		"flows_per_pod":         k.FlowsPerPod,
		"event_interval":        k.EventInterval,
	}
	for name, value := range values {
		variable, ok := spec.Variables[name]
		if !ok {
			continue // no program of this object reads it
		}
		if err := variable.Set(value); err != nil {
			return fmt.Errorf("configure programs: set %s: %w", name, err)
		}
	}
	for _, program := range spec.Programs {
		if k.Frags && program.Type == ebpf.XDP {
			program.Flags |= xdpHasFrags
		}
	}
	return fold(spec)
}

// xdpHasFrags is BPF_F_XDP_HAS_FRAGS of linux/bpf.h (Linux 5.18, c2f2cdbeffda).
const xdpHasFrags = 1 << 5

func flag(on bool) uint8 {
	if on {
		return 1
	}
	return 0
}

// Load configures spec, replaces its maps by those given, and loads its programs into objects, a pointer to a struct with
// `ebpf` tags. spec's maps take the sizes of the given ones. A rejection carries the verifier's last lines; %+v on the
// *ebpf.VerifierError inside prints all of them.
func Load(spec *ebpf.CollectionSpec, knobs Knobs, maps map[string]*ebpf.Map, objects any) error {
	if err := knobs.configure(spec, maps); err != nil {
		return err
	}
	replacements := make(map[string]*ebpf.Map)
	for name, m := range spec.Maps {
		shared, ok := maps[strings.TrimPrefix(name, ".data.")] // arrays.h
		if !ok {
			continue
		}
		m.MaxEntries, m.ValueSize = shared.MaxEntries(), shared.ValueSize()
		replacements[name] = shared
	}
	err := spec.LoadAndAssign(objects, &ebpf.CollectionOptions{MapReplacements: replacements})
	var rejected *ebpf.VerifierError
	if errors.As(err, &rejected) {
		return fmt.Errorf("load programs: %w", rejected)
	}
	if err != nil {
		return fmt.Errorf("load programs: %w", err)
	}
	return nil
}
