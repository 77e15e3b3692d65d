// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"hash/maphash"
	"net/netip"
	"slices"
	"strings"
	"unique"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"

	"github.com/weirnet/weir/policy"
)

// podObject is what is kept of a Pod: a cluster has many, and most of a Pod is of no use to policy.
type podObject struct {
	policy.Pod                     // but for the labels; Addrs are those that the API says
	own          map[string]string // the pod's own labels, as policy knows them
	account      string
	created      int64  // seconds
	hash         string // of a static pod's configuration
	hostNetwork  bool
	finished     bool
	misaddressed string // why status.podIPs is not read; empty: it is
}

// GetObjectMeta lets a reflector tell pods apart.
func (p *podObject) GetObjectMeta() metav1.Object {
	return &metav1.ObjectMeta{Namespace: p.Namespace, Name: p.Name}
}

func newPodObject(p *corev1.Pod) *podObject {
	out := &podObject{created: p.CreationTimestamp.Unix(), hash: p.Annotations[configHash], hostNetwork: p.Spec.HostNetwork,
		finished: p.Status.Phase == corev1.PodSucceeded || p.Status.Phase == corev1.PodFailed}
	out.Namespace, out.Name, out.UID, out.Node = intern(p.Namespace), p.Name, string(p.UID), intern(p.Spec.NodeName)
	if out.hostNetwork || out.finished {
		return out
	}
	out.own = make(map[string]string, len(p.Labels))
	for k, v := range p.Labels {
		out.own[intern(ownKey(k))] = intern(v)
	}
	out.account = intern(accountOf(p))
	out.Ports = namedPorts(p)
	for i := range out.Ports {
		out.Ports[i].Name = intern(out.Ports[i].Name)
	}
	var spare []netip.Addr
	if out.Addrs, spare = oneOfEach(podAddrs(p)); len(spare) > 0 {
		out.misaddressed = fmt.Sprintf("%s is a second address of its family; it is not the pod's to policy", spare[len(spare)-1])
	}
	return out
}

// configHash is the annotation by which a mirror pod names the static pod that it is of.
const configHash = "kubernetes.io/config.hash"

// oneOfEach is the first address of each family; spare are the others.
func oneOfEach(addrs []netip.Addr) (firsts, spare []netip.Addr) {
	var families [2]bool
	for _, addr := range addrs {
		addr = addr.Unmap().WithZone("")
		family := 0
		if addr.Is6() {
			family = 1
		}
		if families[family] {
			spare = append(spare, addr)
			continue
		}
		families[family] = true
		firsts = append(firsts, addr)
	}
	return firsts, spare
}

// intern is one string for equal ones, as long as somebody has it.
func intern(s string) string { return unique.Make(s).Value() }

// podRecord is a pod in the mirror.
type podRecord struct {
	policy.Pod // Labels are those of set; Addrs those that the pod claims, by the API's word or else by its plugin's
	created    int64
	set        *labelSet
	claim      *claim   // nil: the API's word holds
	rare       *podRare // nil: nothing of it
	listed     bool     // policy knows of it, since the last flush
}

// podRare is what few pods have.
type podRare struct {
	said    []netip.Addr // by the API, if that is not what Addrs says
	trouble string       // with what it says
	hash    string       // what the kubelet calls a static pod
}

// said are the addresses that the API says.
func (r *podRecord) said() []netip.Addr {
	if r.claim == nil || r.rare == nil {
		return r.Addrs
	}
	return r.rare.said
}

func (r *podRecord) trouble() string {
	if r.rare == nil {
		return ""
	}
	return r.rare.trouble
}

func (r *podRecord) hash() string {
	if r.rare == nil {
		return ""
	}
	return r.rare.hash
}

func newPodRare(said []netip.Addr, trouble, hash string, c *claim) *podRare {
	if c == nil && trouble == "" && hash == "" {
		return nil
	}
	return &podRare{said, trouble, hash}
}

type podID struct{ namespace, name string }

// podMirror is the pods, and who has which address.
type podMirror struct {
	records   map[podID]*podRecord
	sets      map[uint64]*labelSet // by hash
	seed      maphash.Seed
	portLists map[string][]policy.NamedPort
	holders   map[netip.Addr]*podRecord   // the one of those that claim an address who has it
	contested map[netip.Addr][]*podRecord // where several do
	claims    map[podID]*claim            // that the API has not caught up with
	dirty     map[podID]bool
	gone      map[podID]bool      // those that policy knows and are no more
	moved     map[netip.Addr]bool // addresses that may have another holder than at the last flush
	statuses  map[podID][]Status
	labelsOf  map[string]map[string]string // of namespaces
}

func newPodMirror() podMirror {
	return podMirror{records: map[podID]*podRecord{}, sets: map[uint64]*labelSet{}, seed: maphash.MakeSeed(), portLists: map[string][]policy.NamedPort{},
		holders: map[netip.Addr]*podRecord{}, contested: map[netip.Addr][]*podRecord{}, claims: map[podID]*claim{}, dirty: map[podID]bool{}, gone: map[podID]bool{}, moved: map[netip.Addr]bool{},
		statuses: map[podID][]Status{}, labelsOf: map[string]map[string]string{}}
}

// put notes a pod as the API has it now. It says whether anything about it has changed that policy can see.
func (m *podMirror) put(p *podObject) bool {
	id := podID{p.Namespace, p.Name}
	if p.hostNetwork || p.finished {
		return m.remove(id)
	}
	old := m.records[id]
	c := m.claims[id]
	switch {
	case c == nil:
	case old != nil && c.UID != "" && old.UID == c.UID && p.UID != c.UID: // another pod has come under the name
		delete(m.claims, id)
		c.end(fmt.Errorf("pod %s/%s: %w", id.namespace, id.name, ErrPodGone))
		c = nil
	case !c.of(p.UID, p.hash): // of a pod that is yet to come
		c = nil
	case !c.holds(p.Addrs):
		m.overrule(id, c)
		c = nil
	}
	r := &podRecord{Pod: p.Pod, created: p.created, claim: c, rare: newPodRare(p.Addrs, p.misaddressed, p.hash, c)}
	if c != nil {
		r.Addrs = c.addrs(p.Addrs)
	}
	r.Ports = m.ports(p.Ports)
	r.set = m.labelSet(p)
	r.Labels = r.set.labels
	if old != nil {
		if old.set == r.set && old.UID == r.UID && old.Node == r.Node && old.created == r.created && old.trouble() == r.trouble() && old.claim == r.claim &&
			slices.Equal(old.Addrs, r.Addrs) && slices.Equal(old.Ports, r.Ports) {
			m.release(r.set)
			old.rare = r.rare
			return false
		}
		m.drop(old)
	}
	r.listed = old != nil && old.listed || m.gone[id]
	delete(m.gone, id)
	m.records[id] = r
	for _, addr := range r.Addrs {
		m.take(addr, r)
	}
	m.dirty[id] = true
	return true
}

// remove notes that a pod is gone, or has no address of its own.
func (m *podMirror) remove(id podID) bool {
	if c := m.claims[id]; c != nil {
		r := m.records[id]
		if r != nil && c.of(r.UID, r.hash()) {
			delete(m.claims, id)
			c.end(fmt.Errorf("pod %s/%s: %w", id.namespace, id.name, ErrPodGone))
		}
	}
	r := m.records[id]
	if r == nil {
		return false
	}
	delete(m.records, id)
	m.drop(r)
	if r.listed {
		m.gone[id] = true
	}
	m.dirty[id] = true
	return true
}

// drop takes a record's addresses and labels back.
func (m *podMirror) drop(r *podRecord) {
	for _, addr := range r.Addrs {
		m.give(addr, r)
	}
	m.release(r.set)
}

// take lets a pod claim an address. The newest of those that do has it: the address manager has given it away again, and
// the API has not heard yet that the pod before it is gone.
func (m *podMirror) take(addr netip.Addr, r *podRecord) {
	m.moved[addr] = true
	holder := m.holders[addr]
	if holder == nil {
		m.holders[addr] = r
		return
	}
	if m.contested[addr] == nil {
		m.contested[addr] = []*podRecord{holder}
	}
	m.contested[addr] = append(m.contested[addr], r)
	m.contest(addr)
}

func (m *podMirror) give(addr netip.Addr, r *podRecord) {
	m.moved[addr] = true
	rivals := m.contested[addr]
	if rivals == nil {
		if m.holders[addr] == r {
			delete(m.holders, addr)
		}
		return
	}
	m.contested[addr] = slices.DeleteFunc(rivals, func(other *podRecord) bool { return other == r })
	m.contest(addr)
}

// contest finds out whose a contested address is.
func (m *podMirror) contest(addr netip.Addr) {
	rivals := m.contested[addr]
	m.holders[addr] = slices.MaxFunc(rivals, comparePodAge)
	for _, r := range rivals {
		m.dirty[podID{r.Namespace, r.Name}] = true
	}
	if len(rivals) == 1 {
		delete(m.contested, addr)
	}
}

// comparePodAge orders pods by how likely they have an address now: a plugin's word is newer than all of the API's.
func comparePodAge(a, b *podRecord) int {
	claimed := func(r *podRecord) int64 {
		if r.claim != nil {
			return r.claim.number
		}
		return 0
	}
	switch {
	case claimed(a) != claimed(b):
		return int(claimed(a) - claimed(b))
	case a.created != b.created:
		return int(a.created - b.created)
	case a.UID != b.UID:
		return strings.Compare(a.UID, b.UID)
	}
	return comparePods(&a.Pod, &b.Pod)
}

// ports is one list for equal ones.
func (m *podMirror) ports(ports []policy.NamedPort) []policy.NamedPort {
	if len(ports) == 0 {
		return nil
	}
	key := fmt.Sprint(ports)
	if known, ok := m.portLists[key]; ok {
		return known
	}
	if len(m.portLists) >= maxPortLists {
		clear(m.portLists)
	}
	m.portLists[key] = ports
	return ports
}

// maxPortLists bounds what is kept of lists of ports that nobody may have any more.
const maxPortLists = 4096

// placed says whether the node that a pod runs on is known: before that, nobody knows which way leads there.
func (m *mirror) placed(r *podRecord) bool { return m.nodes.objects[r.Node] != nil }

// effective is what policy is to know of a pod; false if nothing.
func (m *mirror) effective(r *podRecord) (policy.Pod, bool) {
	pod := r.Pod
	if r.Node == "" || !m.placed(r) {
		return pod, false
	}
	lost := func(addr netip.Addr) bool { return m.pods.holders[addr] != r || m.nodes.taken[addr] }
	if slices.ContainsFunc(r.Addrs, lost) {
		pod.Addrs = slices.DeleteFunc(slices.Clone(r.Addrs), lost)
	}
	return pod, len(pod.Addrs) > 0
}

// flushPods says what has become of the pods that have changed.
func (m *mirror) flushPods(c *policy.Changes) {
	for id := range m.pods.dirty {
		r := m.pods.records[id]
		pod, there, listed := policy.Pod{}, false, m.pods.gone[id]
		if r != nil {
			pod, there = m.effective(r)
			listed, r.listed = r.listed, there
		}
		switch {
		case there:
			c.Pods = append(c.Pods, pod)
		case listed:
			c.GonePods = append(c.GonePods, id.namespace+"/"+id.name)
		}
		if statuses := m.podStatuses(r); !slices.Equal(statuses, m.pods.statuses[id]) {
			if m.statusDirty = true; len(statuses) == 0 {
				delete(m.pods.statuses, id)
			} else {
				m.pods.statuses[id] = statuses
			}
		}
	}
	renew(&m.pods.dirty)
	renew(&m.pods.gone)
	slices.SortFunc(c.Pods, func(a, b policy.Pod) int { return comparePods(&a, &b) })
	slices.Sort(c.GonePods)
}

// renew empties a map, and forgets its memory if that is much.
func renew[K comparable, V any](m *map[K]V) {
	const much = 1024
	if len(*m) > much {
		*m = map[K]V{}
	}
	clear(*m)
}

// podStatuses tells why a pod, or one of its addresses, is not guarded.
func (m *mirror) podStatuses(r *podRecord) []Status {
	if r == nil || len(r.Addrs) == 0 && r.trouble() == "" {
		return nil
	}
	object := "Pod " + r.Namespace + "/" + r.Name
	var out []Status
	if trouble := r.trouble(); trouble != "" {
		out = append(out, Status{object, "status.podIPs", ReasonInvalid, trouble})
	}
	if r.Node == "" || !m.placed(r) {
		return append(out, Status{object, "spec.nodeName", ReasonUnresolved,
			fmt.Sprintf("there is no Node %q; the pod's addresses are nobody's to policy until there is", r.Node)})
	}
	for _, addr := range r.Addrs {
		if m.nodes.taken[addr] {
			out = append(out, Status{object, "status.podIPs", ReasonInvalid,
				fmt.Sprintf("%s belongs to Node %s; it is not the pod's to policy", addr, m.nodes.owners[addr])})
		} else if holder := m.pods.holders[addr]; holder != r {
			out = append(out, Status{object, "status.podIPs", ReasonInvalid,
				fmt.Sprintf("%s belongs to pod %s now, which is newer; it is not this pod's to policy any more", addr, holder.Key())})
		}
	}
	return out
}
