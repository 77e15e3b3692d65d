// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"flag"
	"fmt"

	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/k8s/oracle"
	"github.com/weirnet/weir/policy"
)

// policyFlags are the switches of how policies are read. Every verb that reads policies has them, under the names that users
// of Cilium know where it has the switch too.
type policyFlags struct {
	allowLocalhost, cidrMatch, ipBlock *string
	nodeLabels, ciliumCompat           *bool
}

func newPolicyFlags(set *flag.FlagSet) *policyFlags {
	return &policyFlags{
		allowLocalhost: set.String("allow-localhost", "always", "`MODE`: whether a node reaches its own pods: always (kubelet probes), or only as policy says"),
		cidrMatch:      set.String("policy-cidr-match-mode", "", "`MODE`: what CIDRs of Cilium policies match besides the outside world: nothing, or nodes"),
		ipBlock:        set.String("ipblock-match", "all", "`MODE`: what a NetworkPolicy's ipBlock matches: all (pods and nodes too) or world (what Cilium's CIDRs match)"),
		nodeLabels:     set.Bool("node-selector-labels", false, "admit fromNodes and toNodes, which match the labels of other nodes; else policies that have them are refused"),
		ciliumCompat:   set.Bool("cilium-compat", true, "read ICMP type 0 of Cilium policies as every type, as Cilium does; false: as echo reply"),
	}
}

// options are what the flags say, or all that is wrong with them.
func (f *policyFlags) options() (k8s.Options, error) {
	var errs []error
	is := func(name, value, other, standard string) bool {
		if value != other && value != standard {
			errs = append(errs, fmt.Errorf("read flags: --%s %q: want %s or %s", name, value, standard, other))
		}
		return value == other
	}
	o := k8s.Options{
		Policy:              policy.Options{HostByRule: is("allow-localhost", *f.allowLocalhost, "policy", "always")},
		IPBlockCilium:       is("ipblock-match", *f.ipBlock, "world", "all"),
		ICMPZeroIsEchoReply: !*f.ciliumCompat,
		NodeSelectorLabels:  *f.nodeLabels,
		CIDRMatchNodes:      *f.cidrMatch == "nodes",
	}
	if *f.cidrMatch != "" && *f.cidrMatch != "nodes" {
		errs = append(errs, fmt.Errorf("read flags: --policy-cidr-match-mode %q: want nodes, or nothing", *f.cidrMatch))
	}
	return o, errors.Join(errs...)
}

// oracleOptions are the same switches, for the judge that shares no code with translation.
func oracleOptions(o k8s.Options) oracle.Options {
	return oracle.Options{HostByRule: o.Policy.HostByRule, IPBlockCilium: o.IPBlockCilium, ICMPTypeZeroExact: o.ICMPZeroIsEchoReply,
		CIDRMatchNodes: o.CIDRMatchNodes, NodeSelectorLabels: o.NodeSelectorLabels}
}
