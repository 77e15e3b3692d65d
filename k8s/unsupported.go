// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"

	"github.com/weirnet/weir/policy"
)

// unenforceable is a field that Cilium knows and weir cannot enforce.
type unenforceable struct {
	path    string
	why     string
	remedy  string
	atMost  policy.Peer // what a deny rule denies in its stead: all that the field could mean
	instead string      // the same in words
}

// unsupported lists what keeps a rule from being enforced as written.
func unsupported(r *ciliumRule) []unenforceable {
	world := policy.Peer{Kind: policy.PeerEntity, Entity: policy.EntityWorld}
	anyone := policy.Peer{Kind: policy.PeerAny}
	if noOne(r) {
		return nil
	}
	var out []unenforceable
	add := func(path, why, remedy string, atMost policy.Peer, instead string) {
		out = append(out, unenforceable{path, why, remedy, atMost, instead})
	}
	if len(r.groups) > 0 {
		add(r.field("Groups"), "cloud provider groups are not supported", "Write the group's CIDRs.", world, "the whole world")
	}
	if len(r.fqdns) > 0 {
		add(r.field("FQDNs"), "DNS names as peers are not supported", "Use toCIDR.", world, "the whole world")
	}
	if a := r.authentication; a != nil && a.Mode != "disabled" {
		add(r.path+".authentication", "mutual authentication is not supported", "Remove authentication.", anyone, "everyone")
	}
	for i := range r.ports {
		p, path := &r.ports[i], fmt.Sprintf("%s.toPorts[%d]", r.path, i)
		switch {
		case p.Rules != nil && len(p.Rules.HTTP) > 0:
			add(path+".rules.http", "rules for HTTP requests are not supported: weir judges packets", "Remove rules to admit the ports.", anyone, "everyone")
		case p.Rules != nil && len(p.Rules.DNS) > 0:
			add(path+".rules.dns", "rules for DNS requests are not supported: weir judges packets", "Remove rules to admit the ports.", anyone, "everyone")
		}
		for _, proxy := range []struct {
			field string
			used  bool
		}{{"terminatingTLS", p.TerminatingTLS != nil}, {"originatingTLS", p.OriginatingTLS != nil},
			{"serverNames", len(p.ServerNames) > 0}, {"listener", p.Listener != nil}} {
			if proxy.used {
				add(path+"."+proxy.field, "what needs a proxy is not supported", "Remove "+proxy.field+" to admit the ports.", anyone, "everyone")
			}
		}
	}
	return out
}
