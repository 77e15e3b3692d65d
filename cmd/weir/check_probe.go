// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"net/netip"
	"strings"

	"github.com/weirnet/weir/policy"
)

// probe is one line of a probes file: the first packet of a new connection, and perhaps the verdict that is wanted.
type probe struct {
	line    int
	members []member // as written
	err     error    // why it cannot be answered

	src, dst string
	protocol uint8
	port     uint16 // ICMP and ICMPv6: the type
	family   int    // 4, 6; 0: left to the addresses
	want     string // "allow", "deny", "": no wish
}

// member is a member of a JSON object, its value as it was written.
type member struct {
	key string
	raw json.RawMessage
}

// errNoObject marks a line that cannot be answered by itself plus an answer.
var errNoObject = errors.New("a probe is one JSON object a line")

// parseProbe reads one line. What is wrong with it is in the probe's err, never fatal for the others.
func parseProbe(line int, text []byte) *probe {
	p := &probe{line: line}
	if p.members, p.err = parseMembers(text); p.err == nil {
		p.err = p.read()
	}
	return p
}

// parseMembers splits an object and keeps order and spelling of its values.
func parseMembers(text []byte) ([]member, error) {
	if err := json.Unmarshal(text, new(json.RawMessage)); err != nil {
		return nil, fmt.Errorf("%w: %w", errNoObject, err)
	}
	dec := json.NewDecoder(bytes.NewReader(text))
	if t, err := dec.Token(); err != nil || t != json.Delim('{') {
		return nil, errNoObject
	}
	var members []member
	for dec.More() {
		t, err := dec.Token()
		if err != nil {
			return nil, fmt.Errorf("%w: %w", errNoObject, err)
		}
		m := member{key: t.(string)} // the decoder takes nothing else for a key
		if err := dec.Decode(&m.raw); err != nil {
			return nil, fmt.Errorf("%w: %w", errNoObject, err)
		}
		members = append(members, m)
	}
	return members, nil
}

func (p *probe) read() error {
	seen := map[string]json.RawMessage{}
	for _, m := range p.members {
		if _, twice := seen[m.key]; twice {
			return fmt.Errorf("member %q appears twice", m.key)
		}
		if string(m.raw) != "null" {
			seen[m.key] = m.raw
		}
	}
	var protocol string
	var port, icmpType *int
	for _, field := range []struct {
		key string
		to  any
	}{{"src", &p.src}, {"dst", &p.dst}, {"protocol", &protocol}, {"port", &port}, {"icmp_type", &icmpType},
		{"family", &p.family}, {"want", &p.want}} {
		if raw, present := seen[field.key]; present {
			if err := json.Unmarshal(raw, field.to); err != nil {
				return fmt.Errorf("read %q: %s is not %s", field.key, raw, kindOf(field.to))
			}
		}
	}
	switch {
	case p.src == "":
		return errors.New(`"src" is missing`)
	case p.dst == "":
		return errors.New(`"dst" is missing`)
	case p.family != 0 && p.family != 4 && p.family != 6:
		return fmt.Errorf(`"family" is %d: it must be 4 or 6`, p.family)
	case p.want != "" && p.want != "allow" && p.want != "deny":
		return fmt.Errorf(`"want" is %q: it must be "allow" or "deny"`, p.want)
	}
	return p.readProtocol(strings.ToUpper(protocol), port, icmpType)
}

func kindOf(v any) string {
	if _, ok := v.(*string); ok {
		return "a string"
	}
	return "an integer"
}

func (p *probe) readProtocol(protocol string, port, icmpType *int) error {
	switch protocol {
	case "TCP":
		p.protocol = policy.TCP
	case "UDP":
		p.protocol = policy.UDP
	case "SCTP":
		p.protocol = policy.SCTP
	case "ICMP":
		return p.readICMP(policy.ICMP, icmpType, 8, 4)
	case "ICMPV6":
		return p.readICMP(policy.ICMPv6, icmpType, 128, 6)
	case "":
		return errors.New(`"protocol" is missing`)
	default:
		return fmt.Errorf(`"protocol" is %q: it must be TCP, UDP, SCTP, ICMP or ICMPv6`, protocol)
	}
	if port == nil {
		return fmt.Errorf(`"port" is missing: %s needs one`, protocol)
	}
	if *port < 1 || *port > 65535 {
		return fmt.Errorf(`"port" is %d: it must be between 1 and 65535`, *port)
	}
	p.port = uint16(*port)
	return nil
}

func (p *probe) readICMP(protocol uint8, icmpType *int, echo, family int) error {
	if p.family != 0 && p.family != family {
		return fmt.Errorf(`"family" is %d: %s is a protocol of the other family`, p.family, policy.ProtocolName(protocol))
	}
	if icmpType == nil {
		icmpType = &echo
	}
	if *icmpType < 0 || *icmpType > 255 {
		return fmt.Errorf(`"icmp_type" is %d: it must be between 0 and 255`, *icmpType)
	}
	p.protocol, p.port, p.family = protocol, uint16(*icmpType), family
	return nil
}

// String names a probe for messages.
func (p *probe) String() string {
	name := p.src + " → " + p.dst + " " + p.service()
	if p.line > 0 {
		return fmt.Sprintf("probe %d (%s)", p.line, name)
	}
	return name
}

// service is protocol and port, as people write them.
func (p *probe) service() string {
	if p.protocol == 0 {
		return "-" // the probe could not be read
	}
	name := policy.ProtocolName(p.protocol)
	if p.protocol == policy.ICMP || p.protocol == policy.ICMPv6 {
		return fmt.Sprintf("%s type %d", name, p.port)
	}
	return fmt.Sprintf("%s %d", name, p.port)
}

// usable says that a packet between two parties can come from, or go to, this address.
func usable(addr netip.Addr, source bool) error {
	switch {
	case addr.IsUnspecified(), addr.IsLoopback():
		return fmt.Errorf("%s never appears between machines", addr)
	case source && addr.IsMulticast():
		return fmt.Errorf("%s is a group: no packet comes from it", addr)
	}
	return nil
}
