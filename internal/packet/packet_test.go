// SPDX-License-Identifier: Apache-2.0

package packet

import (
	"bytes"
	"encoding/binary"
	"hash/crc32"
	"net/netip"
	"testing"

	"github.com/google/gopacket"
	"github.com/google/gopacket/layers"
)

var (
	a4 = netip.MustParseAddrPort("192.0.2.1:40000")
	b4 = netip.MustParseAddrPort("198.51.100.2:8080")
	a6 = netip.MustParseAddrPort("[2001:db8::1]:40000")
	b6 = netip.MustParseAddrPort("[2001:db8::2]:8080")
)

// pseudo is the sum of pseudo header and transport part: 0xffff if the checksum inside is right.
func pseudo(s Spec, body []byte) uint16 {
	header := append(s.Src.AsSlice(), s.Dst.AsSlice()...)
	header = binary.BigEndian.AppendUint32(header, uint32(len(body)))
	header = append(header, 0, 0, 0, s.Protocol)
	return Sum(append(header, body...))
}

func TestChecksumsAndLengthsHold(t *testing.T) {
	hop := Extension{0, []byte{0, 1, 4, 0, 0, 0, 0}}
	tests := map[string]Spec{
		"tcp4":    TCP(a4, b4, SYN),
		"udp4":    UDP(a4, b4, 1, 2, 3),
		"sctp4":   SCTP(a4, b4),
		"echo4":   Echo(a4.Addr(), b4.Addr(), 7, 1),
		"tcp6":    TCP(a6, b6, SYN|ACK),
		"udp6":    UDP(a6, b6, 1),
		"echo6":   Echo(a6.Addr(), b6.Addr(), 7, 1),
		"options": func() Spec { s := TCP(a4, b4, SYN); s.Options = []byte{7, 3, 4}; return s }(),
		"tagged":  func() Spec { s := UDP(a4, b4); s.Tags = []Tag{{EtherQinQ, 5}, {0, 6}}; return s }(),
		"chain":   func() Spec { s := TCP(a6, b6, SYN); s.Extensions = []Extension{hop, {60, hop.Data}}; return s }(),
		"error":   ICMPError(b4.Addr(), a4.Addr(), 3, 4, TCP(a4, b4, ACK), 8),
	}
	for name, s := range tests {
		t.Run(name, func(t *testing.T) {
			frame, at := s.Bytes(), s.At()
			ip, body := frame[at.IP:], frame[at.Transport:]
			if s.Src.Is4() {
				if got := int(binary.BigEndian.Uint16(ip[2:])); got != len(ip) {
					t.Errorf("IPv4 total length %d, want %d", got, len(ip))
				}
				if got := Sum(ip[:int(ip[0]&15)*4]); got != 0xffff {
					t.Errorf("IPv4 header sums to %#x", got)
				}
			} else if got := int(binary.BigEndian.Uint16(ip[4:])); got != len(ip)-40 {
				t.Errorf("IPv6 payload length %d, want %d", got, len(ip)-40)
			}
			switch s.Protocol {
			case ProtocolICMP:
				if got := Sum(body); got != 0xffff {
					t.Errorf("ICMP sums to %#x", got)
				}
			case ProtocolSCTP:
				sum := binary.LittleEndian.Uint32(body[8:])
				clear(body[8:12])
				if want := crc32.Checksum(body, crc32.MakeTable(crc32.Castagnoli)); sum != want {
					t.Errorf("SCTP checksum %#x, want %#x", sum, want)
				}
			default:
				if got := pseudo(s, body); got != 0xffff {
					t.Errorf("transport sums to %#x", got)
				}
			}
		})
	}
}

func TestDecodersReadWhatIsMeant(t *testing.T) {
	inner := TCP(a4, b4, SYN)
	outer := Underlay(netip.MustParseAddr("203.0.113.1"), netip.MustParseAddr("203.0.113.2"))
	outer.Tags = []Tag{{ID: 9}}
	frame := VXLAN(outer, 0x123456, inner.Bytes())
	p := gopacket.NewPacket(frame[outer.At().Payload:], layers.LayerTypeVXLAN, gopacket.Default)
	vx, _ := p.Layer(layers.LayerTypeVXLAN).(*layers.VXLAN)
	tcp, _ := p.Layer(layers.LayerTypeTCP).(*layers.TCP)
	if vx == nil || tcp == nil || vx.VNI != 0x123456 || !vx.ValidIDFlag || tcp.DstPort != 8080 || !tcp.SYN || tcp.ACK {
		t.Fatalf("tunnel packet reads as %v", p)
	}
	p = gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	udp, _ := p.Layer(layers.LayerTypeUDP).(*layers.UDP)
	tag, _ := p.Layer(layers.LayerTypeDot1Q).(*layers.Dot1Q)
	if udp == nil || tag == nil || udp.DstPort != VXLANPort || udp.Checksum != 0 || tag.VLANIdentifier != 9 {
		t.Fatalf("outer packet reads as %v", p)
	}
	if got := frame[outer.At().Payload+8:]; !bytes.Equal(got, inner.Bytes()) {
		t.Error("the inner frame changed on the way in")
	}
}

func TestFragmentsJoinToTheWhole(t *testing.T) {
	for name, s := range map[string]Spec{"v4": UDP(a4, b4, bytes.Repeat([]byte{7}, 50)...), "v6": UDP(a6, b6, bytes.Repeat([]byte{7}, 50)...)} {
		t.Run(name, func(t *testing.T) {
			s.ID = 77
			whole := s.Bytes()[s.At().Transport:]
			var joined []byte
			parts := s.Fragments(24)
			if len(parts) != 3 {
				t.Fatalf("%d fragments, want 3", len(parts))
			}
			for i, f := range parts {
				frame, at := f.Bytes(), f.At()
				joined = append(joined, frame[at.Transport:]...)
				ip := frame[at.IP:]
				more, offset, id := ip[6]&0x20 != 0, int(binary.BigEndian.Uint16(ip[6:])&0x1fff)*8, uint32(binary.BigEndian.Uint16(ip[4:]))
				if s.Src.Is6() {
					word := binary.BigEndian.Uint16(ip[42:])
					more, offset, id = word&1 != 0, int(word&^7), binary.BigEndian.Uint32(ip[44:])
				}
				if more != (i < 2) || offset != 24*i || id != 77 {
					t.Errorf("fragment %d: more %v, offset %d, id %d", i, more, offset, id)
				}
			}
			if !bytes.Equal(joined, whole) {
				t.Error("the fragments do not add up to the datagram")
			}
		})
	}
}

func TestBreakSeesTheFinishedFrame(t *testing.T) {
	s := TCP(a4, b4, SYN)
	s.Options = []byte{1, 1, 1, 0}
	s.Break = func(frame []byte, at Layout) []byte {
		if binary.BigEndian.Uint16(frame[at.Transport+2:]) != 8080 {
			t.Error("the destination port is not where Layout says")
		}
		return frame[:at.Transport]
	}
	if got := len(s.Bytes()); got != 14+24 {
		t.Errorf("cut frame has %d bytes, want 38", got)
	}
}

func TestMirrorAnswers(t *testing.T) {
	m := TCP(a4, b4, SYN).Mirror()
	if m.Src != b4.Addr() || m.DstPort != a4.Port() || m.Flags != SYN|ACK || m.Ack != 1001 || m.SrcMAC != MAC2 {
		t.Errorf("mirror of a SYN is %+v", m)
	}
	if e := Echo(a4.Addr(), b4.Addr(), 7, 1).Mirror(); e.Type != 0 || e.Rest != 7<<16|1 {
		t.Errorf("mirror of an echo request is %+v", e)
	}
	if e := Echo(a6.Addr(), b6.Addr(), 7, 1).Mirror(); e.Type != 129 {
		t.Errorf("mirror of an ICMPv6 echo request is %+v", e)
	}
}

func TestARP(t *testing.T) {
	frame := ARP(1, MAC1, a4.Addr(), MAC{}, b4.Addr()).Bytes()
	p := gopacket.NewPacket(frame, layers.LayerTypeEthernet, gopacket.Default)
	arp, _ := p.Layer(layers.LayerTypeARP).(*layers.ARP)
	if arp == nil || arp.Operation != 1 || !bytes.Equal(arp.DstProtAddress, b4.Addr().AsSlice()) || frame[0] != 0xff {
		t.Errorf("ARP request reads as %v", p)
	}
}
