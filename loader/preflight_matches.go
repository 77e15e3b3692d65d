// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"

	"golang.org/x/sys/unix"
)

// xtMatch says what a match extension of x_tables has to do with the interface; empty: nothing. One that is not known is an error,
// since it may ask for anything. The match "set" is let through, though sets of the types hash:net,iface hold interfaces:
// what is in an ipset is asked of another subsystem, and network policy agents put one into most of their rules.
func xtMatch(dev firewalled, name string, info []byte, ipv6 bool) (binding string, err error) {
	switch name {
	case "physdev":
		const size = unix.IFNAMSIZ // in, its mask, out, its mask
		if len(info) < 4*size {
			return "", errors.New("match physdev is cut off")
		}
		if dev.named(info, info[size:]) || dev.named(info[2*size:], info[3*size:]) {
			return "match physdev", nil
		}
		return "", nil
	case "devgroup":
		if len(info) < 20 {
			return "", errors.New("match devgroup is cut off")
		}
		word := func(i int) uint32 { return binary.NativeEndian.Uint32(info[4*i:]) }
		const source, destination = 1, 4
		flags := word(0)
		if flags&source != 0 && (word(1)^dev.group)&word(2) == 0 || flags&destination != 0 && (word(3)^dev.group)&word(4) == 0 {
			return "match devgroup", nil
		}
		return "", nil
	case "rpfilter":
		const loose = 1
		if len(info) < 1 {
			return "", errors.New("match rpfilter is cut off")
		}
		if info[0]&loose == 0 && !ipv6 {
			return "match rpfilter, which filters reverse paths", nil
		}
		return "", nil
	case "addrtype", "ah", "cgroup", "cluster", "comment", "connbytes", "connlabel", "connlimit", "connmark", "conntrack", "cpu",
		"dccp", "dscp", "dst", "ecn", "esp", "eui64", "frag", "hashlimit", "hbh", "helper", "hl", "icmp", "icmp6", "ipcomp",
		"iprange", "ipv6header", "ipvs", "l2tp", "length", "limit", "mac", "mark", "mh", "multiport", "nfacct", "osf", "owner",
		"pkttype", "policy", "quota", "rateest", "realm", "recent", "rt", "sctp", "set", "socket", "srh", "state", "statistic",
		"string", "tcp", "tcpmss", "time", "tos", "ttl", "u32", "udp", "udplite",
		"802_3", "among", "arp", "ip", "ip6", "mark_m", "pkttype_m", "stp", "vlan": // those of bridges
		return "", nil
	}
	return "", fmt.Errorf("match %s is unknown", name)
}
