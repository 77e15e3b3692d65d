// SPDX-License-Identifier: Apache-2.0

package oracle

import (
	"strconv"
	"strings"
	"unicode"

	"github.com/weirnet/weir/k8s"
)

// ciliumPorts reads the layer 4 half of a rule. Without one it covers everything, ICMP too.
func (o *Oracle) ciliumPorts(r ciliumRule, s side) bool {
	if !r.limited() {
		return true
	}
	for _, list := range r.ports { // [{}] and ports: [] match nothing
		for _, port := range list {
			if r.port(port, s) {
				return true
			}
		}
	}
	for _, rule := range r.icmps {
		for _, field := range rule.Fields {
			if o.icmpField(field, s.packet) {
				return true
			}
		}
	}
	return false
}

func (r ciliumRule) port(port k8s.CiliumPort, s side) bool {
	if !ciliumProtocol(port.Protocol, s.packet.Protocol) {
		return false
	}
	if strings.ContainsFunc(port.Port, unicode.IsLetter) {
		return r.portName(port, s)
	}
	number, err := strconv.ParseUint(port.Port, 0, 16)
	if err != nil {
		return false
	}
	if number == 0 { // all ports, endPort or not
		return true
	}
	last := max(int(number), int(port.EndPort)) // ignored if not greater
	return int(number) <= int(s.packet.Port) && int(s.packet.Port) <= last
}

// portName reads a port name: at ingress what the subject calls so, at egress what the peer pod does.
func (r ciliumRule) portName(port k8s.CiliumPort, s side) bool {
	if s.egress && r.nameless {
		return false // Egress names never match CIDRs or entities.
	}
	first, known := namedPort(s.destination().Pod, port.Port, s.packet.Protocol)
	last := first
	if !s.egress && int(port.EndPort) > int(first) {
		last = uint16(port.EndPort)
	}
	return known && first <= s.packet.Port && s.packet.Port <= last
}

// ciliumProtocol: missing and ANY mean TCP, UDP and SCTP, never ICMP.
func ciliumProtocol(name string, protocol uint8) bool {
	switch name {
	case "TCP":
		return protocol == tcp
	case "UDP":
		return protocol == udp
	case "SCTP":
		return protocol == sctp
	case "", "ANY":
		return protocol == tcp || protocol == udp || protocol == sctp
	}
	return false
}

// icmpField reads one ICMP type. Type 0 is every type to Cilium.
func (o *Oracle) icmpField(field k8s.CiliumICMPField, packet Packet) bool {
	protocol, names := icmp, icmpNames()
	if field.Family == "IPv6" { // A missing family is IPv4.
		protocol, names = icmpv6, icmpv6Names()
	}
	if packet.Protocol != protocol || field.Type == nil {
		return false
	}
	number := field.Type.IntValue() // of a string of digits too
	if known, ok := names[field.Type.StrVal]; ok {
		number = known
	} else if field.Type.StrVal != "" && number == 0 && field.Type.StrVal != "0" {
		return false
	}
	return number == int(packet.Port) || number == 0 && !o.options.ICMPTypeZeroExact
}

// icmpNames are Cilium's names of the types of RFC 792 and its successors.
func icmpNames() map[string]int {
	return map[string]int{"EchoReply": 0, "DestinationUnreachable": 3, "Redirect": 5, "Echo": 8, "EchoRequest": 8,
		"RouterAdvertisement": 9, "RouterSelection": 10, "TimeExceeded": 11, "ParameterProblem": 12, "Timestamp": 13,
		"TimestampReply": 14, "Photuris": 40, "ExtendedEchoRequest": 42, "ExtendedEchoReply": 43}
}

// icmpv6Names are those of RFC 4443 and its successors.
func icmpv6Names() map[string]int {
	return map[string]int{"DestinationUnreachable": 1, "PacketTooBig": 2, "TimeExceeded": 3, "ParameterProblem": 4,
		"EchoRequest": 128, "EchoReply": 129, "MulticastListenerQuery": 130, "MulticastListenerReport": 131,
		"MulticastListenerDone": 132, "RouterSolicitation": 133, "RouterAdvertisement": 134, "NeighborSolicitation": 135,
		"NeighborAdvertisement": 136, "RedirectMessage": 137, "RouterRenumbering": 138, "ICMPNodeInformationQuery": 139,
		"ICMPNodeInformationResponse": 140, "InverseNeighborDiscoverySolicitation": 141,
		"InverseNeighborDiscoveryAdvertisement": 142, "HomeAgentAddressDiscoveryRequest": 144,
		"HomeAgentAddressDiscoveryReply": 145, "MobilePrefixSolicitation": 146, "MobilePrefixAdvertisement": 147,
		"DuplicateAddressRequestCodeSuffix": 157, "DuplicateAddressConfirmationCodeSuffix": 158,
		"ExtendedEchoRequest": 160, "ExtendedEchoReply": 161}
}
