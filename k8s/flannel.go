// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"encoding/json"
	"fmt"
	"net"
	"net/netip"

	corev1 "k8s.io/api/core/v1"
)

const flannelPrefix = "flannel.alpha.coreos.com/"

// flannel is what flannel writes into the annotations of a node that it runs on.
type flannel struct {
	backend string
	mac     [6]byte // of the VTEP; zero if it does not say
	public  []netip.Addr
}

type annotationProblem struct{ key, message string }

// flannelOf reads the annotations of a node. A field with a problem is left at zero.
func flannelOf(n *corev1.Node) (flannel, []annotationProblem) {
	f := flannel{backend: n.Annotations[flannelPrefix+"backend-type"]}
	var problems []annotationProblem
	for _, key := range []string{"public-ip", "public-ip-overwrite", "public-ipv6", "public-ipv6-overwrite"} {
		text, ok := n.Annotations[flannelPrefix+key]
		if !ok {
			continue
		}
		addr, err := netip.ParseAddr(text)
		if err != nil {
			problems = append(problems, annotationProblem{flannelPrefix + key, fmt.Sprintf("%q is not an IP address", text)})
			continue
		}
		f.public = append(f.public, addr)
	}
	if f.backend != "" && f.backend != "vxlan" {
		return f, problems
	}
	// The devices of the two families have MACs of their own; the model has room for one.
	for _, key := range []string{"backend-v6-data", "backend-data"} {
		text, ok := n.Annotations[flannelPrefix+key]
		if !ok || text == "null" || text == "" {
			continue
		}
		var data struct {
			VNI     *uint32
			VtepMAC string
		}
		if err := json.Unmarshal([]byte(text), &data); err != nil {
			problems = append(problems, annotationProblem{flannelPrefix + key, fmt.Sprintf("%s is not {\"VNI\":1,\"VtepMAC\":\"...\"}: %s", text, err)})
			continue
		}
		mac, err := net.ParseMAC(data.VtepMAC)
		if err != nil || len(mac) != 6 || mac[0]&1 != 0 || [6]byte(mac) == [6]byte{} {
			problems = append(problems, annotationProblem{flannelPrefix + key, fmt.Sprintf("VtepMAC %q is not the MAC of a device", data.VtepMAC)})
			continue
		}
		f.mac = [6]byte(mac)
	}
	return f, problems
}
