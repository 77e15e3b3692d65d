// SPDX-License-Identifier: Apache-2.0

// Package packet builds frames for tests: one good packet, described by a Spec, in which a test then breaks one thing.
package packet

import (
	"net/netip"
	"slices"
)

// MAC is an Ethernet address.
type MAC = [6]byte

// MACs of frames whose test does not care, from the documentation range of RFC 7042.
var (
	MAC1 = MAC{0x00, 0x00, 0x5e, 0x00, 0x53, 0x01}
	MAC2 = MAC{0x00, 0x00, 0x5e, 0x00, 0x53, 0x02}
)

// IP protocol numbers.
const (
	ProtocolICMP   = 1
	ProtocolTCP    = 6
	ProtocolUDP    = 17
	ProtocolICMPv6 = 58
	ProtocolSCTP   = 132
)

// Ethernet types.
const (
	EtherIPv4 = 0x0800
	EtherARP  = 0x0806
	EtherVLAN = 0x8100
	EtherIPv6 = 0x86dd
	EtherQinQ = 0x88a8
)

// TCP flags.
const (
	FIN = 1 << iota
	SYN
	RST
	PSH
	ACK
	URG
)

// VXLANPort is the tunnel port of Linux and of flannel.
const VXLANPort = 8472

// Spec describes one frame. The constructors return good ones; set fields to make another good one, Break to make a bad one.
type Spec struct {
	SrcMAC, DstMAC MAC
	Tags           []Tag  // outermost first
	EtherType      uint16 // not 0: written instead of the type that Src implies

	Src, Dst   netip.Addr  // both of one family; neither: Body follows the Ethernet header
	TOS        uint8       // DSCP and ECN, IPv6 traffic class
	TTL        uint8       // 0: 64
	ID         uint16      // of the datagram; in IPv6 only fragments have one
	DF, MF     bool        // don't fragment (IPv4), more fragments
	Offset     int         // of a fragment, bytes, a multiple of 8; above 0 Payload follows the IP header, without ports
	Options    []byte      // IPv4, padded with zeros to a multiple of 4
	Extensions []Extension // IPv6

	Protocol         uint8
	SrcPort, DstPort uint16
	Flags            uint8 // TCP
	Seq, Ack         uint32
	Type, Code       uint8  // ICMP
	Rest             uint32 // ICMP: the second word: id and sequence number, or the MTU
	NoChecksum       bool   // UDP: checksum 0
	Payload          []byte // behind the transport header

	// Body, unless nil, replaces everything behind the IP header.
	Body []byte
	// Break, unless nil, is called last with the finished frame and where its parts begin. What it returns is the frame.
	Break func(frame []byte, at Layout) []byte
}

// Tag is a VLAN tag.
type Tag struct {
	EtherType uint16 // 0: 0x8100
	ID        uint16 // priority and VLAN
}

// Extension is an IPv6 extension header: Data is all of it except its first byte, the next header.
type Extension struct {
	Protocol uint8
	Data     []byte
}

// Layout says at which byte of a frame each part begins.
type Layout struct {
	IP        int // network header, or ARP
	Transport int
	Payload   int // behind the transport header: in a tunnel packet the VXLAN header, and 8 bytes on the inner frame
}

func ports(protocol uint8, src, dst netip.AddrPort) Spec {
	return Spec{SrcMAC: MAC1, DstMAC: MAC2, Src: src.Addr(), Dst: dst.Addr(),
		Protocol: protocol, SrcPort: src.Port(), DstPort: dst.Port()}
}

// TCP is a segment with flags.
func TCP(src, dst netip.AddrPort, flags uint8) Spec {
	s := ports(ProtocolTCP, src, dst)
	s.Flags, s.Seq = flags, 1000
	if flags&ACK != 0 {
		s.Ack = 2000
	}
	return s
}

// UDP is a datagram.
func UDP(src, dst netip.AddrPort, payload ...byte) Spec {
	s := ports(ProtocolUDP, src, dst)
	s.Payload = payload
	return s
}

// SCTP is a packet with an INIT chunk (RFC 9260 section 3.3.2).
func SCTP(src, dst netip.AddrPort) Spec {
	s := ports(ProtocolSCTP, src, dst)
	s.Payload = []byte{1, 0, 0, 20, 0, 0, 0, 1, 0, 0, 0xff, 0xff, 0, 1, 0, 1, 0, 0, 0, 1}
	return s
}

// ICMP is a message of ICMP, or of ICMPv6 if src is an IPv6 address. rest is the header's second word.
func ICMP(src, dst netip.Addr, typ, code uint8, rest uint32, payload []byte) Spec {
	s := IP(src, dst, ProtocolICMP, payload)
	if src.Is6() {
		s.Protocol = ProtocolICMPv6
	}
	s.Type, s.Code, s.Rest = typ, code, rest
	return s
}

// Echo is an echo request.
func Echo(src, dst netip.Addr, id, seq uint16) Spec {
	typ := uint8(8)
	if src.Is6() {
		typ = 128
	}
	return ICMP(src, dst, typ, 0, uint32(id)<<16|uint32(seq), []byte("weir"))
}

// ICMPError is an ICMP error about the packet in frame, which it quotes: the IP header and size bytes behind it.
func ICMPError(src, dst netip.Addr, typ, code uint8, about Spec, size int) Spec {
	about.Tags, about.EtherType = nil, 0
	frame, at := about.build()
	return ICMP(src, dst, typ, code, 0, frame[at.IP:min(at.Transport+size, len(frame))])
}

// IP is a packet of any protocol with a given transport part. Of the protocols this package knows it is the payload.
func IP(src, dst netip.Addr, protocol uint8, payload []byte) Spec {
	return Spec{SrcMAC: MAC1, DstMAC: MAC2, Src: src, Dst: dst, Protocol: protocol, Payload: payload}
}

// ARP is a request (op 1) or a reply (op 2); a request goes to the broadcast address.
func ARP(op uint16, srcMAC MAC, src netip.Addr, dstMAC MAC, dst netip.Addr) Spec {
	body := []byte{0, 1, 8, 0, 6, 4, byte(op >> 8), byte(op)}
	body = append(append(body, srcMAC[:]...), src.AsSlice()...)
	body = append(append(body, dstMAC[:]...), dst.AsSlice()...)
	if op == 1 {
		dstMAC = MAC{0xff, 0xff, 0xff, 0xff, 0xff, 0xff}
	}
	return Spec{SrcMAC: srcMAC, DstMAC: dstMAC, EtherType: EtherARP, Body: body}
}

// Underlay is the outer half of a tunnel packet: UDP to VXLANPort without a checksum, as Linux sends it.
func Underlay(src, dst netip.Addr) Spec {
	s := UDP(netip.AddrPortFrom(src, 49152), netip.AddrPortFrom(dst, VXLANPort))
	s.NoChecksum, s.DF = true, true
	return s
}

// Encapsulate puts an inner frame behind a VXLAN header (RFC 7348) into outer, normally an Underlay.
func Encapsulate(outer Spec, vni uint32, inner []byte) Spec {
	header := []byte{8, 0, 0, 0, byte(vni >> 16), byte(vni >> 8), byte(vni), 0}
	outer.Payload = append(header, inner...)
	return outer
}

// VXLAN is the frame that Encapsulate describes.
func VXLAN(outer Spec, vni uint32, inner []byte) []byte {
	return Encapsulate(outer, vni, inner).Bytes()
}

// Via is s between other Ethernet addresses.
func (s Spec) Via(src, dst MAC) Spec {
	s.SrcMAC, s.DstMAC = src, dst
	return s
}

// Mirror is what the other side sends back: addresses and ports exchanged, a SYN acknowledged, an echo request answered.
func (s Spec) Mirror() Spec {
	s.SrcMAC, s.DstMAC = s.DstMAC, s.SrcMAC
	s.Src, s.Dst = s.Dst, s.Src
	s.SrcPort, s.DstPort = s.DstPort, s.SrcPort
	s.Seq, s.Ack = s.Ack, s.Seq+1
	s.Flags |= ACK
	switch {
	case s.Protocol == ProtocolICMP && s.Type == 8:
		s.Type = 0
	case s.Protocol == ProtocolICMPv6 && s.Type == 128:
		s.Type = 129
	}
	return s
}

// Fragments cuts the packet into fragments that carry size bytes each, the last one the rest; size is a multiple of 8.
func (s Spec) Fragments(size int) []Spec {
	whole := s
	whole.Tags, whole.Break, whole.Extensions, whole.Options = nil, nil, nil, nil
	frame, at := whole.build()
	body := frame[at.Transport:]
	var out []Spec
	for offset := 0; offset < len(body); offset += size {
		f := s
		end := min(offset+size, len(body))
		f.Body, f.Offset, f.MF, f.DF = slices.Clone(body[offset:end]), offset, end < len(body), false
		out = append(out, f)
	}
	return out
}
