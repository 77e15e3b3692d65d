// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"slices"
	"strings"
)

// maxClasses bounds peer classes and port classes: the image has 16 bits for each.
const maxClasses = 0xffff

// Overflow says that the policies of a namespace are too large, and what stands in for them: the pods that they select are
// isolated in each direction that they name, and nobody is admitted to them, whatever other policies say. A node's
// standing permission to reach its pods holds unless a policy denies its host.
type Overflow struct {
	Namespace string   // empty: the cluster-wide policies, which are charged together
	Policies  []string // keys, sorted
	What      string   // what does not fit: "bytes of image", "classes of peers", "classes of ports"
	Cost      int      // of it, what these policies take
	Size      int      // what all would take
	Limit     int
}

func (o Overflow) String() string {
	who := "the cluster-wide policies"
	if o.Namespace != "" {
		who = "the policies of namespace " + o.Namespace
	}
	return fmt.Sprintf("%s are too large: %d of %d %s are theirs, %d more than the limit of %d; the pods they select are isolated",
		who, o.Cost, o.Size, o.What, o.Size-o.Limit, o.Limit)
}

// excess is the error of policies that do not fit.
type excess struct {
	what        string
	size, limit int
	cost        map[string]int // namespace → what its policies take
	is          error
}

func (e *excess) Unwrap() error { return e.is }

func (e *excess) Error() string {
	var b strings.Builder
	for i, ns := range e.costliest()[:min(3, len(e.cost))] {
		if i > 0 {
			b.WriteString(", ")
		}
		fmt.Fprintf(&b, "%s (%d)", cmp.Or(ns, "cluster-wide"), e.cost[ns])
	}
	return fmt.Sprintf("%v: %d %s, the limit is %d; the policies of these namespaces cost most: %s", e.is, e.size, e.what, e.limit, b.String())
}

// costliest lists the namespaces, the one that costs most first.
func (e *excess) costliest() []string {
	return slices.SortedFunc(maps.Keys(e.cost), func(a, b string) int { return cmp.Or(cmp.Compare(e.cost[b], e.cost[a]), cmp.Compare(a, b)) })
}

// charge adds to charged the namespaces that cost most, so many that what they take makes up for the excess. It says
// whether there was one.
func (e *excess) charge(charged map[string]Overflow) bool {
	saved := 0
	for _, ns := range e.costliest() {
		if _, already := charged[ns]; already || e.cost[ns] == 0 {
			continue
		}
		charged[ns] = Overflow{Namespace: ns, What: e.what, Cost: e.cost[ns], Size: e.size, Limit: e.limit}
		if saved += e.cost[ns]; saved >= e.size-e.limit {
			break
		}
	}
	return saved > 0
}

// fitting makes plans, each with more namespaces charged, until one fits.
func (p *Planner) fitting(policies []Policy, attempt func(policies []Policy, charged map[string]Overflow) (*Plan, error)) (*Plan, error) {
	charged := p.stillCharged(policies)
	for {
		plan, err := attempt(closing(policies, charged), charged)
		var e *excess
		if errors.As(err, &e) && e.charge(charged) {
			continue
		}
		if err != nil {
			return nil, err
		}
		for i := range policies {
			if o, ok := charged[policies[i].Namespace]; ok {
				o.Policies = append(o.Policies, policies[i].Key)
				charged[o.Namespace] = o
			}
		}
		for _, ns := range slices.Sorted(maps.Keys(charged)) {
			if o := charged[ns]; len(o.Policies) > 0 {
				o.Policies = slices.Compact(o.Policies)
				plan.Overflow = append(plan.Overflow, o)
			}
		}
		plan.asked = policies
		return plan, nil
	}
}

// stillCharged are the namespaces that the live image charges, whose policies have not changed, and for which there is no
// room now either: so one tenant's excess does not slow down everybody else's changes.
func (p *Planner) stillCharged(policies []Policy) map[string]Overflow {
	charged := map[string]Overflow{}
	if p.live == nil {
		return charged
	}
	same := equalPolicies(p.live.asked, policies)
	for _, o := range p.live.overflow {
		of := func(all []Policy) []Policy {
			return slices.DeleteFunc(slices.Clone(all), func(p Policy) bool { return p.Namespace != o.Namespace })
		}
		full := o.What == bytesOfImage && p.live.image.Size()+o.Cost > cmp.Or(p.MaxImage, DefaultMaxImage)
		if same || full && equalPolicies(of(p.live.asked), of(policies)) {
			o.Policies = nil
			charged[o.Namespace] = o
		}
	}
	return charged
}

// closing is policies with those of the charged namespaces closed.
func closing[V any](policies []Policy, charged map[string]V) []Policy {
	if len(charged) == 0 {
		return policies
	}
	out := slices.Clone(policies)
	for i := range out {
		if _, ok := charged[out[i].Namespace]; ok {
			out[i] = out[i].closed()
		}
	}
	return out
}

// closed stands for a policy that is too large: it costs next to nothing, and admits nothing that the policy would not.
func (p *Policy) closed() Policy {
	c := *p
	if c.Rules = nil; p.Audit {
		return c // it enforces nothing as it is
	}
	c.Closed = p.Isolates
	var denies [2]bool
	for i := range p.Rules {
		r := &p.Rules[i]
		c.Closed[r.Direction] = true
		if r.Action == Deny && !denies[r.Direction] && len(r.Ports) > 0 && slices.ContainsFunc(r.Peers, func(p Peer) bool { return p.mayBeNode() }) {
			denies[r.Direction] = true
			c.Rules = append(c.Rules, Rule{Path: r.Path, Direction: r.Direction, Action: Deny, Peers: []Peer{hostPeer()}, Ports: []PortMatch{AnyPort}})
		}
	}
	return c
}

// mayBeNode says whether the peer can match a node.
func (p *Peer) mayBeNode() bool {
	switch p.Kind {
	case PeerSelector:
		return false
	case PeerCIDR:
		return p.MatchNodes
	case PeerEntity:
		return p.Entity != EntityWorld && p.Entity != EntityWorldIPv4 && p.Entity != EntityWorldIPv6 && p.Entity != EntityNone
	}
	return true
}

// denyingHost keeps the compiled rules that deny the host; writes over rules.
func (c *compiler) denyingHost(rules []int32) []int32 {
	hosts := c.peersOf(c.host()).members
	return slices.DeleteFunc(rules, func(i int32) bool {
		r := &c.rules[i]
		return r.action != Deny || !r.peers.all && !slices.ContainsFunc(hosts, func(h int32) bool {
			_, in := slices.BinarySearch(r.peers.members, h)
			return in
		})
	})
}

const bytesOfImage = "bytes of image"

// rowCost is the bytes that the row of these compiled rules takes.
type rowCost struct {
	rules []int32
	bytes int
}

// tooLarge says which namespace's policies take how much of an image of size bytes. Of a row with rules of several
// namespaces each takes what the row would be smaller without them; what is not rows goes by the policies' length.
func (c *compiler) tooLarge(size, limit int) error {
	e := &excess{what: bytesOfImage, size: size, limit: limit, cost: map[string]int{}, is: ErrTooLarge}
	of := make([]string, len(c.rules)) // namespace of a compiled rule
	for ref, i := range c.byRule {
		if i >= 0 {
			of[i] = c.policies[ref.policy].Namespace
		}
	}
	rest := size
	for _, row := range c.costs {
		rest -= row.bytes
		all := c.extent(row.rules)
		for _, ns := range slices.Compact(slices.Sorted(func(yield func(string) bool) {
			for _, r := range row.rules {
				if !yield(of[r]) {
					return
				}
			}
		})) {
			others := c.extent(slices.DeleteFunc(slices.Clone(row.rules), func(r int32) bool { return of[r] == ns }))
			e.cost[ns] += int(float64(row.bytes) * (1 - float64(others)/float64(all)))
		}
	}
	lengths, total := map[string]int{}, 0
	for i := range c.policies {
		text, _ := json.Marshal(&c.policies[i])
		lengths[c.policies[i].Namespace] += len(text)
		total += len(text)
	}
	for ns, length := range lengths {
		e.cost[ns] += int(float64(max(rest, 0)) * float64(length) / float64(total))
	}
	return e
}

// extent is how many cells the row of these rules has at most.
func (c *compiler) extent(indexes []int32) int {
	if len(indexes) == 0 {
		return 0
	}
	rules := make([]compiledRule, len(indexes))
	for i, r := range indexes {
		rules[i] = c.rules[r]
	}
	_, _, ports := localClasses(&c.portParts, c.ports.count, rules, func(r *compiledRule) *list { return r.ports })
	_, _, peers := localClasses(&c.peerParts, c.peerCount, rules, func(r *compiledRule) *list { return r.peers })
	return ports * peers
}

// tooManyPeers and tooManyPorts charge each namespace with what it alone or with others tells apart.
func (c *compiler) tooManyPeers() error {
	e := &excess{what: "classes of peers", size: c.peerCount, limit: maxClasses, is: ErrTooMany}
	e.cost = c.named(func(sets map[string][]int32, _ map[portRange]bool) int { return len(sets) })
	return fmt.Errorf("divide peers: %w", e)
}

func (c *compiler) tooManyPorts(classes int) error {
	e := &excess{what: "classes of ports", size: classes, limit: maxClasses, is: ErrTooMany}
	e.cost = c.named(func(_ map[string][]int32, ranges map[portRange]bool) int { return len(ranges) })
	return fmt.Errorf("divide ports: %w", e)
}

func (c *compiler) named(count func(map[string][]int32, map[portRange]bool) int) map[string]int {
	by := map[string][]int32{}
	for i := range c.policies {
		by[c.policies[i].Namespace] = append(by[c.policies[i].Namespace], int32(i))
	}
	costs := map[string]int{}
	for ns, policies := range by {
		sets, ranges := map[string][]int32{}, map[portRange]bool{}
		for _, i := range policies {
			c.dividePolicy(i, sets, ranges)
		}
		costs[ns] = count(sets, ranges)
	}
	return costs
}
