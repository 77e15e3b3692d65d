// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"net/netip"
	"reflect"
	"testing"

	"github.com/vishvananda/netlink"
)

func TestVethsOfPodsThatNobodyKnowsYet(t *testing.T) {
	if !isolate(t) {
		return
	}
	lab := newPodLab(t)
	ok(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "docker0"}}))
	addAddr(t, "docker0", "172.17.0.1/16")
	lab.pod("vethBridge", lab.namespace("a"), true) // no address yet, nothing inside is up
	docker := lab.pod("vethDocker", lab.namespace("b"), false, "172.17.0.2/16")
	link, err := netlink.LinkByIndex(docker.Ifindex)
	ok(t, err)
	bridge, err := netlink.LinkByName("docker0")
	ok(t, err)
	ok(t, netlink.LinkSetMaster(link, bridge))
	lab.pod("caliNew", lab.namespace("c"), false) // neither route nor address
	lab.pod("vethRoute", lab.namespace("d"), false)
	addRoute(t, "vethRoute", "10.42.0.5/32", "")
	lab.pod("vethHolds", lab.namespace("e"), false, "10.42.0.6/32")
	lab.pod("vethVPN", lab.namespace("f"), false, "198.51.100.1/24")
	nic := lab.pod("eth0", lab.namespace("g"), false, "10.42.0.7/32") // as a lab's NIC looks
	addVeth(t, "vethHere")                                            // both ends here

	var names []string
	for _, d := range lab.finder().PodLike(observe(t), []netip.Prefix{netip.MustParsePrefix("10.42.0.0/24")}, map[int]bool{nic.Ifindex: true}) {
		names = append(names, d.Name)
	}
	if want := []string{"caliNew", "vethBridge", "vethHolds", "vethRoute"}; !reflect.DeepEqual(names, want) {
		t.Errorf("pod-like: %v, want %v", names, want)
	}
}
