// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"cmp"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strings"
)

// ErrTooLarge is what errors wrap that say that an image exceeds its limit.
var ErrTooLarge = errors.New("policy image too large")

// Compile turns a model into all that its node needs. It is a pure function: equal models, in whatever order their nodes,
// pods, policies and services are listed, and equal numbers yield equal bytes. n must define every identity of the model,
// every slot, and every rule that selects a local pod: a Planner sees to that, and most callers want one.
func Compile(m *Model, n *Numbers) (*Compiled, error) {
	policies, err := canonical(m)
	if err != nil {
		return nil, err
	}
	policies = closing(policies, n.Charged)
	own := n.numbering()
	_, owners, err := resolve(m, &own.vocabulary, nil)
	if err != nil {
		return nil, err
	}
	img, err := compileImage(m.Node, policies, m.Options, own, &memo{})
	if err != nil {
		return nil, err
	}
	return tables(m, owners, own, img)
}

// Build compiles a model for its node with numbers of its own: for tests, reports and tools.
func Build(m *Model) (*Compiled, error) {
	plan, err := NewPlanner().Plan(m)
	if err != nil {
		return nil, err
	}
	return plan.Final, nil
}

// canonical checks the policies and sorts them.
func canonical(m *Model) ([]Policy, error) { return (&memo{}).canonical(m.Policies) }

// canonical is the policies, sorted. Those that stay where they are, by their keys, need not be sorted again.
func (m *memo) canonical(given []Policy) ([]Policy, error) {
	same := len(given) == len(m.given)
	for i := range given {
		if same && equalPolicy(&given[i], &m.given[i]) {
			continue
		}
		if err := given[i].validate(); err != nil {
			return nil, fmt.Errorf("compile %s: %w", given[i].Key, err)
		}
		same = same && given[i].Key == m.given[i].Key
	}
	sorted := make([]Policy, len(given))
	if same && m.place != nil {
		for i, at := range m.place {
			sorted[at] = given[i]
		}
		m.given = slices.Clone(given)
		return sorted, nil
	}
	text := make(map[string]int, len(given))
	order := make([]int32, len(given))
	for i := range given {
		text[given[i].Key]++
		order[i] = int32(i)
	}
	slices.SortStableFunc(order, func(i, j int32) int {
		a, b := &given[i], &given[j]
		if c := strings.Compare(a.Key, b.Key); c != 0 || text[a.Key] == 1 {
			return c
		}
		left, _ := json.Marshal(a)
		right, _ := json.Marshal(b)
		return cmp.Compare(string(left), string(right))
	})
	m.given, m.place = slices.Clone(given), nil
	if len(text) == len(given) { // among several of one key the place depends on what they say
		m.place = make([]int32, len(given))
	}
	for at, i := range order {
		sorted[at] = given[i]
		if m.place != nil {
			m.place[i] = int32(at)
		}
	}
	return sorted, nil
}

func (p *Policy) validate() error {
	var errs []error
	bad := func(path, format string, args ...any) {
		errs = append(errs, fmt.Errorf("%s: "+format, append([]any{path}, args...)...))
	}
	ordered := p.Tier != TierNormal
	if p.Tier > TierBaseline || ordered && (p.Priority < 0 || p.Priority > MaxPriority || p.Isolates != [2]bool{}) {
		bad("policy", "tier %d, priority %d, isolates %v", p.Tier, p.Priority, p.Isolates)
	}
	for i := range p.Rules {
		r := &p.Rules[i]
		if r.Direction > Egress || r.Action > Pass || r.Action == Pass && !ordered {
			bad(r.Path, "direction %d, action %d", r.Direction, r.Action)
		}
		for _, peer := range r.Peers {
			switch peer.Kind {
			case PeerAny, PeerSelector:
			case PeerEntity:
				if !peer.Entity.known() {
					bad(r.Path, "unknown entity %q", peer.Entity)
				}
			case PeerCIDR:
				if !peer.CIDR.IsValid() {
					bad(r.Path, "invalid CIDR")
				}
				for _, e := range peer.Except {
					if !e.IsValid() || !peer.CIDR.Overlaps(e) || e.Bits() < peer.CIDR.Bits() {
						bad(r.Path, "except %v is not inside %v", e, peer.CIDR)
					}
				}
			default:
				bad(r.Path, "unknown kind of peer %d", peer.Kind)
			}
		}
		for _, port := range r.Ports {
			if port.Protocol != 0 && port.Name == "" && port.First > port.Last {
				bad(r.Path, "ports %d-%d", port.First, port.Last)
			}
		}
	}
	return errors.Join(errs...)
}

func (e Entity) known() bool {
	switch e {
	case EntityAll, EntityWorld, EntityWorldIPv4, EntityWorldIPv6, EntityCluster, EntityClusterMesh, EntityHost, EntityRemoteNode,
		EntityKubeAPIServer, EntityHealth, EntityInit, EntityIngress, EntityUnmanaged, EntityNone:
		return true
	}
	return false
}

// compiler is the state of one compileImage.
type compiler struct {
	policies []Policy
	options  Options
	n        *numbering
	all      *population
	locals   *population
	meanings []*meaning

	peerClass []uint16 // number → peer class
	peerCount int
	ports     *portSpace
	stamp     []int32 // scratch of classesOf
	mark      int32

	lists  listPool
	rules  []compiledRule
	byRule map[ruleRef]int32
	out    writer
	costs  []rowCost

	portParts, peerParts partition
}

// ruleRef names a compiledRule: a rule, without its named ports, or one named port of it resolved to a range.
type ruleRef struct {
	policy, rule int32
	port         int32 // which of the rule's, from 1; 0: those without a name
	resolved     portRange
}

// compiledRule is a rule in terms of classes. Both lists come from the compiler's listPool.
type compiledRule struct {
	tier       Tier
	action     Action
	audit      bool // of a policy under audit
	standing   bool // gives way to every other allow
	number     uint16
	precedence precedence
	peers      *list
	ports      *list
}

// precedence orders the rules of an ordered tier. Policies are numbered in the order of their keys.
type precedence struct{ priority, policy, rule int32 }

func (p precedence) before(q precedence) bool {
	return cmp.Or(cmp.Compare(p.priority, q.priority), cmp.Compare(p.policy, q.policy), cmp.Compare(p.rule, q.rule)) < 0
}

// list is a set of classes; all stands for every one. Equal sets are the same pointer.
type list struct {
	all     bool
	members []int32 // ascending
	id      int32
}

type listPool map[string]*list

func (p listPool) get(all bool, members []int32) *list {
	if all {
		members = nil
	}
	key := make([]byte, 0, 1+4*len(members))
	if all {
		key = append(key, 'a')
	}
	for _, m := range members {
		key = binary.LittleEndian.AppendUint32(key, uint32(m))
	}
	if l, ok := p[string(key)]; ok {
		return l
	}
	l := &list{all, members, int32(len(p))}
	p[string(key)] = l
	return l
}

// compileImage compiles policies for the identities that n defines.
func compileImage(node string, policies []Policy, options Options, n *numbering, memo *memo) (*Image, error) {
	c := &compiler{
		policies: policies, options: options, n: n, meanings: memo.meaningsOf(policies, n.identities),
		lists: listPool{}, byRule: map[ruleRef]int32{},
	}
	c.all, c.locals = memo.populations(n.identities)
	if err := c.divide(); err != nil {
		return nil, fmt.Errorf("compile: %w", err)
	}
	limit := cmp.Or(n.maxImage, DefaultMaxImage)
	identities, written, err := c.rows(limit)
	if err != nil {
		return nil, fmt.Errorf("compile: %w", err)
	}
	if written > limit {
		return nil, fmt.Errorf("compile: %w", c.tooLarge(written, limit))
	}
	k := newKeys(node, policies, options, n)
	bytes, err := c.out.image(n.generation, identities, c.ports, k, &memo.packed)
	if err != nil {
		return nil, fmt.Errorf("compile: %w", err)
	}
	if len(bytes) > limit {
		return nil, fmt.Errorf("compile: %w", c.tooLarge(len(bytes), limit))
	}
	return &Image{bytes: bytes, keys: k}, nil
}

func hostPeer() Peer { return Peer{Kind: PeerEntity, Entity: EntityHost} }
