// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"encoding/binary"
	"fmt"
	"net/netip"
	"strings"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/policy"
)

const namespaceLabel = "io.kubernetes.pod.namespace"

// Names turns the numbers of an event into names. A *policy.Image is one.
type Names interface {
	RuleName(number uint16) (policyKey, path string, ok bool)
	IdentityName(number uint32) string
}

// FormatEvent is a sampled verdict in one line for people:
//
//	drop denied_default at underlay_rx, ingress: TCP 10.42.1.5:41234 (shop app=backend) -> 10.42.0.7:80 (shop app=web), 74 bytes
//
// It names the rule that decided, if one did. What policies under audit would have dropped begins with "would drop", and names
// the rule or the isolation that would have. names may be nil.
func FormatEvent(e *bpf.Event, names Names) string {
	var b strings.Builder
	verdict := bpf.VerdictName(bpf.Verdict(e.Verdict))
	if bpf.Verdict(e.Verdict) == bpf.VerdictAudit {
		verdict = "would drop"
	}
	fmt.Fprintf(&b, "%s %s at %s, %s: ", verdict, bpf.ReasonName(bpf.Reason(e.Reason)),
		bpf.HookName(bpf.Hook(e.Hook)), bpf.DirectionName(bpf.Direction(e.Direction)))
	if e.Saddr|e.Daddr == 0 {
		b.WriteString("not IPv4")
	} else {
		protocol, ports := policy.ProtocolName(e.Protocol), hasPorts(e.Protocol)
		fmt.Fprintf(&b, "%s %s -> %s", protocol,
			side(e.Saddr, e.Sport, ports, e.SourceIdentity, names), side(e.Daddr, e.Dport, ports, e.DestinationIdentity, names))
		if e.Protocol == policy.ICMP {
			fmt.Fprintf(&b, " type %d", e.Dport)
		}
	}
	if e.Rule != 0 && names != nil {
		if key, path, ok := names.RuleName(e.Rule); ok {
			fmt.Fprintf(&b, ", by %s %s", key, path)
		}
	}
	fmt.Fprintf(&b, ", %d bytes", e.Length)
	return b.String()
}

func side(addr uint32, port uint16, ports bool, identity uint32, names Names) string {
	var raw [4]byte
	binary.BigEndian.PutUint32(raw[:], addr)
	text := netip.AddrFrom4(raw).String()
	if ports {
		text = fmt.Sprintf("%s:%d", text, port)
	}
	if names == nil || identity == 0 {
		return text
	}
	return fmt.Sprintf("%s (%s)", text, shortIdentity(names.IdentityName(identity)))
}

// shortIdentity leaves out of a pod's identity what every pod has: "pod:app=web,io.kubernetes.pod.namespace=shop,..." is
// "shop app=web".
func shortIdentity(name string) string {
	labels, ok := strings.CutPrefix(name, "pod:")
	if !ok {
		return name
	}
	var namespace string
	var kept []string
	for label := range strings.SplitSeq(labels, ",") {
		if ns, ok := strings.CutPrefix(label, namespaceLabel+"="); ok {
			namespace = ns
		} else if !strings.HasPrefix(label, "io.cilium.k8s.") {
			kept = append(kept, label)
		}
	}
	return strings.TrimSpace(namespace + " " + strings.Join(kept, ","))
}

// hasPorts says whether the ports of an event mean something.
func hasPorts(protocol uint8) bool {
	return protocol == policy.TCP || protocol == policy.UDP || protocol == policy.SCTP
}
