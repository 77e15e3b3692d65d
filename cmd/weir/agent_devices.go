// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"time"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/loader"
)

// lossInterval is how long a link that was taken off its interface may go unnoticed: nobody tells of that.
const lossInterval = 2 * time.Second

// devices is what the agent remembers of the host's devices between two looks at them.
type devices struct {
	frags   bool   // a driver takes XDP programs only if they can do with frames of several buffers
	warning string // about MTUs, that was logged last
	misses  bool   // a link was lost when it was asked last
}

// missesLink says whether a link was taken off its interface, and logs that once.
func (a *agent) missesLink() bool {
	misses := a.kernel.attacher.Lost()
	if misses && !a.devices.misses {
		a.log.Warn("a program was taken off its interface")
	}
	a.devices.misses = misses
	return misses
}

// knobs are the constants that the programs need for the overlay as it is now. While its device is away, as it is while
// flanneld makes another, they stay.
func (a *agent) knobs(n *loader.Network, t *loader.Tunnel) bpf.Knobs {
	c := a.cfg.overlay
	knobs := bpf.DefaultKnobs()
	knobs.SpoofEnforce, knobs.UnknownEndpointDrop = c.enforceSpoof, c.dropUnknown
	knobs.VXLANPort = a.kernel.port
	switch {
	case t != nil:
		knobs.VXLANPort, knobs.VNI, knobs.AnyVNI = t.Port, t.VNI, t.AnyVNI
	case a.kernel.programs != nil:
		knobs.VNI, knobs.AnyVNI = a.kernel.knobs.VNI, a.kernel.knobs.AnyVNI
	}
	if c.port != 0 {
		knobs.VXLANPort = c.port
	}
	if c.vniGiven {
		knobs.VNI, knobs.AnyVNI = c.vni, false
	}
	if nics, err := n.Underlay(c.underlay, t, a.nodeAddrs()); err == nil && !c.genericXDP {
		knobs.Frags = a.devices.frags || loader.NeedFrags(nics)
	}
	return knobs
}

// movePort follows the overlay to another port: the tables must keep pods off that one.
func (a *agent) movePort(ctx context.Context, port uint16) error {
	a.log.Info("the overlay's port has changed", "from", a.kernel.port, "to", port)
	a.kernel.tables.SetOverlayPort(port)
	a.kernel.port = port
	a.applied.behind = true // a whole plan writes every Service anew
	a.restore()
	_, err := a.enforce(ctx, news{})
	return err
}

// attachUnderlay attaches underlay_rx. A driver that takes a large MTU only from programs for frames of several buffers is
// given one.
func (a *agent) attachUnderlay(ctx context.Context, n *loader.Network, t *loader.Tunnel, nics []loader.Device) error {
	var errs []error
	for _, d := range nics {
		err := a.kernel.attacher.Attach(bpf.HookUnderlayRx, d)
		if errors.Is(err, loader.ErrMTU) && !a.kernel.knobs.Frags && !a.cfg.overlay.genericXDP {
			a.log.Info("the driver wants a program for frames of several buffers", "interface", d.Name, "mtu", d.MTU)
			a.devices.frags = true
			if err = a.load(ctx, n, t); err == nil {
				err = a.kernel.attacher.Attach(bpf.HookUnderlayRx, d)
			}
		}
		errs = append(errs, err)
	}
	return errors.Join(errs...)
}

// adviseMTU says once what is wrong with the overlay's MTU.
func (a *agent) adviseMTU(n *loader.Network, t *loader.Tunnel) {
	text := ""
	if t != nil {
		if carriers, err := n.Carriers(a.cfg.overlay.underlay, t, a.nodeAddrs()); err == nil {
			if err := t.Fits(carriers); err != nil {
				text = err.Error()
			}
		}
	}
	if text != "" && text != a.devices.warning {
		a.log.Warn("large packets of the overlay will be fragmented, and fragments dropped", "because", text)
	}
	a.devices.warning = text
}
