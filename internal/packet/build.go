// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"encoding/binary"
	"fmt"
	"net"
	"slices"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

// Bytes is the frame. It panics on a Spec that contradicts itself: that is a mistake in the test.
func (s Spec) Bytes() []byte {
	frame, at := s.build()
	if s.Break != nil {
		frame = s.Break(frame, at)
	}
	return frame
}

// At says where the parts of the frame begin, as Break sees them.
func (s Spec) At() Layout {
	_, at := s.build()
	return at
}

func (s Spec) build() ([]byte, Layout) {
	at := Layout{IP: 14 + 4*len(s.Tags)}
	var packet []byte
	etherType := uint16(EtherIPv4)
	switch {
	case s.Src.Is4() && s.Dst.Is4():
		packet = s.ipv4(&at)
	case s.Src.Is6() && s.Dst.Is6():
		packet = s.ipv6(&at)
		etherType = EtherIPv6
	case !s.Src.IsValid() && !s.Dst.IsValid():
		packet = s.Body
		at.Transport, at.Payload = at.IP, at.IP
	default:
		panic(fmt.Sprintf("build packet: addresses of two families: %v, %v", s.Src, s.Dst))
	}
	if s.EtherType != 0 {
		etherType = s.EtherType
	}
	frame := slices.Concat(s.DstMAC[:], s.SrcMAC[:])
	for _, tag := range s.Tags {
		if tag.EtherType == 0 {
			tag.EtherType = EtherVLAN
		}
		frame = binary.BigEndian.AppendUint16(frame, tag.EtherType)
		frame = binary.BigEndian.AppendUint16(frame, tag.ID)
	}
	frame = binary.BigEndian.AppendUint16(frame, etherType)
	return append(frame, packet...), at
}

func (s Spec) ttl() uint8 {
	if s.TTL == 0 {
		return 64
	}
	return s.TTL
}

func (s Spec) ipv4(at *Layout) []byte {
	ip := &layers.IPv4{Version: 4, IHL: 5, TOS: s.TOS, Id: s.ID, TTL: s.ttl(), Protocol: layers.IPProtocol(s.Protocol),
		FragOffset: uint16(s.Offset / 8), SrcIP: net.IP(s.Src.AsSlice()), DstIP: net.IP(s.Dst.AsSlice())}
	if s.DF {
		ip.Flags |= layers.IPv4DontFragment
	}
	if s.MF {
		ip.Flags |= layers.IPv4MoreFragments
	}
	body, header := s.transport(ip)
	packet := serialize(ip, gopacket.Payload(body))
	if len(s.Options) > 0 {
		options := make([]byte, (len(s.Options)+3)/4*4)
		copy(options, s.Options)
		packet = slices.Insert(packet, 20, options...)
		packet[0] += uint8(len(options) / 4)
		binary.BigEndian.PutUint16(packet[2:], uint16(len(packet)))
		FixIPv4(packet)
	}
	at.Transport = at.IP + len(packet) - len(body)
	at.Payload = at.Transport + header
	return packet
}

func (s Spec) ipv6(at *Layout) []byte {
	ip := &layers.IPv6{Version: 6, TrafficClass: s.TOS, HopLimit: s.ttl(), NextHeader: layers.IPProtocol(s.Protocol),
		SrcIP: net.IP(s.Src.AsSlice()), DstIP: net.IP(s.Dst.AsSlice())}
	body, header := s.transport(ip)
	chain := s.Extensions
	if s.MF || s.Offset > 0 {
		word := uint16(s.Offset / 8 * 8)
		if s.MF {
			word |= 1
		}
		data := binary.BigEndian.AppendUint16([]byte{0}, word)
		chain = append(slices.Clone(chain), Extension{44, binary.BigEndian.AppendUint32(data, uint32(s.ID))})
	}
	extensions, next := []byte{}, s.Protocol
	for _, e := range slices.Backward(chain) {
		extensions = slices.Concat([]byte{next}, e.Data, extensions)
		next = e.Protocol
	}
	ip.NextHeader = layers.IPProtocol(next)
	at.Transport = at.IP + 40 + len(extensions)
	at.Payload = at.Transport + header
	return serialize(ip, gopacket.Payload(append(extensions, body...)))
}

// transport is everything behind the IP header, and how long its own header is.
func (s Spec) transport(ip gopacket.NetworkLayer) ([]byte, int) {
	if s.Body != nil {
		return s.Body, 0
	}
	if s.Offset > 0 {
		return s.Payload, 0
	}
	payload := gopacket.Payload(s.Payload)
	switch s.Protocol {
	case ProtocolTCP:
		tcp := &layers.TCP{SrcPort: layers.TCPPort(s.SrcPort), DstPort: layers.TCPPort(s.DstPort), Seq: s.Seq, Ack: s.Ack,
			DataOffset: 5, Window: 64240, FIN: s.Flags&FIN != 0, SYN: s.Flags&SYN != 0, RST: s.Flags&RST != 0,
			PSH: s.Flags&PSH != 0, ACK: s.Flags&ACK != 0, URG: s.Flags&URG != 0}
		checksum(tcp, ip)
		return serialize(tcp, payload), 20
	case ProtocolUDP:
		udp := &layers.UDP{SrcPort: layers.UDPPort(s.SrcPort), DstPort: layers.UDPPort(s.DstPort)}
		checksum(udp, ip)
		b := serialize(udp, payload)
		if s.NoChecksum {
			b[6], b[7] = 0, 0
		}
		return b, 8
	case ProtocolSCTP:
		sctp := &layers.SCTP{SrcPort: layers.SCTPPort(s.SrcPort), DstPort: layers.SCTPPort(s.DstPort)}
		return serialize(sctp, payload), 12
	case ProtocolICMP:
		icmp := &layers.ICMPv4{TypeCode: layers.CreateICMPv4TypeCode(s.Type, s.Code), Id: uint16(s.Rest >> 16),
			Seq: uint16(s.Rest)}
		return serialize(icmp, payload), 8
	case ProtocolICMPv6:
		icmp := &layers.ICMPv6{TypeCode: layers.CreateICMPv6TypeCode(s.Type, s.Code)}
		checksum(icmp, ip)
		rest := binary.BigEndian.AppendUint32(nil, s.Rest)
		return serialize(icmp, gopacket.Payload(append(rest, s.Payload...))), 8
	}
	return s.Payload, 0
}

func checksum(l interface {
	SetNetworkLayerForChecksum(gopacket.NetworkLayer) error
}, ip gopacket.NetworkLayer) {
	if err := l.SetNetworkLayerForChecksum(ip); err != nil {
		panic(fmt.Sprintf("build packet: %v", err))
	}
}

func serialize(l ...gopacket.SerializableLayer) []byte {
	buffer := gopacket.NewSerializeBuffer()
	if err := gopacket.SerializeLayers(buffer, gopacket.SerializeOptions{FixLengths: true, ComputeChecksums: true}, l...); err != nil {
		panic(fmt.Sprintf("build packet: %v", err))
	}
	return buffer.Bytes()
}

// FixIPv4 makes the header checksum of an IPv4 packet right again, for a Break that must not break the checksum too.
func FixIPv4(packet []byte) {
	header := packet[:min(int(packet[0]&15)*4, len(packet))]
	header[10], header[11] = 0, 0
	binary.BigEndian.PutUint16(header[10:], ^Sum(header))
}

// Sum is the ones' complement sum of RFC 1071.
func Sum(b []byte) uint16 {
	var sum uint32
	for len(b) > 1 {
		sum += uint32(b[0])<<8 | uint32(b[1])
		b = b[2:]
	}
	if len(b) > 0 {
		sum += uint32(b[0]) << 8
	}
	for sum > 0xffff {
		sum = sum&0xffff + sum>>16
	}
	return uint16(sum)
}
