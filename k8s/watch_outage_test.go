// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
)

// An API server that fails, forgets, or comes back with less than before, changes what is enforced only by what it says
// when it is there.
func TestWatcherOutage(t *testing.T) {
	for name, mode := range map[string]struct{ noStreams, forget, rewind bool }{
		"streamed": {}, "listed": {noStreams: true}, "forgotten": {forget: true}, "from a backup": {rewind: true},
	} {
		t.Run(name, func(t *testing.T) {
			s := newScene(t, "")
			if mode.noStreams {
				s.api.NoStreams()
			}
			s.api.Put(podsPath, testPod("web", "n0", "10.1.0.5", corev1.PodRunning), testPod("db", "n1", "10.1.1.5", corev1.PodRunning))
			s.api.Put(npPath, testPolicy("a"))
			s.run()
			s.podAt("default/web", "10.1.0.5")
			s.policies("NetworkPolicy default/a")
			addr := s.addr
			s.api.Stop()
			s.eventually("the outage to be noticed", func() bool { return len(s.watcher.State().Stale) > 0 })
			if state := s.watcher.State(); !state.Applied || state.Err != nil {
				t.Errorf("what was told is enforced, and the state is %+v", state)
			}
			s.mu.Lock()
			if len(s.shadow.pods) != 2 || len(s.shadow.policies) != 1 {
				t.Errorf("the API server is away, and with it pods %v, policies %v", s.shadow.pods, s.shadow.policies)
			}
			s.mu.Unlock()
			// Meanwhile a pod goes, and another comes under its address.
			s.api.Delete(podsPath, "default/db", true)
			s.api.Put(podsPath, testPod("other", "n1", "10.1.1.5", corev1.PodRunning))
			if mode.forget {
				s.api.Forget()
			}
			if mode.rewind {
				s.api.Rewind(900)
			}
			s.listen(addr)
			s.podAt("default/other", "10.1.1.5")
			if mode.forget || mode.noStreams || mode.rewind { // else the log does not say that it is gone, as no real one would
				s.podAt("default/db", "")
			}
			s.eventually("no complaint", func() bool { return len(s.watcher.State().Stale) == 0 })
		})
	}
}

// Nothing is enforced before everything is read: half of the policies would admit what the others deny.
func TestWatcherReadsEverythingFirst(t *testing.T) {
	s := newScene(t, "")
	s.api.Put(crdPath, definition("ciliumnetworkpolicies.cilium.io")) // defined, and not served yet
	s.run()
	time.Sleep(200 * time.Millisecond)
	s.mu.Lock()
	if len(s.updates) > 0 {
		t.Error("an Update without the policies that are not read yet")
	}
	s.mu.Unlock()
	s.api.Define(cnpPath, "CiliumNetworkPolicy")
	s.api.Put(cnpPath, testCNP(t, "b", "{endpointSelector: {}, ingress: [{}]}"))
	s.policies("CiliumNetworkPolicy default/b")
}
