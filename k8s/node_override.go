// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"net/netip"
	"strings"

	corev1 "k8s.io/api/core/v1"
)

// Annotations of a Node that say what no CNI says, or what it says wrongly. Each replaces what was found out about its fact;
// lists are separated by commas. Who may write a Node's annotations, may say what the node is.
const (
	annotationPrefix = "weirnet.github.io/"

	AnnotationVTEPMAC     = "weirnet.github.io/vtep-mac"     // inner source MAC of what the node sends; any: not checked
	AnnotationUnderlayIPs = "weirnet.github.io/underlay-ips" // outer addresses of what it sends and receives
	AnnotationOverlayIPs  = "weirnet.github.io/overlay-ips"  // the node's own addresses inside the overlay; none: it has none
	AnnotationPodCIDRs    = "weirnet.github.io/pod-cidrs"    // prefixes of its pods
)

// override reads the annotations above. One that cannot be read changes nothing.
func (f *nodeFacts) override(n *corev1.Node) {
	if text, ok := n.Annotations[AnnotationVTEPMAC]; ok {
		switch mac, valid := parseMAC(text); {
		case text == "any":
			f.mac = mac
		case valid:
			f.mac = mac
		default:
			f.bad(annotation(AnnotationVTEPMAC), "%q is not the MAC of a device; write one such as 1a:2b:3c:4d:5e:6f, or any", text)
		}
	}
	for key, to := range map[string]*[]fact[netip.Addr]{AnnotationUnderlayIPs: &f.underlay, AnnotationOverlayIPs: &f.overlay} {
		text, ok := n.Annotations[key]
		if !ok {
			continue
		}
		if key == AnnotationOverlayIPs && text == "none" {
			f.overlay, f.noGuess = nil, true
			continue
		}
		before := len(f.problems)
		addrs := f.addrs(text, annotation(key))
		if len(addrs) == 0 && len(f.problems) == before {
			f.bad(annotation(key), "is empty; write addresses such as 192.0.2.1, separated by commas, or remove it")
		}
		if len(f.problems) > before {
			continue
		}
		*to = nil
		for _, addr := range addrs {
			addAddr(to, addr, annotation(key))
		}
		f.noGuess = f.noGuess || key == AnnotationOverlayIPs
	}
	f.overridePodCIDRs(n)
}

func (f *nodeFacts) overridePodCIDRs(n *corev1.Node) {
	text, ok := n.Annotations[AnnotationPodCIDRs]
	if !ok {
		return
	}
	path := annotation(AnnotationPodCIDRs)
	var prefixes []fact[netip.Prefix]
	before := len(f.problems)
	for _, part := range strings.Split(text, ",") {
		if part = strings.TrimSpace(part); part == "" {
			continue
		}
		prefix, err := netip.ParsePrefix(part)
		if err != nil || prefix.Addr().Is4In6() {
			f.bad(path, "%q is not a CIDR; write CIDRs such as 10.42.0.0/24, separated by commas", part)
			continue
		}
		addPrefix(&prefixes, prefix.Masked(), path)
	}
	if len(prefixes) == 0 && len(f.problems) == before {
		f.bad(path, "is empty; write CIDRs such as 10.42.0.0/24, separated by commas, or remove it")
	}
	if len(f.problems) == before {
		f.podCIDRs = prefixes
	}
}
