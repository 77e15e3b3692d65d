// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"encoding/json"
	"net/netip"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// flannelPrefix is where flannel writes, unless it is told another prefix by --kube-annotation-prefix.
const flannelPrefix = "flannel.alpha.coreos.com/"

// flannelManaged is the annotation that every flannel writes, below whatever prefix.
const flannelManaged = "kube-subnet-manager"

// flannelSays says whether an annotation may be flannel's, below whatever prefix.
func flannelSays(key string) bool {
	for _, suffix := range [...]string{flannelManaged, "backend-type", "backend-data", "backend-v6-data", "public-ip", "public-ip-overwrite",
		"public-ipv6", "public-ipv6-overwrite"} {
		if strings.HasSuffix(key, suffix) {
			return true
		}
	}
	return false
}

// flannelKeys is the prefix of flannel's annotations on this node.
func flannelKeys(n *corev1.Node) string {
	var others []string
	for key, value := range n.Annotations {
		prefix, ok := strings.CutSuffix(key, flannelManaged)
		if ok && value == "true" && prefix != flannelPrefix && strings.Contains(prefix, "/") {
			others = append(others, prefix)
		}
	}
	if n.Annotations[flannelPrefix+flannelManaged] != "" || n.Annotations[flannelPrefix+"backend-type"] != "" || len(others) == 0 {
		return flannelPrefix
	}
	return slices.Min(others)
}

// isFlannels says whether flannel has written anything about n.
func isFlannels(n *corev1.Node) bool {
	prefix := flannelKeys(n)
	return n.Annotations[prefix+flannelManaged] == "true" || n.Annotations[prefix+"backend-type"] != ""
}

// flannel reads what flannel, and the one inside k3s, writes into the annotations of a node that it runs on
// (pkg/subnet/kube/annotations.go and pkg/backend/vxlan of flannel 0.28). Its port and VNI are those of the device.
func (f *nodeFacts) flannel(n *corev1.Node) {
	prefix := flannelKeys(n)
	for _, key := range []string{"public-ip", "public-ip-overwrite", "node-public-ip", "public-ipv6", "public-ipv6-overwrite", "node-public-ipv6"} {
		text, ok := n.Annotations[prefix+key]
		if !ok || text == "" || text == "<nil>" {
			continue
		}
		addr, err := netip.ParseAddr(text)
		if err != nil {
			f.bad(annotation(prefix+key), "%q is not an IP address", text)
			continue
		}
		addAddr(&f.underlay, addr.Unmap(), annotation(prefix+key))
	}
	switch backend := n.Annotations[prefix+"backend-type"]; backend {
	case "", "vxlan":
	case "wireguard", "ipsec", "extension":
		f.notes = append(f.notes, fieldNote{annotation(prefix + "backend-type"), "flannel's backend is " + backend +
			", not vxlan: traffic of this node's pods is judged at the pods, after the kernel has decrypted it, and not at the NIC"})
		return
	default:
		f.notes = append(f.notes, fieldNote{annotation(prefix + "backend-type"), "flannel's backend is " + backend +
			", not vxlan: traffic of this node's pods is judged where it is not encapsulated only"})
		return
	}
	// The devices of the two families have MACs of their own; the model has room for one.
	for _, key := range []string{"backend-v6-data", "backend-data"} {
		text, ok := n.Annotations[prefix+key]
		if !ok || text == "null" || text == "" {
			continue
		}
		var data struct {
			VNI     *uint32
			VtepMAC string
		}
		if err := json.Unmarshal([]byte(text), &data); err != nil {
			f.bad(annotation(prefix+key), "%s is not {\"VNI\":1,\"VtepMAC\":\"...\"}: %s", text, err)
			continue
		}
		mac, ok := parseMAC(data.VtepMAC)
		if !ok {
			f.bad(annotation(prefix+key), "VtepMAC %q is not the MAC of a device", data.VtepMAC)
			continue
		}
		f.mac = mac
	}
}
