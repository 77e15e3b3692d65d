// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/vishvananda/netlink"

	"github.com/weirnet/weir/bpf"
)

// A link that is taken off its interface, and one whose interface goes, are missed, and one of them comes back.
func TestLostLinksAreMissed(t *testing.T) {
	if !isolate(t) {
		return
	}
	nic, pod := addVeth(t, "nic"), addVeth(t, "pod")
	a := newAttacher(t, AttachConfig{PinPath: mountBPFFS(t)})
	ok(t, a.Use(passAll(t, "one")))
	places := map[bpf.Hook]Device{bpf.HookUnderlayRx: nic, bpf.HookOverlayTx: nic, bpf.HookPodTx: pod}
	attach := func() {
		t.Helper()
		for hook, d := range places {
			ok(t, a.Attach(hook, d))
		}
	}
	attach()
	for hook, d := range places {
		if a.Lost() {
			t.Fatal("lost before anything happened")
		}
		ok(t, a.held[place{hook, d.Ifindex}].(*pinnedLink).link.Detach())
		if !a.Lost() || a.Attached(hook, d.Ifindex) {
			t.Errorf("%s is detached, and not missed", bpf.HookName(hook))
		}
		attach()
		expectRunning(t, hook, d, "program one")
	}
	l, err := netlink.LinkByName("pod")
	ok(t, err)
	ok(t, netlink.LinkDel(l))
	if !a.Lost() {
		t.Error("an interface went, and its link is not missed")
	}
	ok(t, a.Prune(func(bpf.Hook, int) bool { return true }))
	if a.Lost() {
		t.Error("what was pruned is still missed")
	}
}

// In generic mode, too, a link is known to run what it runs.
func TestGenericLinkIsNotMissed(t *testing.T) {
	if !isolate(t) {
		return
	}
	nic := addVeth(t, "nic")
	a := newAttacher(t, AttachConfig{PinPath: mountBPFFS(t), Generic: true})
	ok(t, a.Use(passAll(t, "one")))
	ok(t, a.Attach(bpf.HookUnderlayRx, nic))
	before := linkIDs(t, a)
	ok(t, a.Use(passAll(t, "two")))
	ok(t, a.Attach(bpf.HookUnderlayRx, nic))
	expectRunning(t, bpf.HookUnderlayRx, nic, "program two")
	for p, id := range linkIDs(t, a) {
		if before[p] != id || a.Lost() {
			t.Errorf("link %d became %d, lost %v", before[p], id, a.Lost())
		}
	}
}

// An interface that goes down, is renamed, or joins a bridge keeps its program: nothing is attached anew.
func TestLinksSurviveWhatHappensToInterfaces(t *testing.T) {
	if !isolate(t) {
		return
	}
	nic := addVeth(t, "nic")
	up(t, "nic")
	a := newAttacher(t, AttachConfig{PinPath: mountBPFFS(t)})
	ok(t, a.Use(passAll(t, "one")))
	ok(t, a.Attach(bpf.HookUnderlayRx, nic))
	before := linkIDs(t, a)
	l, err := netlink.LinkByName("nic")
	ok(t, err)
	ok(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br"}}))
	for name, happens := range map[string]func() error{
		"down": func() error { return netlink.LinkSetDown(l) },
		"renamed": func() error {
			return errors.Join(netlink.LinkSetDown(l), netlink.LinkSetName(l, "lan0"), netlink.LinkSetUp(l))
		},
		"bridged": func() error {
			br, err := netlink.LinkByName("br")
			return errors.Join(err, netlink.LinkSetMaster(l, br))
		},
	} {
		ok(t, happens())
		ok(t, a.Attach(bpf.HookUnderlayRx, nic))
		for p, id := range linkIDs(t, a) {
			if before[p] != id {
				t.Errorf("%s: link %d became %d", name, before[p], id)
			}
		}
		expectRunning(t, bpf.HookUnderlayRx, nic, "program one")
	}
}

// A driver that refuses a large MTU is understood, and takes a program for frames of several buffers.
func TestJumboInterfaceNeedsFrags(t *testing.T) {
	if !isolate(t) {
		return
	}
	addVeth(t, "nic")
	l, err := netlink.LinkByName("nic")
	ok(t, err)
	peer, err := netlink.LinkByName("nicp")
	ok(t, err)
	ok(t, errors.Join(netlink.LinkSetMTU(l, 9000), netlink.LinkSetMTU(peer, 9000), netlink.LinkSetUp(l), netlink.LinkSetUp(peer)))
	l, err = netlink.LinkByName("nic")
	ok(t, err)
	nic := device(l)
	if !NeedFrags([]Device{nic}) || NeedFrags([]Device{{MTU: 1500}}) {
		t.Error("9000 needs several buffers, 1500 does not")
	}
	a := newAttacher(t, AttachConfig{PinPath: mountBPFFS(t)})
	programs := passAll(t, "one")
	ok(t, a.Use(programs))
	err = a.Attach(bpf.HookUnderlayRx, nic)
	if !errors.Is(err, ErrMTU) || !strings.Contains(err.Error(), "driver veth of nic, MTU 9000") || !strings.Contains(err.Error(), "--xdp-mode generic") {
		t.Errorf("got %v", err)
	}
	jumbo, err := ebpf.NewProgram(&ebpf.ProgramSpec{Name: "jumbo", Type: ebpf.XDP, License: "GPL", Flags: 1 << 5, // BPF_F_XDP_HAS_FRAGS
		Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}})
	ok(t, err)
	t.Cleanup(func() { jumbo.Close() })
	programs[bpf.HookUnderlayRx] = jumbo
	ok(t, a.Use(programs))
	ok(t, a.Attach(bpf.HookUnderlayRx, nic))
	expectRunning(t, bpf.HookUnderlayRx, nic, "program jumbo")
}

func TestDriverWithoutXDPIsNamed(t *testing.T) {
	if !isolate(t) {
		return
	}
	ok(t, netlink.LinkAdd(&netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "br"}}))
	l, err := netlink.LinkByName("br")
	ok(t, err)
	a := newAttacher(t, AttachConfig{PinPath: mountBPFFS(t)})
	ok(t, a.Use(passAll(t, "one")))
	err = a.Attach(bpf.HookUnderlayRx, device(l))
	if !errors.Is(err, ErrNoNative) || errors.Is(err, ErrMTU) || !strings.Contains(err.Error(), "driver bridge of br") {
		t.Errorf("got %v", err)
	}
}
