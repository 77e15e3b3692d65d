// SPDX-License-Identifier: Apache-2.0

package main

import (
	"errors"
	"fmt"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/loader"
)

// guardStrays puts the programs on the veths of pods that are not known yet, and returns where those are. What passes
// there has the reason unknown_endpoint: it is counted, and dropped where that is asked for.
func (a *agent) guardStrays(n *loader.Network, t *loader.Tunnel) (strays []loader.Device, err error) {
	if a.kernel.programs == nil || !a.applied.some {
		return nil, nil
	}
	except := map[int]bool{}
	carriers, err := n.Carriers(a.cfg.overlay.underlay, t, a.nodeAddrs())
	if err != nil {
		return nil, err
	}
	nics, err := n.Underlay(a.cfg.overlay.underlay, t, a.nodeAddrs())
	if err != nil {
		return nil, err
	}
	for _, d := range append(carriers, nics...) {
		except[d.Ifindex] = true
	}
	var errs []error
	for _, d := range a.finder.PodLike(n, a.applied.facts.own().PodCIDRs, except) {
		strays = append(strays, d)
		if !a.kernel.attacher.Attached(bpf.HookPodTx, d.Ifindex) {
			a.log.Debug("a pod's interface is there, the pod is not known yet", "interface", d.Name)
		}
		errs = append(errs, a.kernel.attacher.Attach(bpf.HookPodRx, d), a.kernel.attacher.Attach(bpf.HookPodTx, d))
	}
	if err := errors.Join(errs...); err != nil {
		return strays, fmt.Errorf("%w: %w", errPods, err)
	}
	return strays, nil
}

// meet guards interfaces that have just come, before anything else is found out about them.
func (a *agent) meet() {
	n, err := loader.Observe()
	if err != nil || !a.applied.some {
		return // work follows
	}
	t, err := a.tunnel(n, a.applied.facts.own())
	if err == nil {
		_, err = a.guardStrays(n, t)
	}
	if err != nil {
		a.log.Debug("guard new interfaces", "error", err)
	}
}
