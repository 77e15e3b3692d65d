// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"errors"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestSeedDecodes(t *testing.T) {
	o, err := ReadDir("testdata/seed")
	if err != nil {
		t.Fatal(err)
	}
	if len(o.Workloads.Deployments) != 2 || len(o.CiliumNetworkPolicies) != 1 {
		t.Fatalf("decoded %d deployments and %d policies, want 2 and 1", len(o.Workloads.Deployments), len(o.CiliumNetworkPolicies))
	}
	p := o.CiliumNetworkPolicies[0]
	if got := name("CiliumNetworkPolicy", p) + " from " + o.Origin(p).String(); got != "CiliumNetworkPolicy default/frontend-to-backend from frontend-to-backend-policy.yaml document 1" {
		t.Error(got)
	}
	if p.Spec.Ingress[0].FromEndpoints == nil || p.Spec.Ingress[0].FromCIDR != nil {
		t.Error("a list that is there must not be nil, one that is not must be")
	}
}

// The file has every field of the spec of Cilium 1.20's CustomResourceDefinition once, with values that are nonsense but of
// the right type: complaints may be about values, never about fields.
func TestEveryFieldOfCiliumIsKnown(t *testing.T) {
	data, err := os.ReadFile("testdata/cilium-1.20-fields.json")
	if err != nil {
		t.Fatal(err)
	}
	_, err = Decode("fields.json", data)
	if err == nil {
		t.Fatal("nonsense was accepted")
	}
	for _, line := range strings.Split(err.Error(), "\n") {
		if strings.Contains(line, "unknown field") || strings.Contains(line, "must be a ") || strings.Contains(line, "decoded") {
			t.Error(line)
		}
	}
	if !strings.Contains(err.Error(), "specs[0].ingress[0].toPorts[0].listener: not possible at ingress") {
		t.Errorf("the values were not looked at: %v", err)
	}
}

// policyDoc is a NetworkPolicy called web with the given spec, in flow style.
func policyDoc(spec string) string {
	return "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web}\nspec: " + spec + "\n"
}

func ciliumDoc(spec string) string {
	return "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: web}\nspec: " + spec + "\n"
}

func podDoc(name, rest string) string {
	return "apiVersion: v1\nkind: Pod\nmetadata: {name: " + name + "}\n" + rest + "\n"
}

// rule is a Cilium policy for all pods with one ingress rule.
func ciliumIngress(rule string) string {
	return ciliumDoc("{endpointSelector: {}, ingress: [" + rule + "]}")
}

func ciliumEgress(rule string) string {
	return ciliumDoc("{endpointSelector: {}, egress: [" + rule + "]}")
}

func TestRefusedByName(t *testing.T) {
	const np, cnp = "m.yaml document 1: NetworkPolicy default/web: ", "m.yaml document 1: CiliumNetworkPolicy default/web: "
	tests := []struct{ name, manifest, want string }{
		{"unknown field", ciliumIngress("{fromEndpoint: [{}]}"), cnp + "spec.ingress[0].fromEndpoint: unknown field, did you mean fromEndpoints?"},
		{"unknown field like none", policyDoc("{podSelector: {}, zzz: 1}"), np + "spec.zzz: unknown field, remove it"},
		{"field of the wrong letter case", policyDoc("{podselector: {}}"), np + "spec.podselector: unknown field, did you mean podSelector?"},
		{"unknown field beside the spec", "apiVersion: v1\nkind: Namespace\nmetadata: {name: a, label: {}}\n", "m.yaml document 1: Namespace a: metadata.label: unknown field, did you mean labels?"},
		{"wrong type", policyDoc("{podSelector: {}, ingress: {}}"), np + "spec.ingress: is an object, must be a list"},
		{"wrong type of a label", podDoc("a", "spec: {nodeSelector: {x: yes}}"), "m.yaml document 1: Pod default/a: spec.nodeSelector[x]: is true, must be a string; quote it"},
		{"number out of its type's range", policyDoc("{podSelector: {}, ingress: [{ports: [{port: 1, endPort: 3000000000}]}]}"), np + "spec.ingress[0].ports[0].endPort: 3000000000 is out of range"},
		{"half a policy that ends in blank peers", policyDoc("\n  podSelector: {}\n  ingress:\n  - from: # whom?\n\n"), np + "spec.ingress[0].from: has no value; give it one or leave the field out"},
		{"half a policy that ends in a blank item", policyDoc("\n  podSelector: {}\n  ingress:\n  -"), np + "spec.ingress[0]: has no value; give it one or leave the field out"},
		{"blank peer", policyDoc("{podSelector: {}, ingress: [{from: [{podSelector: }]}]}"), np + "spec.ingress[0].from[0]: names no peer; write podSelector, namespaceSelector or ipBlock"},
		{"blank Cilium peers", ciliumIngress("{fromEndpoints: }"), cnp + "spec.ingress[0].fromEndpoints: has no value; give it one or leave the field out"},
		{"duplicate key", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  name: b\n", "m.yaml document 1: Pod default/b: not valid YAML: line 5: key \"name\" given twice"},
		{"duplicate key, counted from the top of the file", "---\n# a\n---\napiVersion: v1\nkind: Pod\nkind: Pod\n", "m.yaml document 1: Pod: not valid YAML: line 6: key \"kind\" given twice"},
		{"half a document", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: a\n  na", "m.yaml document 1: not valid YAML: line 6: could not find expected ':'"},
		{"half a JSON document", `{"apiVersion": "v1", "kind": "Pod", "metadata": {"na`, "m.yaml document 1: not valid JSON: unexpected EOF"},
		{"duplicate JSON key", `{"apiVersion":"v1","kind":"Pod","metadata":{"name":"a","name":"b"}}`, "m.yaml document 1: Pod default/b: metadata.name: field given twice, keep one"},
		{"no object", "- a\n", "m.yaml document 1: document: is a list, must be an object"},
		{"no kind", "apiVersion: v1\nmetadata: {name: a}\n", "m.yaml document 1: a: kind: missing, every object must have it"},
		{"no name", "apiVersion: v1\nkind: Pod\n", "m.yaml document 1: Pod: metadata.name: missing, every object must have one"},
		{"bad name", podDoc("A", ""), `m.yaml document 1: Pod default/A: metadata.name: "A": a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character (e.g. 'example.com', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?(\.[a-z0-9]([-a-z0-9]*[a-z0-9])?)*')`},
		{"namespace of a Node", "apiVersion: v1\nkind: Node\nmetadata: {name: a, namespace: b}\n", "m.yaml document 1: Node b/a: metadata.namespace: a Node belongs to no namespace, remove it"},
		{"unknown kind of a policy group", "apiVersion: networking.k8s.io/v1\nkind: NetworkPolcy\n", "m.yaml document 1: NetworkPolcy: kind: unknown kind of networking.k8s.io/v1, did you mean NetworkPolicy?"},
		{"policy kind that is not supported", "apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: a}\n", "m.yaml document 1: AdminNetworkPolicy a: kind: AdminNetworkPolicy of policy.networking.k8s.io/v1alpha1 is not supported, remove the object"},
		{"policy of another group", "apiVersion: crd.projectcalico.org/v1\nkind: GlobalNetworkPolicy\nmetadata: {name: a}\n", "m.yaml document 1: GlobalNetworkPolicy a: kind: GlobalNetworkPolicy of crd.projectcalico.org/v1 is not supported, remove the object"},
		{"old version of a policy", "apiVersion: extensions/v1beta1\nkind: NetworkPolicy\nmetadata: {name: a}\n", "m.yaml document 1: NetworkPolicy default/a: apiVersion: extensions/v1beta1 is not supported, write networking.k8s.io/v1"},
		{"wrong version", "apiVersion: cilium.io/v2alpha1\nkind: CiliumNetworkPolicy\nmetadata: {name: a}\n", "m.yaml document 1: CiliumNetworkPolicy default/a: apiVersion: cilium.io/v2alpha1 is not supported, write cilium.io/v2"},
		{"unknown core kind", "apiVersion: v1\nkind: Pdo\n", "m.yaml document 1: Pdo: kind: unknown kind of v1, did you mean Pod?"},
		{"item of a list", "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: Pod, metadata: {name: a}, spec: {hostNetwrk: true}}\n", "m.yaml document 1: Pod default/a: spec.hostNetwrk: unknown field, did you mean hostNetwork?"},
		{"item of a typed list", "apiVersion: v1\nkind: PodList\nitems:\n- {metadata: {name: a}, spec: {hostNetwrk: true}}\n", "m.yaml document 1: Pod default/a: spec.hostNetwrk: unknown field, did you mean hostNetwork?"},
		{"the same object twice", podDoc("a", "---") + podDoc("a", ""), "m.yaml document 2: Pod default/a: metadata.name: the same object is in m.yaml document 1 already, remove one"},

		{"two pods with one address", podDoc("a", "status: {podIP: 10.1.1.1}\n---") + podDoc("b", "status: {podIP: 10.1.1.1}"), "m.yaml document 2: Pod default/b: status.podIP: 10.1.1.1 belongs to Pod default/a (m.yaml document 1) already; remove the one that is out of date"},
		{"pod with a node's address", "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.1}]}\n---\n" + podDoc("b", "status: {podIP: 192.0.2.1}"), "m.yaml document 2: Pod default/b: status.podIP: 192.0.2.1 belongs to Node n1 (m.yaml document 1) already; remove the one that is out of date"},
		{"two nodes with one podCIDR", "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nspec: {podCIDR: 10.1.0.0/16}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: m}\nspec: {podCIDR: 10.1.2.0/24}\n", "m.yaml document 2: Node m: spec.podCIDRs[0]: 10.1.2.0/24 belongs to Node n1 (m.yaml document 1) already; remove the one that is out of date"},
		{"two nodes with one public-ip", "apiVersion: v1\nkind: Node\nmetadata: {name: n1}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.1}]}\n---\napiVersion: v1\nkind: Node\nmetadata: {name: n2, annotations: {flannel.alpha.coreos.com/public-ip: 192.0.2.1}}\n", "m.yaml document 2: Node n2: metadata.annotations[flannel.alpha.coreos.com/public-ip]: 192.0.2.1 belongs to Node n1 (m.yaml document 1) already; remove the one that is out of date"},
		{"bad podIP", podDoc("a", "status: {podIP: 10.1.1.256}"), `m.yaml document 1: Pod default/a: status.podIP: "10.1.1.256" is not an IP address such as 192.0.2.1 or 2001:db8::1`},
		{"two addresses of a family", podDoc("a", "status: {podIPs: [{ip: 10.1.1.1}, {ip: 10.1.1.2}]}"), "m.yaml document 1: Pod default/a: status.podIPs[1].ip: 10.1.1.2 is a second address of its family, at most one of each"},
		{"bad container port", podDoc("a", "spec: {containers: [{name: c, ports: [{containerPort: 0}]}]}"), "m.yaml document 1: Pod default/a: spec.containers[0].ports[0].containerPort: 0 is not a port, must be 1 to 65535"},
		{"bad flannel data", "apiVersion: v1\nkind: Node\nmetadata: {name: n1, annotations: {flannel.alpha.coreos.com/backend-data: '{\"VNI\":1,\"VtepMAC\":\"01:00:5e:00:53:01\"}'}}\n", `m.yaml document 1: Node n1: metadata.annotations[flannel.alpha.coreos.com/backend-data]: VtepMAC "01:00:5e:00:53:01" is not the MAC of a device`},
		{"bad public-ip", "apiVersion: v1\nkind: Node\nmetadata: {name: n1, annotations: {flannel.alpha.coreos.com/public-ip: x}}\n", `m.yaml document 1: Node n1: metadata.annotations[flannel.alpha.coreos.com/public-ip]: "x" is not an IP address`},
		{"endpoint of the wrong family", "apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: s}\naddressType: IPv4\nendpoints: [{addresses: ['2001:db8::1']}]\n", "m.yaml document 1: EndpointSlice default/s: endpoints[0].addresses[0]: 2001:db8::1 is not of addressType IPv4"},
		{"bad clusterIP", "apiVersion: v1\nkind: Service\nmetadata: {name: s}\nspec: {clusterIP: none}\n", `m.yaml document 1: Service default/s: spec.clusterIP: "none" is not an IP address such as 192.0.2.1 or 2001:db8::1`},
		{"workload that does not select its pods", "apiVersion: apps/v1\nkind: Deployment\nmetadata: {name: d}\nspec: {selector: {matchLabels: {a: b}}, template: {}}\n", "m.yaml document 1: Deployment default/d: spec.selector: does not match spec.template.metadata.labels"},

		{"policy without a spec", "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: web}\n", np + "spec: missing; write spec: {podSelector: {}} to isolate every pod of the namespace"},
		{"policy with a blank spec", policyDoc(""), np + "spec: missing; write spec: {podSelector: {}} to isolate every pod of the namespace"},
		{"bad CIDR", policyDoc("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/33}}]}]}"), np + `spec.ingress[0].from[0].ipBlock.cidr: "10.0.0.0/33" is not a CIDR such as 192.0.2.0/24 or 2001:db8::/64`},
		{"CIDR without a mask", policyDoc("{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.0.0.1}}]}]}"), np + `spec.egress[0].to[0].ipBlock.cidr: "10.0.0.1" has no mask, write 10.0.0.1/32`},
		{"CIDR with leading zeros", policyDoc("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 010.0.0.0/8}}]}]}"), np + `spec.ingress[0].from[0].ipBlock.cidr: "010.0.0.0/8" is not a CIDR such as 192.0.2.0/24 or 2001:db8::/64`},
		{"except outside", policyDoc("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [11.0.0.0/16]}}]}]}"), np + "spec.ingress[0].from[0].ipBlock.except[0]: 11.0.0.0/16 must lie inside cidr 10.0.0.0/8 and be smaller"},
		{"except of everything", policyDoc("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8, except: [10.0.0.0/8]}}]}]}"), np + "spec.ingress[0].from[0].ipBlock.except[0]: 10.0.0.0/8 must lie inside cidr 10.0.0.0/8 and be smaller"},
		{"ipBlock with selector", policyDoc("{podSelector: {}, ingress: [{from: [{podSelector: {}, ipBlock: {cidr: 10.0.0.0/8}}]}]}"), np + "spec.ingress[0].from[0]: ipBlock cannot be combined with selectors; make it an entry of its own"},
		{"empty peer", policyDoc("{podSelector: {}, ingress: [{from: [{}]}]}"), np + "spec.ingress[0].from[0]: names no peer; write podSelector, namespaceSelector or ipBlock"},
		{"endPort without port", policyDoc("{podSelector: {}, ingress: [{ports: [{endPort: 5}]}]}"), np + "spec.ingress[0].ports[0].endPort: needs port, where the range begins"},
		{"endPort after a name", policyDoc("{podSelector: {}, ingress: [{ports: [{port: http, endPort: 5}]}]}"), np + `spec.ingress[0].ports[0].endPort: needs a numeric port, not the name "http"`},
		{"endPort below port", policyDoc("{podSelector: {}, ingress: [{ports: [{port: 6, endPort: 5}]}]}"), np + "spec.ingress[0].ports[0].endPort: 5 is below port 6"},
		{"port out of range", policyDoc("{podSelector: {}, ingress: [{ports: [{port: 65536}]}]}"), np + "spec.ingress[0].ports[0].port: 65536 is not a port, must be 1 to 65535"},
		{"number as a port name", policyDoc(`{podSelector: {}, ingress: [{ports: [{port: "80"}]}]}`), np + `spec.ingress[0].ports[0].port: "80": must contain at least one letter (a-z)`},
		{"unknown protocol", policyDoc("{podSelector: {}, ingress: [{ports: [{protocol: ICMP}]}]}"), np + `spec.ingress[0].ports[0].protocol: unknown protocol "ICMP", must be TCP, UDP or SCTP`},
		{"unknown policy type", policyDoc("{podSelector: {}, policyTypes: [ingress]}"), np + `spec.policyTypes[0]: unknown type "ingress", must be Ingress or Egress`},
		{"selector operator", policyDoc("{podSelector: {matchExpressions: [{key: a, operator: in, values: [b]}]}}"), np + `spec.podSelector.matchExpressions[0].operator: Invalid value: "in": not a valid selector operator`},
		{"selector without values", policyDoc("{podSelector: {matchExpressions: [{key: a, operator: In}]}}"), np + "spec.podSelector.matchExpressions[0].values: Required value: must be specified when `operator` is 'In' or 'NotIn'"},

		{"no rule at all", ciliumDoc("{endpointSelector: {}, ingress: []}"), cnp + "spec: has no rule in ingress, ingressDeny, egress or egressDeny; to deny everything write ingress: [{}]"},
		{"no subject", ciliumDoc("{ingress: [{}]}"), cnp + "spec.endpointSelector: missing; {} selects every pod"},
		{"neither spec nor specs", "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: web}\n", cnp + "spec: missing; write spec or specs"},
		{"one bad spec of several", "apiVersion: cilium.io/v2\nkind: CiliumNetworkPolicy\nmetadata: {name: web}\nspecs: [{endpointSelector: {}, ingress: [{}]}, {endpointSelector: {}}]\n", cnp + "specs[1]: has no rule in ingress, ingressDeny, egress or egressDeny; to deny everything write ingress: [{}]"},
		{"nodeSelector in a namespace", ciliumDoc("{nodeSelector: {}, ingress: [{}]}"), cnp + "spec.nodeSelector: needs a CiliumClusterwideNetworkPolicy"},
		{"two ways to name peers", ciliumIngress("{fromEndpoints: [{}], fromCIDR: [10.0.0.0/8]}"), cnp + "spec.ingress[0]: combines fromEndpoints and fromCIDR; a rule may name its peers in one way only, make them rules of their own"},
		{"Cilium CIDR without a mask", ciliumIngress("{fromCIDR: [10.0.0.1]}"), cnp + `spec.ingress[0].fromCIDR[0]: "10.0.0.1" has no mask, write 10.0.0.1/32`},
		{"Cilium except outside", ciliumIngress("{fromCIDRSet: [{cidr: 10.0.0.0/8, except: [11.0.0.0/16]}]}"), cnp + "spec.ingress[0].fromCIDRSet[0].except[0]: 11.0.0.0/16 must lie inside cidr 10.0.0.0/8"},
		{"group without CIDRs", "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: g}\nspec: {}\n", "m.yaml document 1: CiliumCIDRGroup g: spec.externalCIDRs: missing; [] is a group of nothing"},
		{"group with a bad CIDR", "apiVersion: cilium.io/v2alpha1\nkind: CiliumCIDRGroup\nmetadata: {name: g}\nspec: {externalCIDRs: [10.0.0.0/8, 10.0.0.1]}\n", `m.yaml document 1: CiliumCIDRGroup g: spec.externalCIDRs[1]: "10.0.0.1" has no mask, write 10.0.0.1/32`},
		{"group in a namespace", "apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: g, namespace: a}\nspec: {externalCIDRs: []}\n", "m.yaml document 1: CiliumCIDRGroup a/g: metadata.namespace: a CiliumCIDRGroup belongs to no namespace, remove it"},
		{"group of another version", "apiVersion: cilium.io/v3\nkind: CiliumCIDRGroup\nmetadata: {name: g}\nspec: {externalCIDRs: []}\n", "m.yaml document 1: CiliumCIDRGroup g: apiVersion: cilium.io/v3 is not supported, write cilium.io/v2"},
		{"source in a selector of groups", ciliumIngress("{fromCIDRSet: [{cidrGroupSelector: {matchLabels: {'k8s:role': vpn}}}]}"), cnp + `spec.ingress[0].fromCIDRSet[0].cidrGroupSelector.matchLabels: Invalid value: "k8s:role": name part must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character (e.g. 'MyName',  or 'my.name',  or '123-abc', regex used for validation is '([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]')`},
		{"exception from a group", ciliumIngress("{fromCIDRSet: [{cidrGroupRef: g, except: [10.0.0.0]}]}"), cnp + `spec.ingress[0].fromCIDRSet[0].except[0]: "10.0.0.0" has no mask, write 10.0.0.0/32`},
		{"DNS rules without ports", ciliumEgress("{toPorts: [{rules: {dns: [{matchPattern: '*'}]}}]}"), cnp + "spec.egress[0].toPorts[0].ports: missing; DNS rules need the port, 53"},
		{"DNS rules on a range", ciliumEgress("{toPorts: [{ports: [{port: '53', endPort: 54}], rules: {dns: [{matchPattern: '*'}]}}]}"), cnp + "spec.egress[0].toPorts[0].ports[0].endPort: not possible with dns rules"},
		{"HTTP rules on every port", ciliumIngress("{toPorts: [{ports: [{port: '0', protocol: TCP}], rules: {http: [{}]}}]}"), cnp + "spec.ingress[0].toPorts[0].ports[0].port: cannot be every port where http or dns rules are"},
		{"server names with HTTP rules", ciliumIngress("{toPorts: [{ports: [{port: '80', protocol: TCP}], serverNames: [a.example], rules: {http: [{}]}}]}"), cnp + "spec.ingress[0].toPorts[0].serverNames: needs terminatingTLS where http or dns rules are"},
		{"listener with HTTP rules", ciliumEgress("{toPorts: [{ports: [{port: '80', protocol: TCP}], listener: {envoyConfig: {name: a}, name: b}, rules: {http: [{}]}}]}"), cnp + "spec.egress[0].toPorts[0].listener: cannot be combined with http or dns rules"},
		{"HTTP rules for nodes", "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: web}\nspec: {nodeSelector: {}, ingress: [{toPorts: [{ports: [{port: '80', protocol: TCP}], rules: {http: [{}]}}]}]}\n", "m.yaml document 1: CiliumClusterwideNetworkPolicy web: spec.ingress[0].toPorts[0].rules.http: not possible in a policy for nodes"},
		{"CIDR and group", ciliumIngress("{fromCIDRSet: [{cidr: 10.0.0.0/8, cidrGroupRef: a}]}"), cnp + "spec.ingress[0].fromCIDRSet[0]: needs exactly one of cidr, cidrGroupRef and cidrGroupSelector"},
		{"unknown entity", ciliumIngress("{fromEntities: [wrld]}"), cnp + `spec.ingress[0].fromEntities[0]: unknown entity "wrld", did you mean world?`},
		{"requirements", ciliumIngress("{fromRequires: [{matchLabels: {a: b}}]}"), cnp + "spec.ingress[0].fromRequires: gone since Cilium 1.19; put the requirements into the peers' selectors"},
		{"icmps with toPorts", ciliumIngress(`{toPorts: [{ports: [{port: "1"}]}], icmps: [{fields: [{type: 8}]}]}`), cnp + "spec.ingress[0].icmps: cannot be combined with toPorts; make it a rule of its own"},
		{"ICMP type out of range", ciliumIngress("{icmps: [{fields: [{type: 256}]}]}"), cnp + "spec.ingress[0].icmps[0].fields[0].type: 256 is no ICMP type of that family, a number from 0 to 255 or a name such as EchoRequest"},
		{"ICMP name of the other family", ciliumIngress("{icmps: [{fields: [{type: PacketTooBig}]}]}"), cnp + "spec.ingress[0].icmps[0].fields[0].type: PacketTooBig is no ICMP type of that family, a number from 0 to 255 or a name such as EchoRequest"},
		{"unquoted port", ciliumIngress("{toPorts: [{ports: [{port: 80}]}]}"), cnp + "spec.ingress[0].toPorts[0].ports[0].port: is 80, must be a string; quote it"},
		{"port above 65535", ciliumIngress(`{toPorts: [{ports: [{port: "65536"}]}]}`), cnp + `spec.ingress[0].toPorts[0].ports[0].port: "65536" is neither a number up to 65535 nor the name of a port`},
		{"no port", ciliumIngress(`{toPorts: [{ports: [{protocol: TCP}]}]}`), cnp + `spec.ingress[0].toPorts[0].ports[0].port: missing; "0" stands for every port`},
		{"ICMP as a protocol", ciliumIngress(`{toPorts: [{ports: [{port: "1", protocol: ICMP}]}]}`), cnp + `spec.ingress[0].toPorts[0].ports[0].protocol: unknown protocol "ICMP", must be TCP, UDP, SCTP or ANY; ICMP goes into icmps`},
		{"bad key", ciliumIngress(`{fromEndpoints: [{matchLabels: {"a:b:c": d}}]}`), cnp + `spec.ingress[0].fromEndpoints[0].matchLabels: "a:b:c": a key is NAME or SOURCE:NAME`},
		{"bad operator", ciliumIngress(`{fromEndpoints: [{matchExpressions: [{key: a, operator: Like}]}]}`), cnp + `spec.ingress[0].fromEndpoints[0].matchExpressions[0].operator: unknown operator "Like", must be In, NotIn, Exists or DoesNotExist`},
		{"L7 in a deny rule", ciliumDoc(`{endpointSelector: {}, ingressDeny: [{toPorts: [{rules: {http: [{}]}}]}]}`), cnp + "spec.ingressDeny[0].toPorts[0].rules: unknown field, remove it"},
		{"DNS rule at ingress", ciliumIngress(`{toPorts: [{ports: [{port: "53"}], rules: {dns: [{matchPattern: "*"}]}}]}`), cnp + "spec.ingress[0].toPorts[0].rules.dns: not possible at ingress"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			_, err := Decode("m.yaml", []byte(test.manifest))
			if err == nil {
				t.Fatal("accepted")
			}
			if err.Error() != test.want {
				t.Errorf("\n got %s\nwant %s", err, test.want)
			}
		})
	}
}

func TestEveryMistakeIsNamed(t *testing.T) {
	_, err := decode([]file{
		{"a.yaml", []byte(policyDoc("{podSelector: {}, ingres: [], polcyTypes: []}") + "---\n" + podDoc("p", "status: {podIP: x}"))},
		{"b.yaml", []byte(podDoc("q", "spec: {hostNetwork: 1}"))},
	})
	want := `a.yaml document 1: NetworkPolicy default/web: spec.ingres: unknown field, did you mean ingress?
a.yaml document 1: NetworkPolicy default/web: spec.polcyTypes: unknown field, did you mean policyTypes?
a.yaml document 2: Pod default/p: status.podIP: "x" is not an IP address such as 192.0.2.1 or 2001:db8::1
b.yaml document 1: Pod default/q: spec.hostNetwork: is 1, must be true or false`
	if err == nil || err.Error() != want {
		t.Errorf("got\n%v\nwant\n%s", err, want)
	}
}

func TestAccepted(t *testing.T) {
	tests := []struct {
		name, manifest string
		pods           int
	}{
		{"nothing but comments", "# a\n---\n# b\n", 0},
		{"markers, directive, byte order mark, no final newline", "\xef\xbb\xbf%YAML 1.1\n--- # first\n" + podDoc("a", "...") + "---\n" + strings.TrimSpace(podDoc("b", "")), 2},
		{"JSON, several documents, tabs", "{\n\t\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"a\"}}\n{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"b\"}}", 2},
		{"YAML that begins with a brace", "{apiVersion: v1, kind: Pod, metadata: {name: a}}\n", 1},
		{"JSON between YAML's markers", "{\"apiVersion\": \"v1\", \"kind\": \"Pod\", \"metadata\": {\"name\": \"a\"}}\n---\n" + podDoc("b", ""), 2},
		{"blanks in a NetworkPolicy", policyDoc("\n  podSelector:\n    matchLabels:\n  ingress:\n  policyTypes: [Ingress]") + "---\n" + podDoc("a", ""), 1},
		{"list in a list", "apiVersion: v1\nkind: List\nitems:\n- {apiVersion: v1, kind: PodList, items: [{metadata: {name: a}}]}\n", 1},
		{"kinds of no use", "apiVersion: v1\nkind: Secret\nmetadata: {name: a}\nwhat: ever\n---\napiVersion: cert-manager.io/v1\nkind: Certificate\n---\napiVersion: networking.k8s.io/v1\nkind: Ingress\n", 0},
		{"null where the API server takes it", "apiVersion: v1\nkind: Pod\nmetadata: {name: a, creationTimestamp: null}\nspec: {volumes: [{name: v, emptyDir: }]}\n", 1},
		{"one address, one pod finished", podDoc("a", "status: {podIP: 10.1.1.1, phase: Failed}\n---") + podDoc("b", "status: {podIP: 10.1.1.1}"), 2},
		{"one address, pods of the host", podDoc("a", "spec: {hostNetwork: true}\nstatus: {podIP: 10.1.1.1}\n---") + podDoc("b", "spec: {hostNetwork: true}\nstatus: {podIP: 10.1.1.1}"), 2},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			o, err := Decode("m.yaml", []byte(test.manifest))
			if err != nil {
				t.Fatal(err)
			}
			if test.name == "kinds of no use" && strings.Join(o.Skipped, ", ") != "Secret a (m.yaml document 1), Certificate (m.yaml document 2), Ingress (m.yaml document 3)" {
				t.Errorf("skipped %q", o.Skipped)
			}
			if len(o.Pods) != test.pods {
				t.Errorf("%d pods, want %d", len(o.Pods), test.pods)
			}
		})
	}
}

func TestDirectoryRefused(t *testing.T) {
	tests := []struct {
		name string
		make func(dir string)
		want string // DIR stands for the directory
	}{
		{"missing", func(dir string) { os.Remove(dir) }, "read manifests: stat DIR: no such file or directory"},
		{"not a directory", func(dir string) { os.Remove(dir); os.WriteFile(dir, nil, 0o644) }, "read manifests: DIR is not a directory"},
		{"dangling link", func(dir string) { os.Symlink("nowhere", dir+"/a.yaml") }, "read manifests: stat DIR/a.yaml: no such file or directory"},
		{"not a file", func(dir string) { os.Symlink("/dev/null", dir+"/a.yaml") }, "read manifest a.yaml: not a regular file"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			dir := filepath.Join(t.TempDir(), "manifests")
			if err := os.Mkdir(dir, 0o755); err != nil {
				t.Fatal(err)
			}
			test.make(dir)
			_, err := ReadDir(dir)
			if err == nil || strings.ReplaceAll(err.Error(), dir, "DIR") != test.want {
				t.Errorf("\n got %v\nwant %s", err, test.want)
			}
		})
	}
}

func TestLiveManifestsMayBeWrittenByNobodyElse(t *testing.T) {
	const others = 65534
	tests := []struct {
		name string
		mode os.FileMode // of the directory, or of its file a.yaml
		uid  int
		gid  int
		want string // contained in the agent's refusal; empty: none
	}{
		{"root's alone", 0o700, 0, 0, ""},
		{"writable by root's group", 0o775, 0, 0, ""},
		{"readable by another group", 0o755, 0, others, ""},
		{"writable by another group", 0o775, 0, others, "mode 0775 and group 65534: others may write to it; chmod g-w it"},
		{"writable by all", 0o757, 0, 0, "mode 0757: others may write to it; chmod o-w it"},
		{"another owner's", 0o755, others, 0, "another owner: others may write to it; chown it"},
	}
	for _, test := range tests {
		for _, target := range []string{"", "/a.yaml"} {
			t.Run(test.name+target, func(t *testing.T) {
				dir := t.TempDir()
				if err := os.WriteFile(dir+"/a.yaml", []byte(podDoc("a", "")), 0o644); err != nil {
					t.Fatal(err)
				}
				if err := errors.Join(os.Chmod(dir, 0o755), os.Chown(dir+target, test.uid, test.gid), os.Chmod(dir+target, test.mode)); err != nil {
					t.Fatal(err)
				}
				_, _, err := readFiles(dir, true)
				if test.want == "" && err != nil || test.want != "" && (!errors.Is(err, ErrUntrusted) || !strings.Contains(err.Error(), test.want)) {
					t.Errorf("agent: got %v, want %q", err, test.want)
				}
				if o, err := ReadDir(dir); err != nil || len(o.Pods) != 1 { // decides nothing, so anything readable will do
					t.Errorf("check: %v", err)
				}
			})
		}
	}
}

func TestLiveFileOpenForWritingIsRefused(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.yaml")
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := readFile(path, false); err != nil {
		t.Errorf("not live, while open for writing: %v", err)
	}
	if _, err := readFile(path, true); err == nil || err.Error() != "some process has it open for writing: it is being written" {
		t.Errorf("while open for writing: %v", err)
	}
	f.Close()
	if _, err := readFile(path, true); err != nil {
		t.Errorf("after it was closed: %v", err)
	}
}

func TestServiceName(t *testing.T) {
	for name, want := range map[string]bool{"": false, "1": false, "1a": true, "Z": true, "a-9": true, "a--9": false, "-a9": false, "a9-": false,
		"1-a-9": true, "1-2-3": false, "0x10": true, "a_b": false, "abcdefghijklmno": true, "abcdefghijklmnop": false} {
		if isServiceName(name) != want {
			t.Errorf("%q: %v, want %v", name, !want, want)
		}
	}
}

func TestOnlyManifestsAreRead(t *testing.T) {
	dir := t.TempDir()
	for _, name := range []string{"b.yml", "a.yaml", "c.json", ".a.yaml", "a.yaml~", ".#a.yaml", "#a.yaml#", "a.yaml.swp", "README.md", "d.YAML"} {
		text := "not a manifest"
		if name[1:2] == "." {
			text = `{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": "` + name + `"}}` + "\n"
		}
		if name == "d.YAML" || name == ".#a.yaml" {
			text = "not a manifest"
		}
		if err := os.WriteFile(filepath.Join(dir, name), []byte(text), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Mkdir(filepath.Join(dir, "sub.yaml"), 0o755); err != nil {
		t.Fatal(err)
	}
	o, err := ReadDir(dir)
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for _, p := range o.Pods {
		names = append(names, p.Name)
	}
	if got := strings.Join(names, " "); got != "a.yaml b.yml c.json" {
		t.Errorf("read %s", got)
	}
}

// BenchmarkDecode reads a cluster of 1,000 pods and 1,000 policies.
func BenchmarkDecode(b *testing.B) {
	var text strings.Builder
	for i := range 1000 {
		name := "p" + strconv.Itoa(i)
		text.WriteString(podDoc(name, "spec: {containers: [{name: c, ports: [{name: http, containerPort: 80}]}]}\n---"))
		text.WriteString(strings.Replace(policyDoc("{podSelector: {matchLabels: {app: a}}, ingress: [{from: [{podSelector: {}}], ports: [{port: 80}]}]}"), "web", name, 1) + "---\n")
	}
	for b.Loop() {
		if _, err := Decode("m.yaml", []byte(text.String())); err != nil {
			b.Fatal(err)
		}
	}
}

func FuzzDecode(f *testing.F) {
	for _, dir := range []string{"testdata/seed"} {
		entries, err := os.ReadDir(dir)
		if err != nil {
			f.Fatal(err)
		}
		for _, e := range entries {
			data, err := os.ReadFile(filepath.Join(dir, e.Name()))
			if err != nil {
				f.Fatal(err)
			}
			f.Add(data)
		}
	}
	f.Add([]byte(policyDoc("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}], ports: [{port: 1, endPort: 2}]}]}")))
	f.Add([]byte("apiVersion: v1\nkind: Node\nmetadata: {name: n1, annotations: {flannel.alpha.coreos.com/backend-data: '{}'}}\nspec: {podCIDR: 10.1.0.0/24}\n---\n" + podDoc("a", "spec: {nodeName: n1}\nstatus: {podIP: 10.1.0.2}")))
	f.Add([]byte(clusterDoc("{tier: Admin, priority: 5, subject: {namespaces: {}}, egress: [{action: Deny, to: [{networks: ['::/0']}, {nodes: {}}, {}]}]}")))
	f.Add([]byte(`{"apiVersion":"v1","kind":"List","items":[{"apiVersion":"v1","kind":"Service","metadata":{"name":"s"},"spec":{"clusterIP":"10.96.0.1"}}]}`))
	f.Fuzz(func(t *testing.T, data []byte) {
		o, err := Decode("m.yaml", data)
		if err != nil {
			return
		}
		// What decodes can be expanded, and what is expanded can be translated.
		expanded := Expand(o)
		if _, _, err := Translate(expanded, expanded.Nodes[0].Name, Options{}); err != nil {
			t.Errorf("translate what was decoded and expanded: %v", err)
		}
	})
}
