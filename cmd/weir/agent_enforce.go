// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"reflect"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/loader"
	"github.com/weirnet/weir/policy"
)

var (
	errPods     = errors.New("not all pods are guarded")
	errOtherNow = errors.New("the agent must start again")
)

// applied is what is enforced.
type applied struct {
	objects  *k8s.Objects
	read     *policy.Model // as the manifests say
	model    *policy.Model // and as the host's interfaces and routes complete it
	compiled *policy.Compiled
	veterans map[string]bool // pods of the first plan not found yet, by podKey: they ran before anything guarded them
	decap    decapChoice
	behind   bool // the tables may be: an Apply failed half-way
}

// work makes the kernel's state what manifests and interfaces ask for. news is a new set of objects, or empty if only the
// interfaces may have changed. What fails is named in log and status, and the state before stays. again asks for another
// round soon. An error means that the agent cannot do its work on this host.
func (a *agent) work(ctx context.Context, news set) (again bool, err error) {
	network, err := loader.Observe()
	if err == nil {
		err = a.enforce(ctx, network, news)
	}
	if news.answer != nil {
		defer func(verdict error) { news.answer <- verdict }(err) // when the set's pods are attached, too
	}
	switch {
	case ctx.Err() != nil:
		return false, nil
	case a.applied.objects == nil:
		return false, nil // nothing of ours to keep up yet; the source tries its set again
	case err != nil && news.answer != nil:
		return true, nil // the source tells, and tries its set again; the set before it is kept up
	case err != nil:
		a.fail("keep up with manifests and interfaces", err)
		return true, nil
	}
	missing, err := a.settle(ctx, network)
	if err != nil {
		a.fail("attach", err)
		return true, a.fatal(err)
	}
	a.status.settled(missing)
	return len(missing) > 0, nil
}

// fatal is err if the agent shall end: what never worked is a mistake in the configuration, better told by the exit code.
// Trouble with a pod is not, pods come and go.
func (a *agent) fatal(err error) error {
	if errors.Is(err, errOtherNow) || !a.status.everReady() && !errors.Is(err, errPods) {
		return err
	}
	return nil
}

// enforce brings the tables up to a new set of objects, or to the present one on changed routes.
func (a *agent) enforce(ctx context.Context, n *loader.Network, news set) error {
	objects := news.objects
	if objects == nil {
		objects = a.applied.objects
	}
	if objects == nil {
		return nil
	}
	read, statuses := a.applied.read, []k8s.Status(nil)
	if objects != a.applied.objects {
		var err error
		if read, statuses, err = k8s.Translate(objects, a.cfg.node, a.cfg.policy); err != nil {
			return fmt.Errorf("translate manifests: %w", err)
		}
	}
	tunnel, err := a.tunnel(n, read)
	if err != nil {
		return err
	}
	model := withFacts(read, n, tunnel)
	if objects == a.applied.objects && reflect.DeepEqual(model.Nodes, a.applied.model.Nodes) && !a.applied.behind {
		return nil
	}
	start := news.read
	if start.IsZero() {
		start = time.Now()
	}
	compiled, err := a.apply(ctx, model)
	if err != nil {
		a.metrics.ApplyFailed()
		return err
	}
	if objects != a.applied.objects {
		a.report(statuses, compiled.Image.AuditedPolicies())
	}
	a.applied.objects, a.applied.read, a.applied.model, a.applied.compiled = objects, read, model, compiled
	took := time.Since(start)
	a.metrics.Applied(compiled, took, time.Now())
	a.log.Info("applied", "generation", compiled.Image.Generation(), "policies", len(model.Policies), "pods", len(compiled.Endpoints),
		"nodes", len(model.Nodes), "image_bytes", compiled.Image.Size(), "took", took)
	return nil
}

// apply compiles the model and writes it into the tables.
func (a *agent) apply(ctx context.Context, m *policy.Model) (*policy.Compiled, error) {
	plan, err := a.planner.Plan(m)
	if err != nil {
		return nil, fmt.Errorf("compile policies: %w", err)
	}
	if err := a.kernel.tables.Apply(ctx, plan); err != nil {
		if !errors.Is(err, loader.ErrTooLarge) { // then nothing was written
			a.applied.behind = true
			a.restore()
		}
		return nil, err
	}
	a.planner.Commit(plan)
	a.reportOversized(plan.Overflow)
	a.applied.behind = false
	if a.applied.veterans == nil {
		a.applied.veterans = map[string]bool{}
		for _, e := range plan.Final.Endpoints {
			a.applied.veterans[podKey(e)] = true
		}
	}
	return plan.Final, nil
}

// restore tells the planner what the kernel's tables hold.
func (a *agent) restore() *policy.Image {
	live := a.kernel.tables.LiveImage()
	if live != nil {
		a.planner.Restore(live)
		a.planner.RestoreAddresses(a.kernel.tables.Addresses())
	}
	return live
}

// settle loads the programs and attaches them where they belong.
func (a *agent) settle(ctx context.Context, n *loader.Network) (missing map[string]error, err error) {
	tunnel, err := a.tunnel(n, a.applied.model)
	if err != nil {
		return nil, err
	}
	if err := a.load(ctx, n, tunnel); err != nil {
		return nil, err
	}
	return a.attach(n, tunnel)
}

func (a *agent) fail(what string, err error) {
	if a.status.fail(err) {
		a.log.Error(what, "error", err)
	}
}

// report tells what is not enforced as written, once for each set of objects.
func (a *agent) report(statuses []k8s.Status, audited []string) {
	var admitNothing []string
	for _, s := range statuses {
		if s.Reason == k8s.ReasonAudited {
			a.log.Info("under audit", "object", s.Object, "message", s.Message)
			continue
		}
		a.log.Warn("not enforced as written", "object", s.Object, "field", s.Path, "reason", s.Reason, "message", s.Message)
		if s.Reason == k8s.ReasonUnsupported {
			admitNothing = append(admitNothing, s.Object+" "+s.Path)
		}
	}
	a.status.setUnenforceable(admitNothing)
	a.status.setAudited(audited)
	a.metrics.Unenforceable(len(admitNothing))
}

// reportOversized tells whose policies are not enforced as written because they are too large.
func (a *agent) reportOversized(overflow []policy.Overflow) {
	texts := make([]string, len(overflow))
	for i, o := range overflow {
		texts[i] = o.String()
	}
	a.metrics.Oversized(len(overflow))
	if !a.status.setOversized(texts) {
		return
	}
	for _, o := range overflow {
		a.log.Warn("policies too large, the pods they select are isolated", "namespace", o.Namespace, "policies", len(o.Policies), "what", o.What,
			"cost", o.Cost, "size", o.Size, "limit", o.Limit)
	}
}

// decapChoice is whether XDP removes the outer headers, and for which interfaces and when that was decided.
type decapChoice struct {
	interfaces string
	reason     string // why not
	strip      bool
	at         time.Time
}

// load loads the programs if their constants have changed, and puts them in place of those that are attached.
func (a *agent) load(ctx context.Context, n *loader.Network, t *loader.Tunnel) error {
	c := a.cfg.overlay
	knobs := bpf.DefaultKnobs()
	knobs.SpoofEnforce, knobs.UnknownEndpointDrop = c.enforceSpoof, c.dropUnknown
	if t != nil {
		knobs.VXLANPort, knobs.VNI = t.Port, t.VNI
	}
	if c.port != 0 {
		knobs.VXLANPort = c.port
	}
	if c.vniGiven {
		knobs.VNI = c.vni
	}
	if knobs.VXLANPort != a.kernel.port {
		return fmt.Errorf("the overlay's port was %d and is %d now: %w", a.kernel.port, knobs.VXLANPort, errOtherNow)
	}
	strip, err := a.decap(ctx, n, t)
	if err != nil {
		return err
	}
	knobs.DecapStrip = strip
	if a.kernel.programs != nil && knobs == a.kernel.knobs {
		return nil
	}
	programs, err := a.kernel.tables.LoadPrograms(knobs)
	if err != nil {
		var rejected *ebpf.VerifierError
		if errors.As(err, &rejected) {
			a.log.Debug("the verifier's whole log", "log", fmt.Sprintf("%+v", rejected))
		}
		return err
	}
	if err := a.kernel.attacher.Use(programs); err != nil {
		return errors.Join(err, programs.Close())
	}
	a.kernel.programs.Close()
	a.kernel.programs, a.kernel.knobs = programs, knobs
	a.log.Info("programs loaded", "vxlan_port", knobs.VXLANPort, "vni", knobs.VNI, "spoof_enforce", knobs.SpoofEnforce,
		"decap_strip", knobs.DecapStrip, "unknown_endpoint_drop", knobs.UnknownEndpointDrop)
	return nil
}

// decap decides anew when the overlay's interfaces have changed, and now and then.
func (a *agent) decap(ctx context.Context, n *loader.Network, t *loader.Tunnel) (strip bool, err error) {
	if mode := a.cfg.overlay.decap; mode != "auto" {
		return mode == "strip", nil
	}
	names, err := a.underlayNames(n, t)
	if err != nil {
		return false, err
	}
	overlay := ""
	if t != nil {
		overlay = t.Name
	}
	last := a.applied.decap
	key := strings.Join(append(names, overlay), " ")
	if last.interfaces == key && time.Since(last.at) < decapInterval {
		return last.strip, nil
	}
	reason := "there is no VXLAN device"
	if t != nil {
		strip, reason = loader.Preflight{}.StripSafe(ctx, names, overlay)
	}
	switch {
	case last.interfaces == key && last.strip == strip && last.reason == reason:
	case strip:
		a.log.Info("decap: strip; XDP removes the outer headers")
	default:
		a.log.Info("decap: inspect; the kernel removes the outer headers", "because", reason)
	}
	a.applied.decap = decapChoice{key, reason, strip, time.Now()}
	return strip, nil
}

// underlayNames are the interfaces through which a stripped packet may enter the stack: the NICs, and what stands on them.
func (a *agent) underlayNames(n *loader.Network, t *loader.Tunnel) ([]string, error) {
	addrs := a.nodeAddrs()
	carriers, err := n.Carriers(a.cfg.overlay.underlay, t, addrs)
	if err != nil {
		return nil, err
	}
	nics, err := n.Underlay(a.cfg.overlay.underlay, t, addrs)
	if err != nil {
		return nil, err
	}
	var names []string
	for _, d := range append(carriers, nics...) {
		names = append(names, d.Name)
	}
	slices.Sort(names)
	return slices.Compact(names), nil
}

func (a *agent) nodeAddrs() []netip.Addr { return own(a.applied.model).Underlay }
