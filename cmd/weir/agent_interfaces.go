// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"sort"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/loader"
	"github.com/weirnet/weir/metrics"
	"github.com/weirnet/weir/policy"
)

// attach puts the programs where they belong: first on the pods' interfaces, which are the backstop, then on the overlay's
// way out, and last on the NICs. missing are the pods whose interface was not found, with the reason.
func (a *agent) attach(ctx context.Context, n *loader.Network, t *loader.Tunnel) (missing map[string]error, err error) {
	found, missing, podErr := a.attachPods(n)
	strays, strayErr := a.guardStrays(n, t)
	for _, d := range strays {
		found[d.Ifindex] = true
	}
	podErr = errors.Join(podErr, strayErr)
	nics, err := n.Underlay(a.cfg.overlay.underlay, t, a.nodeAddrs())
	if err != nil {
		return missing, err
	}
	var errs []error
	outlets := nics
	if t != nil {
		outlets = append(outlets[:len(outlets):len(outlets)], loader.Device{Ifindex: t.Ifindex, Name: t.Name})
	}
	keep := map[bpf.Hook]map[int]bool{bpf.HookOverlayTx: {}, bpf.HookUnderlayRx: {}}
	for hook, devices := range map[bpf.Hook][]loader.Device{bpf.HookOverlayTx: outlets, bpf.HookUnderlayRx: nics} {
		for _, d := range devices {
			keep[hook][d.Ifindex] = true
		}
	}
	for _, d := range outlets {
		errs = append(errs, a.kernel.attacher.Attach(bpf.HookOverlayTx, d))
	}
	errs = append(errs, a.attachUnderlay(ctx, n, t, nics))
	// Until every pod is found, an interface that nobody claims may still be a pod's: it stays guarded.
	errs = append(errs, a.kernel.attacher.Prune(func(hook bpf.Hook, ifindex int) bool {
		if on, ok := keep[hook]; ok {
			return on[ifindex]
		}
		return found[ifindex] || len(missing) > 0
	}))
	attached := map[string]int{}
	for hook := bpf.Hook(0); hook < bpf.HookCount; hook++ {
		attached[bpf.HookName(hook)] = a.kernel.attacher.Count(hook)
	}
	a.metrics.Interfaces(len(missing), attached)
	if err := errors.Join(errs...); err != nil {
		return missing, err
	}
	return missing, podErr
}

// attachPods finds the local pods' interfaces, tells the tables, and attaches to them.
// err is errPods.
func (a *agent) attachPods(n *loader.Network) (found map[int]bool, missing map[string]error, err error) {
	for _, t := range a.guard.take() {
		for _, addr := range t.addrs {
			a.finder.Tell(t.network, t.pod, addr, t.at)
		}
	}
	endpoints := a.applied.compiled.Endpoints
	var wanted []loader.PodAddress
	for _, e := range endpoints {
		for _, addr := range e.Addrs {
			if addr.Is4() || len(e.Addrs) == 1 {
				known := int(a.kernel.tables.Endpoint(e.Slot).Ifindex)
				wanted = append(wanted, loader.PodAddress{Key: podKey(e), Pod: e.Pod, Addr: addr, Known: known})
				break
			}
		}
	}
	at, notFound := a.finder.Find(n, wanted)
	found, missing = map[int]bool{}, map[string]error{}
	guarded := make(map[string]guardedPod, len(endpoints))
	var errs []error
	for _, e := range endpoints {
		i, ok := at[podKey(e)]
		if !ok {
			if notFound[podKey(e)] != nil {
				missing[e.Pod] = notFound[podKey(e)]
			}
			if old := int(a.kernel.tables.Endpoint(e.Slot).Ifindex); old != 0 && !n.HasLink(old) {
				errs = append(errs, a.kernel.tables.ClearInterface(e.Slot))
			}
			continue
		}
		found[i.Ifindex] = true
		err := a.kernel.tables.SetInterface(e.Slot, loader.Interface{
			Index: uint32(i.Ifindex), PodMAC: i.PodMAC, HostMAC: i.HostMAC, NetNS: i.NetNS, Existing: a.applied.veterans[podKey(e)],
		})
		if err == nil {
			delete(a.applied.veterans, podKey(e)) // whoever has the name next is new
		}
		d := loader.Device{Ifindex: i.Ifindex, Name: i.Name}
		if !a.kernel.attacher.Attached(bpf.HookPodTx, i.Ifindex) {
			a.log.Info("pod found", "pod", e.Pod, "interface", i.Name, "netns", int(i.NetNS)-1, "by", i.Evidence)
		}
		err = errors.Join(err, a.kernel.attacher.Attach(bpf.HookPodRx, d), a.kernel.attacher.Attach(bpf.HookPodTx, d))
		if errs = append(errs, err); err == nil {
			guarded[e.Pod] = guardedPod{i.Ifindex, e.Addrs}
		}
	}
	a.guard.tell(guarded)
	if names := sortedNames(missing); a.status.newlyMissing(names) {
		for _, name := range names {
			a.log.Warn("not guarded yet", "pod", name, "because", missing[name])
		}
	}
	if err := errors.Join(errs...); err != nil {
		return found, missing, fmt.Errorf("%w: %w", errPods, err)
	}
	return found, missing, nil
}

// podKey tells apart pods that have an address one after the other.
func podKey(e policy.Endpoint) string { return e.Pod + " " + e.UID }

func sortedNames(m map[string]error) []string {
	names := make([]string, 0, len(m))
	for name := range m {
		names = append(names, name)
	}
	sort.Strings(names)
	return names
}

// datapath gives the tables' counters the names that metrics use.
type datapath struct{ tables *loader.Tables }

func (d datapath) Counters() (map[metrics.Slot]metrics.Traffic, error) {
	counts, err := d.tables.Counters()
	out := make(map[metrics.Slot]metrics.Traffic, len(counts))
	for key, c := range counts {
		out[metrics.Slot(key)] = metrics.Traffic(c)
	}
	return out, err
}

// Rules adds up by name. Hits of a number that no longer has one are of a rule that is gone.
func (d datapath) Rules() (map[metrics.Rule]metrics.Traffic, error) {
	live := d.tables.LiveImage()
	hits, err := d.tables.RuleHits()
	audited, auditErr := d.tables.AuditHits()
	out := make(map[metrics.Rule]metrics.Traffic, len(hits)+len(audited))
	add := func(number uint16, c loader.Count, audit bool) {
		if live == nil {
			return
		}
		if policyKey, path, ok := live.RuleName(number); ok {
			rule := metrics.Rule{Policy: policyKey, Path: path, Audit: audit}
			sum := out[rule]
			out[rule] = metrics.Traffic{Packets: sum.Packets + c.Packets, Bytes: sum.Bytes + c.Bytes}
		}
	}
	for number, c := range hits {
		add(number, c, false)
	}
	for number, c := range audited {
		add(number, c, true)
	}
	return out, errors.Join(err, auditErr)
}

func (d datapath) Flows() (map[string]int, error) {
	stats := d.tables.FlowStats()
	return map[string]int{"assured": stats.Flows, "new": stats.FlowsNew}, nil
}
