// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"errors"
	"net/netip"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"
)

// claimed is a mirror of one pod, default/web, that is told of by the API and by the plugin in turns.
type claimed struct {
	t *testing.T
	podMirror
	answers chan error
	number  int64
}

func newClaimed(t *testing.T) *claimed {
	return &claimed{t: t, podMirror: newPodMirror(), answers: make(chan error, 10)}
}

func (m *claimed) api(uid, hash string, addrs ...string) {
	p := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "web", UID: types.UID(uid)}}
	if hash != "" {
		p.Annotations = map[string]string{configHash: hash}
	}
	p.Spec.NodeName = "n0"
	for _, a := range addrs {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: a})
	}
	m.put(newPodObject(p))
}

func (m *claimed) plugin(uid, container string, addrs ...string) {
	c := PodClaim{Namespace: "default", Name: "web", UID: uid, ContainerID: container}
	for _, a := range addrs {
		c.Addrs = append(c.Addrs, netip.MustParseAddr(a))
	}
	m.number++
	m.claim(c, m.number, m.answers)
}

func (m *claimed) want(what string, addrs ...string) {
	m.t.Helper()
	var got []string
	if r := m.records[podID{"default", "web"}]; r != nil {
		for _, a := range r.Addrs {
			got = append(got, a.String())
		}
	}
	if !slices.Equal(got, addrs) {
		m.t.Errorf("%s: the pod has %v, want %v", what, got, addrs)
	}
	for _, a := range addrs {
		if h := m.holders[netip.MustParseAddr(a)]; h == nil || h.Name != "web" {
			m.t.Errorf("%s: %s is held by %v", what, a, h)
		}
	}
	if len(m.holders) != len(addrs) {
		m.t.Errorf("%s: holders %v", what, m.holders)
	}
}

// A node that has lost power, or a sandbox that has died: the API still says the address before.
func TestANewSandboxIsNewerThanTheAPIsWord(t *testing.T) {
	m := newClaimed(t)
	m.api("u", "", "10.1.0.1")
	m.want("by the API", "10.1.0.1")
	m.plugin("u", "c2", "10.1.0.2")
	m.want("made anew", "10.1.0.2")
	m.api("u", "", "10.1.0.1")
	m.want("the API says the old word again", "10.1.0.2")
	m.api("u", "")
	m.want("the API takes it back", "10.1.0.2")
	m.api("u", "", "10.1.0.2")
	m.want("the API has caught up", "10.1.0.2")
	m.api("u", "", "10.1.0.3")
	m.want("the API knows better", "10.1.0.3")
	m.plugin("u", "c3", "10.1.0.4")
	m.unclaim(func(id string) bool { return id == "c3" })
	m.want("the container is gone", "10.1.0.3")
}

func TestAClaimThatTheAPIOvertakesIsNotConfirmed(t *testing.T) {
	m := newClaimed(t)
	m.api("u", "")
	m.plugin("u", "c1", "10.1.0.1")
	m.api("u", "", "10.1.0.9")
	m.want("the API's word", "10.1.0.9")
	if err := <-m.answers; !errors.Is(err, ErrOverruled) {
		t.Errorf("the claim ends with %v, want %v", err, ErrOverruled)
	}
}

// A static pod's UID is another to the kubelet than to the API.
func TestAStaticPodIsKnownByItsHash(t *testing.T) {
	m := newClaimed(t)
	m.plugin("hash", "c1", "10.1.0.1")
	m.api("u", "")
	m.want("another pod")
	m.api("u", "hash")
	m.want("the static pod's mirror", "10.1.0.1")
	m.api("u", "hash", "10.1.0.1")
	m.want("its mirror's word", "10.1.0.1")
}

func TestAClaimMayListAddressesInAnotherOrder(t *testing.T) {
	m := newClaimed(t)
	m.api("u", "")
	m.plugin("u", "c1", "2001:db8::1", "10.1.0.1", "10.1.0.2")
	m.want("one of each family", "2001:db8::1", "10.1.0.1")
	m.api("u", "", "10.1.0.1", "2001:db8::1")
	m.want("in the API's words", "10.1.0.1", "2001:db8::1")
	if len(m.claims) != 1 {
		t.Error("the claim is gone though its container is not")
	}
}
