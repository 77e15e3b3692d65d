// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

func addrs(texts ...string) (out []netip.Addr) {
	for _, text := range texts {
		out = append(out, netip.MustParseAddr(text))
	}
	return out
}

func TestTheHostSideOfAPodsInterfaceIsReadFromBothEnds(t *testing.T) {
	if !isolate(t) {
		return
	}
	lab := newPodLab(t)
	ns := lab.namespace("a")
	d := lab.pod("vethA", ns, true, "10.42.0.2/24", "2001:db8::2/64")
	n := observe(t)
	at, err := n.Inside(int(ns), "vethAp", addrs("10.42.0.2", "2001:db8::2"))
	if err != nil || at.Ifindex != d.Ifindex || at.Evidence != "cni" || at.PodMAC == [6]byte{} || at.HostMAC == [6]byte{} || at.NetNS == 0 {
		t.Errorf("host side %+v, %v; want %v", at, err, d)
	}
	if _, err := n.Inside(int(ns), "vethAp", addrs("10.42.0.3")); !errors.Is(err, ErrNotTheirs) {
		t.Errorf("another address: %v, want %v", err, ErrNotTheirs)
	}
	if _, err := n.Inside(int(ns), "eth1", addrs("10.42.0.2")); !errors.Is(err, ErrNotTheirs) {
		t.Errorf("another interface: %v, want %v", err, ErrNotTheirs)
	}
	if _, err := n.Inside(int(lab.namespace("alone")), "eth0", addrs("10.42.0.2")); !errors.Is(err, ErrNoInterface) {
		t.Errorf("a namespace that nothing leads to: %v, want %v", err, ErrNoInterface)
	}

	// Its other end is in a third namespace: this host has nothing to attach to.
	far, farther := lab.namespace("far"), lab.namespace("farther")
	lab.pod("vethF", far, false)
	h, err := netlink.NewHandleAt(far, unix.NETLINK_ROUTE)
	ok(t, err)
	defer h.Close()
	ok(t, h.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "eth0"}, PeerName: "x", PeerNamespace: netlink.NsFd(farther)}))
	lab.inside(far, "eth0", "10.42.0.9/24")
	if _, err := observe(t).Inside(int(far), "eth0", addrs("10.42.0.9")); !errors.Is(err, ErrNoInterface) {
		t.Errorf("a veth between two pods: %v, want %v", err, ErrNoInterface)
	}
}

// TestLookingInsideTakesNoMoreThanNetAdmin: the agent needs neither CAP_SYS_ADMIN nor anybody's files for it.
func TestLookingInsideTakesNoMoreThanNetAdmin(t *testing.T) {
	if !isolate(t) {
		return
	}
	lab := newPodLab(t)
	lab.pod("vethA", lab.namespace("a"), true, "10.42.0.2/24")
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocked: the thread ends with its capabilities
		if err := unix.Capset(&unix.CapUserHeader{Version: unix.LINUX_CAPABILITY_VERSION_3},
			&[]unix.CapUserData{{Effective: 1 << unix.CAP_NET_ADMIN, Permitted: 1 << unix.CAP_NET_ADMIN}, {}}[0]); err != nil {
			t.Errorf("drop capabilities: %v", err)
		}
		expectFound(t, lab.finder(), map[string]string{"default/a": "vethA by namespace"}, pods("default/a", "10.42.0.2"))
	}()
	<-done
}

func TestWhatIsToldOverrulesWhatWasFound(t *testing.T) {
	if !isolate(t) {
		return
	}
	lab := newPodLab(t)
	lab.pod("vethA", lab.namespace("a"), true, "10.42.0.2/24")
	f, list := lab.finder(), pods("default/a", "10.42.0.2")
	expectFound(t, f, map[string]string{"default/a": "vethA by namespace"}, list)

	// A new sandbox of the same pod, with the same address, while the old one is still there.
	next := lab.namespace("next")
	d := lab.pod("vethN", next, true, "10.42.0.2/24")
	n := observe(t)
	at, err := n.Inside(int(next), "vethNp", addrs("10.42.0.2"))
	ok(t, err)
	f.Tell(n, "default/a", netip.MustParseAddr("10.42.0.2"), at)
	expectFound(t, f, map[string]string{"default/a": "vethN by cni"}, list)
	old := observe(t)
	old.since, old.links = n.since.Add(-time.Second), map[int]netlink.Link{}
	f.Find(old, list) // an agent that has looked before the veth came
	expectFound(t, f, map[string]string{"default/a": "vethN by cni"}, list)
	// The same address said of another pod is no word about this one.
	other := []PodAddress{{Key: "default/b u", Pod: "default/b", Addr: list[0].Addr}}
	if found, _ := f.Find(observe(t), other); found["default/b u"].Evidence == "cni" {
		t.Errorf("another pod is found by what was told: %+v", found)
	}
	l, err := netlink.LinkByIndex(d.Ifindex)
	ok(t, err)
	ok(t, netlink.LinkDel(l))
	expectFound(t, f, map[string]string{"default/a": "vethA by namespace"}, list)
	if len(f.told) != 0 {
		t.Errorf("what was told about a veth that is gone is kept: %v", f.told)
	}
}
