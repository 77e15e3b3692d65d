// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf"
)

// pinnedLink is a tcx or XDP link.
type pinnedLink struct {
	link    link.Link
	ifindex int
}

func (l *pinnedLink) update(p *ebpf.Program) error { return l.link.Update(p) }
func (l *pinnedLink) close() error                 { return l.link.Close() }

func (l *pinnedLink) detach() error {
	if err := l.link.Detach(); err != nil && !errors.Is(err, unix.ENOLINK) && l.alive() {
		return err
	}
	return nil
}

// alive: the kernel clears the link's interface when that goes away, also if the number is given out again.
func (l *pinnedLink) alive() bool {
	info, err := l.link.Info()
	if err != nil {
		return false
	}
	if x := info.XDP(); x != nil {
		return x.Ifindex == uint32(l.ifindex)
	}
	if t := info.TCX(); t != nil {
		return t.Ifindex == uint32(l.ifindex)
	}
	return false
}

// filter is a direct-action classifier on a clsact qdisc, for kernels without tcx. The kernel keeps it without a pin; an
// empty directory among the pins remembers it, and another one a qdisc that we made.
type filter struct {
	place place
	dir   string
}

const (
	qdiscMark      = "clsact-"
	filterPriority = 1
	filterHandle   = 0x77656972
)

func (f *filter) create(p *ebpf.Program) error {
	l, err := netlink.LinkByIndex(f.place.ifindex)
	if err != nil {
		return fmt.Errorf("look at the interface: %w", err)
	}
	if err := f.mark(f.place.String()); err != nil {
		return err
	}
	if !hasClsact(l) {
		if err := f.mark(fmt.Sprintf("%s%d", qdiscMark, f.place.ifindex)); err != nil {
			return err
		}
		if err := netlink.QdiscAdd(clsact(f.place.ifindex)); err != nil && !errors.Is(err, unix.EEXIST) {
			return fmt.Errorf("add clsact qdisc: %w", err)
		}
	}
	return f.update(p)
}

func (f *filter) mark(name string) error {
	if err := os.Mkdir(filepath.Join(f.dir, name), 0o700); err != nil && !errors.Is(err, os.ErrExist) {
		return fmt.Errorf("record attachment: %w", err)
	}
	return nil
}

func (f *filter) update(p *ebpf.Program) error {
	if err := netlink.FilterReplace(f.spec(p)); err != nil {
		return fmt.Errorf("replace filter: %w", err)
	}
	return nil
}

func (f *filter) spec(p *ebpf.Program) *netlink.BpfFilter {
	parent := uint32(netlink.HANDLE_MIN_EGRESS)
	if f.place.hook == bpf.HookPodTx {
		parent = netlink.HANDLE_MIN_INGRESS
	}
	spec := &netlink.BpfFilter{
		FilterAttrs: netlink.FilterAttrs{
			LinkIndex: f.place.ifindex, Parent: parent, Handle: filterHandle,
			Priority: filterPriority, Protocol: unix.ETH_P_ALL,
		},
		Name:         f.name(),
		DirectAction: true,
	}
	if p != nil {
		spec.Fd = p.FD()
	}
	return spec
}

func (f *filter) name() string { return "weir_" + bpf.HookName(f.place.hook) }

func (f *filter) present() bool {
	l, err := netlink.LinkByIndex(f.place.ifindex)
	if err != nil {
		return false
	}
	filters, _ := dump(func() ([]netlink.Filter, error) { return netlink.FilterList(l, f.spec(nil).Parent) })
	for _, other := range filters {
		if b, ok := other.(*netlink.BpfFilter); ok && b.Handle == filterHandle && strings.HasPrefix(b.Name, f.name()) {
			return true
		}
	}
	return false
}

// detach removes the filter, and the qdisc if it was ours and nobody else uses it.
func (f *filter) detach() error {
	if f.present() {
		if err := netlink.FilterDel(f.spec(nil)); err != nil {
			return fmt.Errorf("delete filter: %w", err)
		}
	}
	mark := filepath.Join(f.dir, fmt.Sprintf("%s%d", qdiscMark, f.place.ifindex))
	if _, err := os.Stat(mark); err != nil {
		return nil
	}
	l, err := netlink.LinkByIndex(f.place.ifindex)
	if err == nil {
		for _, parent := range []uint32{netlink.HANDLE_MIN_INGRESS, netlink.HANDLE_MIN_EGRESS} {
			rest, err := dump(func() ([]netlink.Filter, error) { return netlink.FilterList(l, parent) })
			if err != nil {
				return fmt.Errorf("list filters: %w", err)
			}
			if len(rest) > 0 {
				return nil
			}
		}
		if err := netlink.QdiscDel(clsact(f.place.ifindex)); err != nil && hasClsact(l) {
			return fmt.Errorf("delete clsact qdisc: %w", err)
		}
	}
	return os.Remove(mark)
}

func (f *filter) alive() bool  { return f.present() }
func (f *filter) close() error { return nil }

func clsact(ifindex int) netlink.Qdisc {
	return &netlink.Clsact{QdiscAttrs: netlink.QdiscAttrs{
		LinkIndex: ifindex, Handle: netlink.MakeHandle(0xffff, 0), Parent: netlink.HANDLE_CLSACT,
	}}
}

func hasClsact(l netlink.Link) bool {
	qdiscs, _ := dump(func() ([]netlink.Qdisc, error) { return netlink.QdiscList(l) })
	for _, q := range qdiscs {
		if q.Type() == "clsact" {
			return true
		}
	}
	return false
}
