// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"slices"
	"testing"

	corev1 "k8s.io/api/core/v1"
	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	"sigs.k8s.io/yaml"
)

const (
	ciliumNodesPath = "/apis/cilium.io/v2/ciliumnodes"
	blocksPath      = "/apis/crd.projectcalico.org/v1/blockaffinities"
)

// nodeIs waits until what is enforced knows this of a node: underlay addresses, overlay addresses, podCIDRs and MAC.
func (s *scene) nodeIs(name, want string) {
	s.Helper()
	s.eventually(name+" as "+want, func() bool {
		n := s.shadow.nodes[name]
		return fmt.Sprintf("%v %v %v %x", n.Underlay, n.Overlay, n.PodCIDRs, n.VTEPMAC) == want
	})
}

func (s *scene) nodeStatuses(want ...string) {
	s.Helper()
	s.eventually(fmt.Sprintf("statuses %v", want), func() bool {
		got := []string{}
		for _, status := range s.updates[len(s.updates)-1].Statuses {
			if status.Reason == ReasonInvalid {
				got = append(got, status.Object+" "+status.Path)
			}
		}
		return slices.Equal(got, want)
	})
}

func custom(t *testing.T, text string) *unstructured.Unstructured {
	t.Helper()
	u := &unstructured.Unstructured{Object: map[string]any{}}
	if err := yaml.Unmarshal([]byte(text), &u.Object); err != nil {
		t.Fatal(err)
	}
	return u
}

// What one node says wrongly, or of another, concerns nobody else; what CNIs say in objects of their own counts as soon as
// such objects can be.
func TestWatcherNodeFacts(t *testing.T) {
	s := newScene(t, "")
	annotated := func(name string, i int, annotations map[string]string) *corev1.Node {
		n := testNode(name, i)
		n.Annotations = annotations
		return n
	}
	const vtep = flannelPrefix + "backend-data"
	s.api.Put(nodesPath, annotated("n1", 1, map[string]string{vtep: `{"VtepMAC":"00:00:5e:00:53:01"}`}))
	s.run()
	const before = "[192.0.2.2] [10.1.1.0 10.1.1.1] [10.1.1.0/24] 00005e005301"
	s.nodeIs("n1", before)
	s.nodeStatuses()

	s.api.Put(nodesPath, annotated("n2", 2, map[string]string{vtep: "{", AnnotationUnderlayIPs: "192.0.2.2", AnnotationPodCIDRs: "10.1.1.64/26"}))
	s.nodeIs("n2", "[] [] [] 000000000000")
	s.nodeIs("n1", before)
	s.nodeStatuses("Node n2 metadata.annotations["+vtep+"]", "Node n2 metadata.annotations["+AnnotationUnderlayIPs+"]", "Node n2 metadata.annotations["+AnnotationPodCIDRs+"]")
	s.api.Put(podsPath, testPod("web", "n2", "10.1.2.5", corev1.PodRunning))
	s.podAt("default/web", "10.1.2.5")

	s.api.Put(nodesPath, annotated("n2", 2, map[string]string{vtep: `{"VtepMAC":"00:00:5e:00:53:02"}`}))
	s.nodeIs("n2", "[192.0.2.3] [10.1.2.0 10.1.2.1] [10.1.2.0/24] 00005e005302")
	s.nodeStatuses()

	s.api.Define(ciliumNodesPath, "CiliumNode")
	s.api.Define(blocksPath, "BlockAffinity")
	s.api.Put(ciliumNodesPath, custom(t, "apiVersion: cilium.io/v2\nkind: CiliumNode\nmetadata: {name: n1}\n"+
		"spec: {addresses: [{type: CiliumInternalIP, ip: 10.0.1.7}], ipam: {podCIDRs: [10.0.1.0/24], pools: {}}, health: {ipv4: 10.0.1.9}}\nstatus: {ipam: {}}"))
	s.api.Put(blocksPath, custom(t, "apiVersion: crd.projectcalico.org/v1\nkind: BlockAffinity\nmetadata: {name: n0-a}\nspec: {cidr: 10.9.0.0/26, node: n0, state: confirmed, deleted: \"false\"}"))
	s.api.Put(crdPath, definition("ciliumnodes.cilium.io"), definition("blockaffinities.crd.projectcalico.org"))
	s.nodeIs("n1", "[192.0.2.2] [10.0.1.7] [10.0.1.0/24] 000000000000")
	s.nodeIs("n0", "[192.0.2.1] [] [10.9.0.0/26] 000000000000")
	s.api.Delete(ciliumNodesPath, "n1", false)
	s.nodeIs("n1", before)
	s.api.Delete(crdPath, "blockaffinities.crd.projectcalico.org", false)
	s.nodeIs("n0", "[192.0.2.1] [10.1.0.0 10.1.0.1] [10.1.0.0/24] 000000000000")
}
