// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/link"
	"github.com/vishvananda/netlink"
	"golang.org/x/sys/unix"
)

// Sentinels of attaching.
var (
	ErrOccupied = errors.New("another XDP program is attached")
	ErrNoNative = errors.New("the driver has no native XDP")
	ErrMTU      = errors.New("the driver takes no XDP program at this MTU")
)

// maxBuffer is the largest MTU that fits one buffer of any driver: a page without headroom, bookkeeping and Ethernet header.
// Some take less, and say so when they are asked.
const maxBuffer = 3498

// NeedFrags says whether frames of these interfaces may need several buffers: then the XDP programs must be loaded for that.
func NeedFrags(nics []Device) bool {
	for _, d := range nics {
		if d.MTU > maxBuffer {
			return true
		}
	}
	return false
}

func (a *Attacher) attachXDP(p place, d Device, program *ebpf.Program) (attachment, error) {
	l, err := netlink.LinkByIndex(p.ifindex)
	if err != nil {
		return nil, fmt.Errorf("look at the interface: %w", err)
	}
	if x := l.Attrs().Xdp; x != nil && x.Attached {
		return nil, fmt.Errorf("%w: %s (id %d); remove it first, a NIC has room for one",
			ErrOccupied, programName(ebpf.ProgramID(x.ProgId)), x.ProgId)
	}
	flags := link.XDPDriverMode
	if a.generic {
		flags = link.XDPGenericMode
		a.log.Warn("XDP in generic mode: packets are judged after the kernel has allocated them, several times slower",
			"interface", d.Name)
	}
	made, err := link.AttachXDP(link.XDPOptions{Program: program, Interface: p.ifindex, Flags: flags})
	if err != nil {
		return nil, a.explainXDP(l, err)
	}
	return a.pin(p, made)
}

// explainXDP says what a driver's refusal means. All that it says itself is an error number.
func (a *Attacher) explainXDP(l netlink.Link, err error) error {
	name, mtu := l.Attrs().Name, l.Attrs().MTU
	driver := driverOf(name, l)
	jumbo := mtu > ethernet && (errors.Is(err, unix.ERANGE) || errors.Is(err, unix.EINVAL) || errors.Is(err, unix.E2BIG))
	switch unsupported := errors.Is(err, unix.EOPNOTSUPP); {
	case a.generic:
		return err
	case unsupported && mtu > ethernet:
		return fmt.Errorf("%w, or %w (driver %s of %s, MTU %d): lower the MTU, or --xdp-mode generic works, slowly: %w",
			ErrNoNative, ErrMTU, driver, name, mtu, err)
	case unsupported:
		return fmt.Errorf("%w (driver %s of %s), or not with its offloads as they are: try ethtool -K %s lro off rx-gro-hw off; "+
			"--xdp-mode generic works, slowly: %w", ErrNoNative, driver, name, name, err)
	case jumbo:
		return fmt.Errorf("%w (driver %s of %s, MTU %d): lower the MTU, or --xdp-mode generic works, slowly: %w", ErrMTU, driver, name, mtu, err)
	case errors.Is(err, unix.ENOMEM), errors.Is(err, unix.ENOSPC):
		return fmt.Errorf("the driver %s of %s has too few queues left for XDP, try ethtool -L %s with fewer channels: %w", driver, name, name, err)
	}
	return err
}

const ethernet = 1500 // bytes, the MTU that every driver takes XDP at

// driverOf is the name of an interface's driver, or its kind if it has no device.
func driverOf(name string, l netlink.Link) string {
	target, err := os.Readlink(filepath.Join("/sys/class/net", name, "device/driver"))
	if err != nil {
		return l.Type()
	}
	return filepath.Base(target)
}

// running is what an XDP link's interface runs, nil if that is not the link's program: a driver may have lost it over a reset,
// with the link none the wiser.
func (a *Attacher) running(held *pinnedLink) *netlink.LinkXdp {
	l, err := netlink.LinkByIndex(held.ifindex)
	if err != nil || l.Attrs().Xdp == nil || !l.Attrs().Xdp.Attached {
		return nil
	}
	info, err := held.link.Info()
	if err != nil || uint32(info.Program) != l.Attrs().Xdp.ProgId {
		return nil
	}
	return l.Attrs().Xdp
}

// runs says whether an XDP link's program runs, in the mode that is asked for now.
func (a *Attacher) runs(held attachment, d Device) bool {
	pinned, ok := held.(*pinnedLink)
	if !ok {
		return false
	}
	now := a.running(pinned)
	if now == nil {
		return false
	}
	fits := (now.AttachMode == attachedGeneric) == a.generic
	if !fits {
		a.log.Warn("the XDP mode changes; for a moment nothing is judged there", "interface", d.Name)
	}
	return fits
}

const attachedGeneric = 2 // XDP_ATTACHED_SKB
