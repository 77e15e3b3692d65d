// SPDX-License-Identifier: Apache-2.0

package tc_test

import (
	"encoding/binary"
	"net"
	"net/netip"
	"runtime"
	"testing"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/asm"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/internal/packet"
	"github.com/weirnet/weir/loader"
	lt "github.com/weirnet/weir/loader/loadertest"
	"github.com/weirnet/weir/tc"
)

// Test runs cannot say what an skb's tc_index is, nor show it afterwards. So real skbs pass a real chain: a program that
// sets it, the one under test, and one that reads it.
//
//	veth b ──────► veth a: before → program under test → after
type chain struct {
	program map[bpf.Hook]*ebpf.Program
	cells   *ebpf.Map // u64: what to set, frames that came, what was read, frames that went on
}

const (
	cellSet = iota
	cellCame
	cellRead
	cellWent
	cells
)

// Fields of struct __sk_buff.
const (
	skbProtocol = 16
	skbTCIndex  = 44
)

func newChain(t *testing.T, c *lt.Cluster, knobs bpf.Knobs) *chain {
	t.Helper()
	programs, err := tc.Load(knobs, c.Tables().Maps())
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { programs.Close() })
	m, err := ebpf.NewMap(&ebpf.MapSpec{Type: ebpf.Array, KeySize: 4, ValueSize: 8, MaxEntries: cells})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { m.Close() })
	return &chain{map[bpf.Hook]*ebpf.Program{tx: programs.PodTx, rx: programs.PodRx, overlay: programs.OverlayTx}, m}
}

// cell leaves a pointer to a cell in R0.
func (x *chain) cell(n int32) asm.Instructions {
	return asm.Instructions{
		asm.StoreImm(asm.RFP, -4, int64(n), asm.Word),
		asm.Mov.Reg(asm.R2, asm.RFP), asm.Add.Imm(asm.R2, -4),
		asm.LoadMapPtr(asm.R1, x.cells.FD()), asm.FnMapLookupElem.Call(),
		asm.JEq.Imm(asm.R0, 0, "next"),
	}
}

// witness is a program that does work on IPv4 packets, with the skb in R6, counts them in a cell, and lets them go on.
func (x *chain) witness(t *testing.T, count int32, work asm.Instructions) *ebpf.Program {
	t.Helper()
	ip := int32(binary.NativeEndian.Uint16([]byte{8, 0}))
	code := asm.Instructions{
		asm.Mov.Reg(asm.R6, asm.R1), asm.LoadMem(asm.R7, asm.R6, skbProtocol, asm.Word),
		asm.JNE.Imm(asm.R7, ip, "next"), // the kernel's own IPv6 chatter
	}
	code = append(code, work...)
	code = append(code, x.cell(count)...)
	code = append(code, asm.Mov.Imm(asm.R1, 1), asm.StoreXAdd(asm.R0, asm.R1, asm.DWord),
		asm.Mov.Imm(asm.R0, -1).WithSymbol("next"), asm.Return())
	p, err := ebpf.NewProgram(&ebpf.ProgramSpec{Type: ebpf.SchedCLS, License: "GPL", Instructions: code})
	if err != nil {
		t.Fatal(err)
	}
	return p
}

// A passage is one frame's way through a chain.
type passage struct {
	name   string
	pod    netip.Addr
	frame  packet.Spec
	before uint16
	passes bool
	after  uint16 // if it passes
}

// run sends frames through the program at hook, in a network namespace that ends with it.
func (x *chain) run(t *testing.T, c *lt.Cluster, hook bpf.Hook, passages []passage, prepare ...func() error) {
	t.Helper()
	done := make(chan struct{})
	go func() {
		defer close(done)
		runtime.LockOSThread() // and never unlocks: the thread ends, and the namespace with it
		if err := unix.Unshare(unix.CLONE_NEWNET); err != nil {
			t.Error(err)
			return
		}
		x.inside(t, c, hook, passages, prepare)
	}()
	<-done
}

func (x *chain) inside(t *testing.T, c *lt.Cluster, hook bpf.Hook, passages []passage, prepare []func() error) {
	index := make(map[string]int)
	if err := netlink.LinkAdd(&netlink.Veth{LinkAttrs: netlink.LinkAttrs{Name: "a"}, PeerName: "b"}); err != nil {
		t.Error(err)
		return
	}
	for _, name := range []string{"a", "b"} {
		l, err := netlink.LinkByName(name)
		if err == nil {
			err = netlink.LinkSetUp(l)
		}
		if err != nil {
			t.Error(err)
			return
		}
		index[name] = l.Attrs().Index
	}
	for _, f := range prepare {
		if err := f(); err != nil {
			t.Error(err)
			return
		}
	}
	set := append(x.cell(cellSet), asm.LoadMem(asm.R1, asm.R0, 0, asm.DWord), asm.StoreMem(asm.R6, skbTCIndex, asm.R1, asm.Word))
	read := append(asm.Instructions{asm.LoadMem(asm.R8, asm.R6, skbTCIndex, asm.Word)}, x.cell(cellRead)...)
	read = append(read, asm.StoreMem(asm.R0, 0, asm.R8, asm.DWord))
	before, after := x.witness(t, cellCame, set), x.witness(t, cellWent, read)
	defer before.Close()
	defer after.Close()
	for _, p := range []*ebpf.Program{before, x.program[hook], after} {
		l, err := link.AttachTCX(link.TCXOptions{Interface: index["a"], Program: p, Attach: ebpf.AttachTCXIngress, Anchor: link.Tail()})
		if err != nil {
			t.Error(err)
			return
		}
		defer l.Close()
	}
	socket, err := unix.Socket(unix.AF_PACKET, unix.SOCK_RAW, 0)
	if err != nil {
		t.Error(err)
		return
	}
	defer unix.Close(socket)
	for _, p := range passages {
		if p.pod.IsValid() {
			if err := c.Tables().SetInterface(c.Compiled.Address(p.pod).Slot, loader.Interface{Index: uint32(index["a"])}); err != nil {
				t.Error(err)
				return
			}
		}
		x.pass(t, socket, index["b"], p)
	}
}

func (x *chain) get(t *testing.T, cell uint32) (n uint64) {
	if err := x.cells.Lookup(cell, &n); err != nil {
		t.Error(err)
	}
	return n
}

func (x *chain) pass(t *testing.T, socket, from int, p passage) {
	came, went := x.get(t, cellCame), x.get(t, cellWent)
	if err := x.cells.Put(uint32(cellSet), uint64(p.before)); err != nil {
		t.Error(err)
		return
	}
	to := &unix.SockaddrLinklayer{Ifindex: from, Halen: 6}
	copy(to.Addr[:], net.HardwareAddr{0, 0, 0x5e, 0, 0x53, 1})
	if err := unix.Sendto(socket, p.frame.Bytes(), 0, to); err != nil {
		t.Error(err)
		return
	}
	for range 1000 {
		if x.get(t, cellCame) > came {
			break
		}
		time.Sleep(time.Millisecond)
	}
	if x.get(t, cellCame) == came {
		t.Errorf("%s: the frame never came", p.name)
	}
	time.Sleep(10 * time.Millisecond) // it is on its way through the chain
	if passed := x.get(t, cellWent) > went; passed != p.passes {
		t.Errorf("%s: passed %v, want %v", p.name, passed, p.passes)
	} else if after := x.get(t, cellRead); passed && after != uint64(p.after) {
		t.Errorf("%s: tc_index %#x, want %#x", p.name, after, p.after)
	}
}
