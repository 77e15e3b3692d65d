// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	"k8s.io/apimachinery/pkg/apis/meta/v1/unstructured"
	strictjson "sigs.k8s.io/json"
	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/policy"
)

// salvaged is what becomes of an object: subject, isolation and rules of each of its policies, and the paths that are told.
func salvaged(t *testing.T, kind, namespace, spec string) (*policyObject, string) {
	t.Helper()
	r := newReader(kind)
	u := &unstructured.Unstructured{Object: treeOf(t, spec)}
	u.SetAPIVersion(r.kind.apiVersion)
	u.SetKind(kind)
	u.SetNamespace(namespace)
	u.SetName("x")
	p, err := r.policy(u)
	if err != nil {
		t.Fatal(err)
	}
	m := newMirror("n0", Options{})
	m.putNode(newNodeObject(testNode("n0", 0)))
	m.putPolicy(p)
	m.flush()
	var out []string
	for _, one := range m.list {
		text := fmt.Sprintf("%s in=%v out=%v", one.Subject, one.Isolates[policy.Ingress], one.Isolates[policy.Egress])
		for _, rule := range one.Rules {
			text += " | " + ruleText(rule)
		}
		out = append(out, text)
	}
	return p, strings.Join(out, " & ")
}

// treeOf is YAML in the types that a client of the API server gets: integers are no floats.
func treeOf(t *testing.T, text string) map[string]any {
	t.Helper()
	tree := map[string]any{}
	data, err := yaml.YAMLToJSON([]byte(text))
	if err == nil {
		err = strictjson.UnmarshalCaseSensitivePreserveInts(data, &tree)
	}
	if err != nil {
		t.Fatalf("%s: %v", text, err)
	}
	return tree
}

func TestSalvage(t *testing.T) {
	const cnp, ccnp, cluster, np = "CiliumNetworkPolicy", "CiliumClusterwideNetworkPolicy", "ClusterNetworkPolicy", "NetworkPolicy"
	for _, c := range []struct{ name, kind, spec, want, told string }{
		{"a rule with an unknown field", cnp, "spec: {endpointSelector: {}, ingress: [{fromEndpoint: [{}]}, {fromEntities: [host]}]}",
			"namespace=ns in=true out=false | spec.ingress[0] in allow [] [*] | spec.ingress[1] in allow [host] [*]", "spec.ingress[0].fromEndpoint"},
		{"a list that is none", cnp, "spec: {endpointSelector: {}, egress: {toEntities: [host]}}", "namespace=ns in=false out=true | spec.egress[0] out allow [] [*]", "spec.egress"},
		{"a deny rule", cnp, "spec: {endpointSelector: {}, ingressDeny: [{fromCIDR: [10.0.0.0/33]}]}", "namespace=ns in=true out=false | spec.ingressDeny[0] in deny [all] [*]", "spec.ingressDeny[0].fromCIDR[0]"},
		{"a field that is no rule", cnp, "spec: {endpointSelector: {matchLabels: {app: a}}, priority: 3, ingress: [{fromEntities: [all]}], egressDeny: [{toEntities: [world]}]}",
			"namespace=ns, app=a in=true out=true | spec.ingress[0] in allow [] [*] | spec.egressDeny[0] out deny [world] [*]", "spec.priority"},
		{"nobody knows what it asks", cnp, "spec: {endpointSelector: {matchLabels: {app: a}}, ingres: [{}]}",
			"namespace=ns, app=a in=true out=true | spec.ingress[0] in allow [] [*] | spec.egress[0] out allow [] [*]", "spec.ingres"},
		{"nor whom it selects", cnp, "spec: {endpointSelector: {matchLabel: {app: a}}, ingress: [{}]}", "namespace=ns in=true out=false | spec.ingress[0] in allow [] [*]", "spec.endpointSelector.matchLabel"},
		{"one of several specs", cnp, "specs: [{endpointSelector: {}, ingress: [{fromEntities: [host]}]}, {endpointSelector: {}, ingress: [{x: 1}]}]",
			"namespace=ns in=true out=false | specs[0].ingress[0] in allow [host] [*] & namespace=ns in=true out=false | specs[1].ingress[0] in allow [] [*]", "specs[1].ingress[0].x"},
		{"it is about nodes", cnp, "spec: {nodeSelector: {}, ingress: [{}]}", "", "spec.nodeSelector"},
		{"no spec at all", cnp, "spic: {}", "namespace=ns in=true out=true | spec.ingress[0] in allow [] [*] | spec.egress[0] out allow [] [*]", "spic"},
		{"a cluster-wide one", ccnp, "spec: {endpointSelector: {matchLabels: {app: a}}, ingress: [{x: 1}]}", "app=a in=true out=false | spec.ingress[0] in allow [] [*]", "spec.ingress[0].x"},
		{"a cluster-wide one of nobody knows whom", ccnp, "spec: {endpointSelector: {matchLabel: {app: a}}, ingress: [{}]}", "", "spec.endpointSelector.matchLabel"},
		{"an action that is none", cluster, "spec: {tier: Admin, priority: 1, subject: {namespaces: {}}, ingress: [{action: Wave, from: [{namespaces: {}}]}, {action: Accept, from: [{namespaces: {}}]}]}",
			"anything in=false out=false | spec.ingress[0] in deny [any] [*] | spec.ingress[1] in allow [{}] [*]", "spec.ingress[0].action"},
		{"a tier that is none", cluster, "spec: {tier: Chief, priority: 1, subject: {namespaces: {}}, ingress: [{action: Deny, from: [{namespaces: {}}]}]}", "", "spec.tier"},
		{"a field of the whole", cluster, "spec: {tier: Admin, priority: 1, weight: 2, subject: {namespaces: {}}, ingress: [{action: Accept, from: [{namespaces: {}}]}]}",
			"anything in=false out=false | spec.ingress[0] in allow [] [*]", "spec.weight"},
		{"a block that is none", np, "spec: {podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0}}]}, {from: [{podSelector: {}}]}]}",
			"namespace=ns in=true out=false | spec.ingress[0] in allow [{namespace=ns weir+ weir-}] [*] | spec.ingress[1] in allow [{namespace=ns}] [*]", "spec.ingress[0].from[0].ipBlock.cidr"},
	} {
		namespace := "ns"
		if c.kind == ccnp || c.kind == cluster {
			namespace = ""
		}
		p, got := salvaged(t, c.kind, namespace, c.spec)
		if got != c.want {
			t.Errorf("%s:\n got %s\nwant %s\n%v", c.name, got, c.want, p.refused)
		}
		if !slices.ContainsFunc(p.refused, func(s Status) bool { return s.Path == c.told && s.Reason == ReasonRefused }) {
			t.Errorf("%s: told is %v, want %s", c.name, p.refused, c.told)
		}
	}
}

// Whatever stands in an object, it is read, or is told to be nothing that can be; and one that is right is not mended.
func TestSalvageTakesAnything(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	u := rand.New(rand.NewPCG(seed, 1))
	specs := map[string]string{
		"CiliumNetworkPolicy":            "spec: {endpointSelector: {matchLabels: {app: a}}, ingress: [{fromEndpoints: [{}], toPorts: [{ports: [{port: '80'}]}]}], egressDeny: [{toCIDR: [10.0.0.0/8]}], enableDefaultDeny: {ingress: false}}",
		"CiliumClusterwideNetworkPolicy": "specs: [{endpointSelector: {}, ingress: [{fromEntities: [all]}]}, {nodeSelector: {}, ingress: [{}]}]",
		"ClusterNetworkPolicy":           "spec: {tier: Baseline, priority: 1, subject: {pods: {namespaceSelector: {}, podSelector: {}}}, egress: [{action: Accept, to: [{networks: [10.0.0.0/8]}], protocols: [{tcp: {destinationPort: {number: 80}}}]}]}",
		"NetworkPolicy":                  "spec: {podSelector: {}, policyTypes: [Ingress, Egress], ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]}",
	}
	for kind, spec := range specs {
		namespace := "ns"
		if strings.HasPrefix(kind, "C") && kind != "CiliumNetworkPolicy" {
			namespace = ""
		}
		if p, _ := salvaged(t, kind, namespace, spec); p.object == nil || len(p.refused) > 0 {
			t.Errorf("%s that is right is refused: %v", kind, p.refused)
		}
		for range 400 {
			tree := treeOf(t, spec)
			for range 1 + u.IntN(2) {
				spoil(u, tree)
			}
			text, err := yaml.Marshal(tree)
			if err != nil {
				t.Fatal(err)
			}
			func() {
				defer func() {
					if r := recover(); r != nil {
						t.Fatalf("seed %d: %s %s: %v", seed, kind, text, r)
					}
				}()
				if p, _ := salvaged(t, kind, namespace, string(text)); p.object == nil && len(p.refused) == 0 {
					t.Errorf("seed %d: %s is not enforced, and nobody is told:\n%s", seed, kind, text)
				}
			}()
		}
	}
}

// spoil puts something else in the place of some value.
func spoil(u *rand.Rand, tree any) {
	other := func() any {
		return []any{nil, "x", int64(-1), true, []any{}, map[string]any{}, []any{nil}, []any{map[string]any{"x": "y"}}, map[string]any{"x": []any{}}}[u.IntN(9)]
	}
	switch v := tree.(type) {
	case map[string]any:
		keys := sorted(v)
		if len(keys) == 0 || u.IntN(8) == 0 {
			v["strange"] = other()
			return
		}
		key := keys[u.IntN(len(keys))]
		if u.IntN(4) == 0 {
			v[key] = other()
			return
		}
		spoil(u, v[key])
	case []any:
		if len(v) > 0 {
			if i := u.IntN(len(v)); u.IntN(4) == 0 {
				v[i] = other()
			} else {
				spoil(u, v[i])
			}
		}
	}
}
