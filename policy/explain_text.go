// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"strings"
)

// Field says which field of a rule a Miss is about.
type Field string

// Fields.
const (
	FieldLabel     Field = "label"     // a requirement of a selector
	FieldNamespace Field = "namespace" // the requirement that stands for the policy's or the peer's namespace
	FieldKind      Field = "kind"      // the rule is about another kind of peer: pods, or what is outside
	FieldEntity    Field = "entity"
	FieldCIDR      Field = "cidr"   // the CIDR does not contain the address
	FieldExcept    Field = "except" // it does, and an exception cuts the address out
	FieldPeers     Field = "peers"  // the rule matches nobody
	FieldProtocol  Field = "protocol"
	FieldPort      Field = "port"
	FieldPortName  Field = "port name" // nobody has a port of that name
	FieldPorts     Field = "ports"     // the rule has no port
)

// Miss is a field of a rule that does not match, with what the rule wants and what there is.
type Miss struct {
	Field     Field
	Key       string // of a label
	Want, Got string
	Present   bool // the label is there
}

func (m Miss) String() string {
	switch m.Field {
	case FieldLabel, FieldNamespace:
		if !m.Present {
			return fmt.Sprintf("%s is missing, must be: %s", m.Key, m.Want)
		}
		return fmt.Sprintf("%s is %q, must be: %s", m.Key, m.Got, m.Want)
	case FieldKind, FieldEntity:
		return fmt.Sprintf("%s, must be: %s", m.Got, m.Want)
	case FieldCIDR:
		return fmt.Sprintf("%s is not in %s", m.Got, m.Want)
	case FieldExcept:
		return fmt.Sprintf("except %s cuts out %s", m.Want, m.Got)
	case FieldPeers:
		return "the rule matches nobody"
	case FieldProtocol:
		return fmt.Sprintf("protocol differs: %s is not %s", m.Got, m.Want)
	case FieldPorts:
		return "the rule matches no port"
	}
	return fmt.Sprintf("port differs: %s is not %s", m.Got, m.Want)
}

// peerName says what a peer is, for people.
func peerName(id *Definition, addr netip.Addr) string {
	name := "a pod"
	if !id.Pod() {
		names := make([]string, len(id.Entities))
		for i, e := range id.Entities {
			names[i] = string(e)
		}
		name = strings.Join(names, "+")
	}
	if addr.IsValid() {
		name = addr.String() + " (" + name + ")"
	}
	return name
}

// labelName is what people call a label: namespaces and what is derived from them have keys of their own.
func labelName(key string) string {
	const (
		ofNamespace = "io.cilium.k8s.namespace.labels."
		account     = "io.cilium.k8s.policy.serviceaccount"
		own         = "own::"
	)
	switch {
	case key == namespaceLabel:
		return "namespace"
	case key == account:
		return "service account"
	case strings.HasPrefix(key, ofNamespace):
		return "namespace label " + key[len(ofNamespace):]
	}
	return strings.TrimPrefix(key, own)
}

// String is the requirement for people.
func (r *Requirement) String() string {
	key := labelName(r.Key)
	switch {
	case r.Op == Exists:
		return key + " exists"
	case r.Op == DoesNotExist:
		return "no " + key
	case r.Op == NotIn:
		return fmt.Sprintf("%s not in (%s)", key, strings.Join(r.Values, ", "))
	case len(r.Values) == 1:
		return key + "=" + r.Values[0]
	}
	return fmt.Sprintf("%s in (%s)", key, strings.Join(r.Values, ", "))
}

// String is the selector for people.
func (s Selector) String() string {
	if len(s) == 0 {
		return "anything"
	}
	parts := make([]string, len(s))
	for i := range s {
		parts[i] = s[i].String()
	}
	return strings.Join(parts, ", ")
}

// String is the peer for people.
func (p *Peer) String() string {
	switch p.Kind {
	case PeerAny:
		return "anyone"
	case PeerEntity:
		return "entity " + string(p.Entity)
	case PeerCIDR:
		text := p.CIDR.Masked().String()
		for i, e := range p.Except {
			if i == 0 {
				text += " except"
			}
			text += " " + e.Masked().String()
		}
		return text
	}
	if len(p.Selector) == 0 {
		return "a pod"
	}
	return "a pod with " + p.Selector.String()
}

// String is the port match for people: "TCP 80-90", "TCP named http", "all ports".
func (p PortMatch) String() string {
	switch {
	case p.Protocol == 0:
		return "all ports"
	case p.Name == "":
		return PortRun{p.Protocol, p.First, min(p.Last, portMask(p.Protocol))}.String()
	case p.RangeTo > 0:
		return fmt.Sprintf("%s named %s up to %d", ProtocolName(p.Protocol), p.Name, p.RangeTo)
	}
	return fmt.Sprintf("%s named %s", ProtocolName(p.Protocol), p.Name)
}

// joined lists a few of many.
func joined(parts []string) string {
	const most = 6
	if len(parts) > most {
		return strings.Join(parts[:most], ", ") + fmt.Sprintf(" and %d more", len(parts)-most)
	}
	return strings.Join(parts, ", ")
}
