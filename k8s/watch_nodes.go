// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"maps"
	"net/netip"
	"reflect"
	"slices"
	"strings"

	corev1 "k8s.io/api/core/v1"
	discoveryv1 "k8s.io/api/discovery/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/policy"
)

// nodeMirror is the nodes. They say who owns what, all together, so a change of one is a look at all.
type nodeMirror struct {
	objects map[string]*corev1.Node
	blocks  map[string]*BlockAffinity
	ciliums map[string]*CiliumNode
	api     map[string]*discoveryv1.EndpointSlice // of the API server's Service
	gone    bool                                  // our own Node is not in the API any more
	facts   factCache

	dirty    bool
	statuses []Status
	owners   map[netip.Addr]string // who has which address
	taken    map[netip.Addr]bool   // those that no pod can have
	assumed  map[netip.Addr]bool   // those that are a node's unless a pod has them
}

func newNodeMirror() nodeMirror {
	return nodeMirror{objects: map[string]*corev1.Node{}, blocks: map[string]*BlockAffinity{}, ciliums: map[string]*CiliumNode{}, facts: factCache{},
		api: map[string]*discoveryv1.EndpointSlice{}, dirty: true}
}

// maxAnnotation bounds the annotations of nodes that are looked at; none that says where a node is comes near.
const maxAnnotation = 4096

// saysWhere says whether a Node's annotation may tell something about it as a member of the overlay. The others change all the
// time.
func saysWhere(key string) bool {
	return key == k3sInternalIP || strings.HasPrefix(key, calicoPrefix) || strings.HasPrefix(key, annotationPrefix) || flannelSays(key)
}

// newNodeObject is what is kept of a Node.
func newNodeObject(n *corev1.Node) *corev1.Node {
	out := &corev1.Node{}
	out.Name, out.UID, out.CreationTimestamp = n.Name, n.UID, n.CreationTimestamp
	out.Labels = make(map[string]string, len(n.Labels))
	for k, v := range n.Labels {
		out.Labels[intern(k)] = intern(v)
	}
	for k, v := range n.Annotations {
		if saysWhere(k) && len(v) <= maxAnnotation {
			metav1.SetMetaDataAnnotation(&out.ObjectMeta, intern(k), intern(v))
		}
	}
	out.Spec.PodCIDR, out.Spec.PodCIDRs = n.Spec.PodCIDR, n.Spec.PodCIDRs
	for _, a := range n.Status.Addresses {
		if a.Type == corev1.NodeInternalIP {
			out.Status.Addresses = append(out.Status.Addresses, a)
		}
	}
	return out
}

func (m *mirror) putNode(n *corev1.Node) {
	if n.Name == m.node {
		m.nodes.gone = false
	}
	if old := m.nodes.objects[n.Name]; old == nil || !reflect.DeepEqual(old, n) {
		m.nodes.objects[n.Name], m.nodes.dirty = n, true
	}
}

// removeNode forgets a node, but not our own: as long as we run on it, its pods are there and stay guarded.
func (m *mirror) removeNode(name string) {
	switch {
	case m.nodes.objects[name] == nil:
	case name == m.node:
		m.nodes.gone, m.nodes.dirty = true, true
	default:
		delete(m.nodes.objects, name)
		m.nodes.dirty = true
	}
}

// flushNodes finds out anew whose every address is, if anything that tells has changed.
func (m *mirror) flushNodes(c *policy.Changes) {
	for addr := range m.pods.moved {
		m.nodes.dirty = m.nodes.dirty || m.nodes.assumed[addr]
		if m.asked[addr] {
			m.concerned |= dependsServices
		}
	}
	renew(&m.pods.moved)
	if !m.nodes.dirty {
		return
	}
	m.nodes.dirty = false
	t := m.translator()
	for _, name := range slices.Sorted(maps.Keys(m.nodes.objects)) {
		t.objects.Nodes = append(t.objects.Nodes, m.nodes.objects[name])
	}
	for _, name := range slices.Sorted(maps.Keys(m.nodes.blocks)) {
		t.objects.BlockAffinities = append(t.objects.BlockAffinities, m.nodes.blocks[name])
	}
	for _, name := range slices.Sorted(maps.Keys(m.nodes.ciliums)) {
		t.objects.CiliumNodes = append(t.objects.CiliumNodes, m.nodes.ciliums[name])
	}
	for _, s := range m.nodes.api {
		t.objects.EndpointSlices = append(t.objects.EndpointSlices, s)
	}
	t.nodes()
	if m.nodes.gone {
		t.status("Node "+m.node, "", ReasonUnresolved, "the Node is not in the API any more; what it said last stays in force as long as the agent runs on it")
	}
	taken, assumed, owners := map[netip.Addr]bool{}, map[netip.Addr]bool{}, map[netip.Addr]string{}
	for i := range t.model.Nodes {
		for _, addr := range t.model.Nodes[i].Underlay {
			taken[addr], owners[addr] = true, t.model.Nodes[i].Name
		}
	}
	for i := range t.model.Nodes {
		n := &t.model.Nodes[i]
		var kept []netip.Addr
		for _, addr := range n.Overlay {
			assumed[addr] = true
			if r := m.pods.holders[addr]; r == nil || taken[addr] || r.Node == "" || !m.placed(r) {
				kept, owners[addr] = append(kept, addr), n.Name
			}
		}
		n.Overlay = kept
	}
	m.displace(taken, owners)
	m.nodes.taken, m.nodes.assumed, m.nodes.owners = taken, assumed, owners
	if !slices.Equal(m.nodes.statuses, t.statuses) {
		m.nodes.statuses, m.statusDirty = t.statuses, true
	}
	before := m.model
	m.model = t
	if m.nodeChanges(c, before.model.Nodes, t.model.Nodes) || !slices.Equal(before.apiServer, t.apiServer) {
		m.concerned |= dependsNodes | dependsServices
	}
}

// displace notes the pods that lose or win an address to or from a node, or whose node has come or gone.
func (m *mirror) displace(taken map[netip.Addr]bool, owners map[netip.Addr]string) {
	touch := func(addr netip.Addr) {
		if r := m.pods.holders[addr]; r != nil {
			m.pods.dirty[podID{r.Namespace, r.Name}] = true
		}
		for _, r := range m.pods.contested[addr] {
			m.pods.dirty[podID{r.Namespace, r.Name}] = true
		}
	}
	for addr := range taken {
		if !m.nodes.taken[addr] || m.nodes.owners[addr] != owners[addr] {
			touch(addr)
		}
	}
	for addr := range m.nodes.taken {
		if !taken[addr] {
			touch(addr)
		}
	}
	known := make(map[string]bool, len(m.model.model.Nodes))
	for i := range m.model.model.Nodes {
		known[m.model.model.Nodes[i].Name] = true
	}
	moved := map[string]bool{} // nodes that have come or gone
	for name := range m.nodes.objects {
		if !known[name] {
			moved[name] = true
		}
	}
	for name := range known {
		if m.nodes.objects[name] == nil {
			moved[name] = true
		}
	}
	if len(moved) == 0 {
		return
	}
	for id, r := range m.pods.records {
		if moved[r.Node] {
			m.pods.dirty[id] = true
		}
	}
}

// nodeChanges says which nodes are new or say something else, and which are gone; both lists are sorted.
func (m *mirror) nodeChanges(c *policy.Changes, before, after []policy.Node) (any bool) {
	i, j := 0, 0
	for i < len(before) || j < len(after) {
		switch {
		case j == len(after) || i < len(before) && before[i].Name < after[j].Name:
			c.GoneNodes = append(c.GoneNodes, before[i].Name)
			i++
		case i == len(before) || after[j].Name < before[i].Name:
			c.NodesChanged = append(c.NodesChanged, after[j])
			j++
		default:
			if !reflect.DeepEqual(before[i], after[j]) {
				c.NodesChanged = append(c.NodesChanged, after[j])
			}
			i++
			j++
		}
	}
	return len(c.NodesChanged)+len(c.GoneNodes) > 0
}
