// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"slices"
	"strings"
	"time"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/loader"
	"github.com/weirnet/weir/policy"
)

var (
	errPods = errors.New("not all pods are guarded")
)

// applied is what is enforced.
type applied struct {
	some     bool // anything is
	model    func() *policy.Model
	facts    *facts
	statuses []k8s.Status
	overflow []policy.Overflow
	refs     []k8s.PolicyRef
	compiled *policy.Compiled
	veterans map[string]bool // pods of the first plan not found yet, by podKey: they ran before anything guarded them
	decap    decapChoice
	behind   bool // the tables may be: an Apply failed half-way, and the planner does not know the model
}

// work makes the kernel's state what the source and the interfaces ask for. news is an Update, or empty if only the
// interfaces may have changed; look says whether they may have. What fails is named in log and status, and the state before
// stays. again asks for another round soon. An error means that the agent cannot do its work on this host.
func (a *agent) work(ctx context.Context, news news, look bool) (again bool, err error) {
	if look || a.network == nil {
		err = a.observe()
	}
	var moved bool // local pods have come, gone or changed their addresses
	if err == nil {
		moved, err = a.enforce(ctx, news)
	}
	if news.answer != nil {
		defer func(verdict error) { news.answer <- verdict }(err) // when the pods are attached, too
	}
	switch {
	case ctx.Err() != nil:
		return false, nil
	case !a.applied.some:
		return false, nil // nothing of ours to keep up yet; the source tries its Update again
	case err != nil && news.answer != nil:
		return true, nil // the source tells, and tries again; the state before is kept up
	case err != nil:
		a.fail("keep up with source and interfaces", err)
		return true, nil
	case !look && !moved && !a.guard.pending() && a.kernel.programs != nil:
		return false, nil // whoever is missing is looked for later
	case !look:
		if err := a.observe(); err != nil { // a new pod comes with a new interface
			a.fail("keep up with interfaces", err)
			return true, nil
		}
	}
	missing, err := a.settle(ctx)
	if err != nil {
		a.fail("attach", err)
		return true, a.fatal(err)
	}
	if !a.status.everReady() {
		time.AfterFunc(settleMemory, a.memory.steady)
	}
	a.status.settled(missing)
	a.settledAt = time.Now()
	return len(missing) > 0, nil
}

// observe looks at the host's interfaces, addresses and routes, unless somebody just has.
func (a *agent) observe() (err error) {
	network := a.ahead
	if a.ahead = nil; network == nil {
		network, err = loader.Observe()
	}
	if err == nil {
		a.network = network
	}
	return err
}

// lookAgain is the host's interfaces, addresses and routes now; nil if they cannot be seen. It is safe for concurrent use.
func (a *agent) lookAgain() *loader.Network {
	n, err := loader.Observe()
	if err != nil {
		a.log.Error("look at interfaces", "error", err)
		return nil
	}
	return n
}

// upToDate says whether the host is as it was when everything was last settled, and that is not too long ago: firewall rules
// and sysctls tell nobody.
func (a *agent) upToDate(n *loader.Network) bool {
	return n != nil && a.network != nil && n.Same(a.network) && a.kernel.programs != nil && !a.applied.behind && time.Since(a.settledAt) < decapInterval
}

// fatal is err if the agent shall end: what never worked is a mistake in the configuration, better told by the exit code.
// Trouble with a pod is not, pods come and go.
func (a *agent) fatal(err error) error {
	if !a.status.everReady() && !errors.Is(err, errPods) {
		return err
	}
	return nil
}

// enforce brings the tables up to an Update, or to what is known already on changed routes. moved says whether local pods
// have come, gone or changed their addresses.
func (a *agent) enforce(ctx context.Context, news news) (moved bool, err error) {
	update := news.update
	if update == nil {
		if !a.applied.some {
			return false, nil
		}
		update = &k8s.Update{Model: a.applied.model, Changes: &policy.Changes{}, Statuses: a.applied.statuses, Policies: a.applied.refs}
	}
	start := time.Now()
	plan, facts, err := a.plan(update)
	if err == nil && plan != nil {
		err = a.apply(ctx, plan)
	}
	if err != nil {
		a.metrics.ApplyFailed()
		return false, err
	}
	now := time.Now()
	a.applied.facts, a.applied.model, a.applied.some = facts, update.Model, true
	if plan != nil {
		moved = a.applied.compiled == nil || !sameEndpoints(a.applied.compiled.Endpoints, plan.Final.Endpoints)
		a.applied.compiled = plan.Final
		a.metrics.Applied(plan, now.Sub(start), now)
		a.logApplied(plan, now.Sub(start))
	}
	if news.update != nil {
		a.metrics.Enforced(update.Received, now)
		a.report(update, plan, now)
	}
	return moved, nil
}

// plan is the way to an Update; nil if everything is there already.
func (a *agent) plan(update *k8s.Update) (*policy.Plan, *facts, error) {
	if update.Changes != nil && a.applied.some && !a.applied.behind {
		plan, facts, err := a.planChanges(update)
		if !errors.Is(err, policy.ErrNoModel) {
			return plan, facts, err
		}
	}
	model := *update.Model()
	node := &policy.Node{}
	if i := slices.IndexFunc(model.Nodes, func(n policy.Node) bool { return n.Name == model.Node }); i >= 0 {
		node = &model.Nodes[i]
	}
	tunnel, err := a.tunnel(a.network, node)
	if err != nil {
		return nil, nil, err
	}
	facts := newFacts(&model, a.network, tunnel)
	model.Nodes = facts.nodes()
	plan, err := a.planner.Plan(&model)
	if err != nil {
		return nil, nil, fmt.Errorf("compile policies: %w", err)
	}
	return plan, facts, nil
}

// planChanges plans what the source says has changed, and what the host has.
func (a *agent) planChanges(update *k8s.Update) (*policy.Plan, *facts, error) {
	c := *update.Changes
	own := a.applied.facts.read[a.cfg.node]
	for i := range c.NodesChanged {
		if c.NodesChanged[i].Name == a.cfg.node {
			own = c.NodesChanged[i]
		}
	}
	tunnel, err := a.tunnel(a.network, &own)
	if err != nil {
		return nil, nil, err
	}
	facts := a.applied.facts.with(&c, a.network, tunnel, func() []policy.Pod { return update.Model().Pods })
	c.NodesChanged, c.GoneNodes = facts.since(a.applied.facts)
	if c.Empty() {
		return nil, facts, nil
	}
	plan, err := a.planner.PlanChanges(c)
	if err != nil {
		return nil, nil, fmt.Errorf("compile changes: %w", err)
	}
	return plan, facts, nil
}

// apply writes a plan into the tables.
func (a *agent) apply(ctx context.Context, plan *policy.Plan) error {
	if err := a.kernel.tables.Apply(ctx, plan); err != nil {
		if !errors.Is(err, loader.ErrTooLarge) { // then nothing was written
			a.applied.behind = true
			a.restore()
		}
		return err
	}
	a.planner.Commit(plan)
	a.applied.behind = false
	if a.applied.veterans == nil {
		a.applied.veterans = map[string]bool{}
		for _, e := range plan.Final.Endpoints {
			a.applied.veterans[podKey(e)] = true
		}
	}
	return nil
}

func (a *agent) logApplied(plan *policy.Plan, took time.Duration) {
	level := slog.LevelInfo
	if plan.Delta != nil && plan.Interim == nil && !plan.Swap {
		level = slog.LevelDebug // addresses only
	}
	a.log.Log(context.Background(), level, "applied", "generation", plan.Final.Image.Generation(), "policies", len(a.applied.refs),
		"pods", len(plan.Final.Endpoints), "nodes", len(a.applied.facts.known), "image_bytes", plan.Final.Image.Size(), "took", took)
}

// sameEndpoints says whether two plans have the same local pods under the same addresses.
func sameEndpoints(a, b []policy.Endpoint) bool {
	return slices.EqualFunc(a, b, func(a, b policy.Endpoint) bool {
		return a.Slot == b.Slot && a.Pod == b.Pod && a.UID == b.UID && slices.Equal(a.Addrs, b.Addrs)
	})
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
func (a *agent) settle(ctx context.Context) (missing map[string]error, err error) {
	n := a.network
	tunnel, err := a.tunnel(n, a.applied.facts.own())
	if err != nil {
		return nil, err
	}
	if err := a.load(ctx, n, tunnel); err != nil {
		return nil, err
	}
	a.adviseMTU(n, tunnel)
	return a.attach(ctx, n, tunnel)
}

func (a *agent) fail(what string, err error) {
	if a.status.fail(err) {
		a.log.Error(what, "error", err)
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
	knobs := a.knobs(n, t)
	if knobs.VXLANPort != a.kernel.port {
		if err := a.movePort(ctx, knobs.VXLANPort); err != nil {
			return err
		}
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
		"any_vni", knobs.AnyVNI, "frags", knobs.Frags, "decap_strip", knobs.DecapStrip, "unknown_endpoint_drop", knobs.UnknownEndpointDrop)
	return nil
}

// decap decides anew when the overlay's interfaces have changed, and now and then.
func (a *agent) decap(ctx context.Context, n *loader.Network, t *loader.Tunnel) (strip bool, err error) {
	if mode := a.cfg.overlay.decap; mode != "auto" {
		return mode == "strip" && (t == nil || !t.AnyVNI), nil // Cilium's programs need the VNI
	}
	if t == nil && a.kernel.programs != nil { // flanneld makes another; who was asked then is not asked anew
		return a.kernel.knobs.DecapStrip, nil
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
	switch {
	case t == nil:
	case t.AnyVNI:
		reason = t.Name + " needs the VNI of each packet"
	default:
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

func (a *agent) nodeAddrs() []netip.Addr { return a.applied.facts.own().Underlay }
