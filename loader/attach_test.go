// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"

	"github.com/weirnet/weir/bpf"
)

// passAll returns programs that let everything pass, under a name to tell them apart.
func passAll(t *testing.T, name string) Programs {
	t.Helper()
	out := Programs{}
	for _, hook := range []bpf.Hook{bpf.HookUnderlayRx, bpf.HookPodTx, bpf.HookPodRx, bpf.HookOverlayTx} {
		spec := &ebpf.ProgramSpec{
			Name: name, Type: ebpf.SchedCLS, License: "GPL",
			Instructions: asm.Instructions{asm.Mov.Imm(asm.R0, -1), asm.Return()},
		}
		if hook == bpf.HookUnderlayRx {
			spec.Type = ebpf.XDP
			spec.Instructions = asm.Instructions{asm.Mov.Imm(asm.R0, 2), asm.Return()}
		}
		program, err := ebpf.NewProgram(spec)
		if err != nil {
			t.Fatalf("load test program: %v", err)
		}
		t.Cleanup(func() { program.Close() })
		out[hook] = program
	}
	return out
}

func addVeth(t *testing.T, name string) Device {
	t.Helper()
	veth := &netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: name}, PeerName: name + "p"}
	if err := netlink.LinkAdd(veth); err != nil {
		t.Fatalf("add veth: %v", err)
	}
	l, err := netlink.LinkByName(name)
	if err != nil {
		t.Fatal(err)
	}
	return device(l)
}

func newAttacher(t *testing.T, cfg AttachConfig) *Attacher {
	t.Helper()
	a, err := NewAttacher(cfg)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { a.Close() })
	return a
}

// running returns the names of the programs at a tcx hook or, for XDP, on the interface.
func running(t *testing.T, hook bpf.Hook, d Device) (names []string) {
	t.Helper()
	if hook == bpf.HookUnderlayRx {
		l, err := netlink.LinkByIndex(d.Ifindex)
		if err != nil {
			t.Fatal(err)
		}
		if x := l.Attrs().Xdp; x != nil && x.Attached {
			names = append(names, programName(ebpf.ProgramID(x.ProgId)))
		}
		return names
	}
	result, err := link.QueryPrograms(link.QueryOptions{Target: d.Ifindex, Attach: tcxPoint(hook)})
	if err != nil {
		t.Fatal(err)
	}
	for _, p := range result.Programs {
		names = append(names, programName(p.ID))
	}
	return names
}

func expectRunning(t *testing.T, hook bpf.Hook, d Device, want ...string) {
	t.Helper()
	if got := running(t, hook, d); strings.Join(got, ",") != strings.Join(want, ",") {
		t.Errorf("%s on %s runs %q, want %q", bpf.HookName(hook), d.Name, got, want)
	}
}

func TestAttachmentsOutliveTheAgentAndChangeInPlace(t *testing.T) {
	if !isolate(t) {
		return
	}
	pins := mountBPFFS(t)
	nic, pod := addVeth(t, "nic"), addVeth(t, "pod")
	all := func(a *Attacher) {
		t.Helper()
		for hook, d := range map[bpf.Hook]Device{bpf.HookUnderlayRx: nic, bpf.HookOverlayTx: nic, bpf.HookPodTx: pod, bpf.HookPodRx: pod} {
			if err := a.Attach(hook, d); err != nil {
				t.Fatal(err)
			}
		}
	}
	first := newAttacher(t, AttachConfig{PinPath: pins})
	if err := first.Use(passAll(t, "one")); err != nil {
		t.Fatal(err)
	}
	all(first)
	all(first) // again: nothing to do
	first.Close()
	expectRunning(t, bpf.HookUnderlayRx, nic, "program one")
	expectRunning(t, bpf.HookPodTx, pod, "program one")

	second := newAttacher(t, AttachConfig{PinPath: pins})
	before := linkIDs(t, second)
	if err := second.Use(passAll(t, "two")); err != nil {
		t.Fatal(err)
	}
	all(second)
	for p, id := range linkIDs(t, second) {
		if before[p] != id {
			t.Errorf("%s: link %d became %d: there was a gap", p, before[p], id)
		}
	}
	expectRunning(t, bpf.HookUnderlayRx, nic, "program two")
	expectRunning(t, bpf.HookOverlayTx, nic, "program two")
	expectRunning(t, bpf.HookPodTx, pod, "program two")
	expectRunning(t, bpf.HookPodRx, pod, "program two")

	for range 2 {
		if err := DetachAll(pins); err != nil {
			t.Fatal(err)
		}
		expectRunning(t, bpf.HookUnderlayRx, nic)
		expectRunning(t, bpf.HookPodTx, pod)
		if rest, _ := os.ReadDir(pins); len(rest) != 0 {
			t.Errorf("pins left: %v", rest)
		}
	}
}

func linkIDs(t *testing.T, a *Attacher) map[place]link.ID {
	t.Helper()
	out := map[place]link.ID{}
	for p, held := range a.held {
		info, err := held.(*pinnedLink).link.Info()
		if err != nil {
			t.Fatal(err)
		}
		out[p] = info.ID
	}
	return out
}

func TestStaleLinksAreForgotten(t *testing.T) {
	if !isolate(t) {
		return
	}
	pins := mountBPFFS(t)
	pod, other := addVeth(t, "pod"), addVeth(t, "other")
	a := newAttacher(t, AttachConfig{PinPath: pins})
	if err := a.Use(passAll(t, "one")); err != nil {
		t.Fatal(err)
	}
	for _, d := range []Device{pod, other} {
		if err := a.Attach(bpf.HookPodTx, d); err != nil {
			t.Fatal(err)
		}
	}
	a.Close()
	if err := netlink.LinkDel(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "pod", Index: pod.Ifindex}}); err != nil {
		t.Fatal(err)
	}
	a = newAttacher(t, AttachConfig{PinPath: pins})
	if err := a.Use(passAll(t, "two")); err != nil {
		t.Fatal(err)
	}
	if a.Attached(bpf.HookPodTx, pod.Ifindex) || !a.Attached(bpf.HookPodTx, other.Ifindex) {
		t.Error("want the living link only")
	}
	if _, err := os.Stat(filepath.Join(pins, "links", place{bpf.HookPodTx, pod.Ifindex}.String())); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("pin of a vanished interface: %v", err)
	}
	if err := a.Prune(func(bpf.Hook, int) bool { return false }); err != nil {
		t.Fatal(err)
	}
	expectRunning(t, bpf.HookPodTx, other)
}

func TestForeignXDPProgramIsNamedAndLeftAlone(t *testing.T) {
	if !isolate(t) {
		return
	}
	nic := addVeth(t, "nic")
	foreign, err := link.AttachXDP(link.XDPOptions{Program: passAll(t, "katran")[bpf.HookUnderlayRx], Interface: nic.Ifindex})
	if err != nil {
		t.Fatal(err)
	}
	defer foreign.Close()
	a := newAttacher(t, AttachConfig{PinPath: mountBPFFS(t)})
	if err := a.Use(passAll(t, "one")); err != nil {
		t.Fatal(err)
	}
	err = a.Attach(bpf.HookUnderlayRx, nic)
	if !errors.Is(err, ErrOccupied) || !strings.Contains(err.Error(), "program katran") {
		t.Errorf("got %v, want an error that names katran", err)
	}
	expectRunning(t, bpf.HookUnderlayRx, nic, "program katran")
}

func TestXDPModes(t *testing.T) {
	if !isolate(t) {
		return
	}
	pins := mountBPFFS(t)
	bridge := &netlink.Bridge{LinkAttrs: netlink.LinkAttrs{Name: "simple"}}
	if err := netlink.LinkAdd(bridge); err != nil {
		t.Fatal(err)
	}
	d, nic := Device{Ifindex: bridge.Index, Name: "simple"}, addVeth(t, "nic")
	a := newAttacher(t, AttachConfig{PinPath: pins})
	if err := a.Use(passAll(t, "one")); err != nil {
		t.Fatal(err)
	}
	if err := a.Attach(bpf.HookUnderlayRx, d); !errors.Is(err, ErrNoNative) {
		t.Errorf("a driver without native XDP: got %v, want %v", err, ErrNoNative)
	}
	if err := a.Attach(bpf.HookUnderlayRx, nic); err != nil {
		t.Fatal(err)
	}
	a.Close()
	a = newAttacher(t, AttachConfig{PinPath: pins, Generic: true})
	if err := a.Use(passAll(t, "two")); err != nil {
		t.Fatal(err)
	}
	for _, device := range []Device{d, nic} {
		if err := a.Attach(bpf.HookUnderlayRx, device); err != nil {
			t.Fatal(err)
		}
		l, err := netlink.LinkByIndex(device.Ifindex)
		if err != nil {
			t.Fatal(err)
		}
		if l.Attrs().Xdp.AttachMode != attachedGeneric {
			t.Errorf("%s: XDP mode %d, want generic", device.Name, l.Attrs().Xdp.AttachMode)
		}
	}
}

func TestClsactStandsInForTCX(t *testing.T) {
	if !isolate(t) {
		return
	}
	pins := mountBPFFS(t)
	pod, shared := addVeth(t, "pod"), addVeth(t, "shared")
	if err := netlink.QdiscAdd(clsact(shared.Ifindex)); err != nil {
		t.Fatal(err)
	}
	a := newAttacher(t, AttachConfig{PinPath: pins, NoTCX: true})
	if err := a.Use(passAll(t, "one")); err != nil {
		t.Fatal(err)
	}
	for _, d := range []Device{pod, shared} {
		for _, hook := range []bpf.Hook{bpf.HookPodTx, bpf.HookPodRx} {
			for range 2 {
				if err := a.Attach(hook, d); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	a.Close()
	a = newAttacher(t, AttachConfig{PinPath: pins, NoTCX: true})
	programs := passAll(t, "two")
	if err := a.Use(programs); err != nil {
		t.Fatal(err)
	}
	l, _ := netlink.LinkByIndex(pod.Ifindex)
	for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
		filters, err := netlink.FilterList(l, parent)
		if err != nil || len(filters) != 1 {
			t.Fatalf("filters at %#x: %v, %v; want one", parent, filters, err)
		}
		if id := filters[0].(*netlink.BpfFilter).Id; programName(ebpf.ProgramID(id)) != "program two" {
			t.Errorf("filter at %#x runs %s, want two", parent, programName(ebpf.ProgramID(id)))
		}
	}
	a.Close()
	for range 2 {
		if err := DetachAll(pins); err != nil {
			t.Fatal(err)
		}
	}
	if hasClsact(l) {
		t.Error("our clsact qdisc is left behind")
	}
	if l, _ = netlink.LinkByIndex(shared.Ifindex); !hasClsact(l) {
		t.Error("a clsact qdisc of somebody else is gone")
	}
}

func TestPinPathIsOursAlone(t *testing.T) {
	if !isolate(t) {
		return
	}
	root := mountBPFFS(t)
	path := filepath.Join(root, "weir")
	held, err := LockPins(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := LockPins(path); !errors.Is(err, ErrLocked) {
		t.Errorf("second agent: got %v, want %v", err, ErrLocked)
	}
	held.Close()
	again, err := LockPins(path)
	if err != nil {
		t.Fatalf("after the first agent ended: %v", err)
	}
	again.Close()

	if err := os.Chmod(path, 0o755); err != nil {
		t.Fatal(err)
	}
	if _, err := LockPins(path); err == nil {
		t.Error("a pin path that others may enter is accepted")
	}
	if err := os.Symlink(path, filepath.Join(root, "alias")); err != nil {
		t.Fatal(err)
	}
	if _, err := LockPins(filepath.Join(root, "alias")); err == nil {
		t.Error("a symbolic link is accepted as pin path")
	}
	if _, err := LockPins(filepath.Join(t.TempDir(), "weir")); err == nil {
		t.Error("a pin path outside of any BPF file system is accepted")
	}
}
