// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"errors"
	"fmt"
	"strings"
	"testing"

	"github.com/weirnet/weir/policy"
)

const nodes = `apiVersion: v1
kind: Node
metadata: {name: n1, labels: {zone: own}}
spec: {podCIDR: 10.1.0.0/24}
status: {addresses: [{type: InternalIP, address: 192.0.2.1}]}
---
apiVersion: v1
kind: Node
metadata: {name: n2}
spec: {podCIDR: 10.1.1.0/24}
status: {addresses: [{type: InternalIP, address: 192.0.2.2}]}
---
`

func translate(t *testing.T, manifest string, opts Options) (*policy.Model, []Status) {
	t.Helper()
	o, err := Decode("m.yaml", []byte(nodes+manifest))
	if err != nil {
		t.Fatal(err)
	}
	m, statuses, err := Translate(o, "n1", opts)
	if err != nil {
		t.Fatal(err)
	}
	return m, statuses
}

// The functions below write policies in one line each, so that a table can hold them.

func selectorText(s policy.Selector) string {
	var parts []string
	for _, r := range s {
		key := strings.NewReplacer(labelNamespaceLabel, "ns:", labelNamespace, "namespace").Replace(r.Key)
		parts = append(parts, key+[]string{"=", "!=", "+", "-"}[r.Op]+strings.Join(r.Values, "|"))
	}
	return "{" + strings.Join(parts, " ") + "}"
}

func peerText(p policy.Peer) string {
	switch p.Kind {
	case policy.PeerAny:
		return "any"
	case policy.PeerSelector:
		return selectorText(p.Selector)
	case policy.PeerEntity:
		return string(p.Entity)
	}
	text := p.CIDR.String()
	for _, e := range p.Except {
		text += "-" + e.String()
	}
	if p.MatchPods && p.MatchNodes {
		text += "+inside"
	} else if p.MatchPods || p.MatchNodes {
		text += "+some"
	}
	return text
}

func portText(p policy.PortMatch) string {
	if p == policy.AnyPort {
		return "*"
	}
	text := fmt.Sprintf("%d:%d", p.Protocol, p.First)
	switch {
	case p.Name != "" && p.RangeTo != 0:
		return fmt.Sprintf("%d:%s-%d", p.Protocol, p.Name, p.RangeTo)
	case p.Name != "":
		return fmt.Sprintf("%d:%s", p.Protocol, p.Name)
	case p.First != p.Last:
		text += fmt.Sprintf("-%d", p.Last)
	}
	return text
}

func ruleText(r policy.Rule) string {
	var peers, ports []string
	for _, p := range r.Peers {
		peers = append(peers, peerText(p))
	}
	for _, p := range r.Ports {
		ports = append(ports, portText(p))
	}
	return fmt.Sprintf("%s %s %s [%s] [%s]", r.Path, []string{"in", "out"}[r.Direction], r.Action,
		strings.Join(peers, ", "), strings.Join(ports, " "))
}

func policyText(p policy.Policy) string {
	isolates := ""
	for direction, text := range []string{"I", "E"} {
		if p.Isolates[direction] {
			isolates += text
		}
	}
	lines := []string{fmt.Sprintf("%s %s %s", p.Key, selectorText(p.Subject), isolates)}
	for _, r := range p.Rules {
		lines = append(lines, ruleText(r))
	}
	return strings.Join(lines, "\n")
}

func TestNetworkPolicy(t *testing.T) {
	const head = "NetworkPolicy default/web "
	tests := []struct{ name, spec, want string }{
		{"types missing, no egress rule", "{podSelector: {}}", head + "{namespace=default} I"},
		{"types missing, an egress rule", "{podSelector: {}, egress: [{}]}", head + "{namespace=default} IE\nspec.egress[0] out allow [any] [*]"},
		{"types missing, egress empty", "{podSelector: {}, egress: []}", head + "{namespace=default} I"},
		{"rules of a type not named have no effect", "{podSelector: {}, policyTypes: [Egress], ingress: [{}]}", head + "{namespace=default} E"},
		{"selector", "{podSelector: {matchLabels: {b: '', a: x}, matchExpressions: [{key: c, operator: NotIn, values: [p, q]}, {key: d, operator: DoesNotExist}]}}",
			head + "{namespace=default a=x b= c!=p|q d-} I"},
		{"empty rule admits everything", "{podSelector: {}, ingress: [{}]}", head + "{namespace=default} I\nspec.ingress[0] in allow [any] [*]"},
		{"empty lists in a rule are no limit", "{podSelector: {}, ingress: [{from: [], ports: []}]}", head + "{namespace=default} I\nspec.ingress[0] in allow [any] [*]"},
		{"peers", "{podSelector: {}, ingress: [{from: [{podSelector: {}}, {podSelector: {matchLabels: {a: b}}}, {namespaceSelector: {}}, " +
			"{namespaceSelector: {matchLabels: {t: a}}, podSelector: {matchLabels: {c: d}}}]}]}",
			head + "{namespace=default} I\nspec.ingress[0] in allow [{namespace=default}, {namespace=default a=b}, {}, {ns:t=a c=d}] [*]"},
		{"ipBlock", "{podSelector: {}, egress: [{to: [{ipBlock: {cidr: 10.9.9.9/8, except: [10.1.0.0/16, 10.2.0.0/16]}}, {ipBlock: {cidr: '2001:db8::/32'}}]}]}",
			head + "{namespace=default} IE\nspec.egress[0] out allow [10.0.0.0/8-10.1.0.0/16-10.2.0.0/16+inside, 2001:db8::/32+inside] [*]"},
		{"ports", "{podSelector: {}, ingress: [{ports: [{}, {port: 80}, {protocol: UDP, port: 8000, endPort: 8100}, {protocol: SCTP}, {port: http}]}]}",
			head + "{namespace=default} I\nspec.ingress[0] in allow [any] [6:0-65535 6:80 17:8000-8100 132:0-65535 6:http]"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m, statuses := translate(t, policyDoc(test.spec), Options{})
			if got := policyText(m.Policies[0]); got != test.want {
				t.Errorf("\n got %s\nwant %s", got, test.want)
			}
			if len(statuses) > 0 {
				t.Errorf("statuses %v", statuses)
			}
		})
	}
	m, _ := translate(t, policyDoc("{podSelector: {}, ingress: [{from: [{ipBlock: {cidr: 10.0.0.0/8}}]}]}"), Options{IPBlockCilium: true})
	if got := peerText(m.Policies[0].Rules[0].Peers[0]); got != "10.0.0.0/8" {
		t.Errorf("ipBlock read as Cilium does: %s", got)
	}
}

func TestCiliumSpec(t *testing.T) {
	const head = "CiliumNetworkPolicy default/web {namespace=default} "
	const in, out = head + "I\nspec.ingress[0] in allow ", head + "E\nspec.egress[0] out allow "
	tests := []struct{ name, manifest, want string }{
		{"empty rule only isolates", ciliumIngress("{}"), in + "[] [*]"},
		{"empty list of rules is no section", ciliumDoc("{endpointSelector: {}, ingress: [], egress: [{}]}"), out + "[] [*]"},
		{"deny alone isolates", ciliumDoc("{endpointSelector: {}, ingressDeny: [{fromEntities: [world]}]}"), head + "I\nspec.ingressDeny[0] in deny [world] [*]"},
		{"default deny switched off", ciliumDoc("{endpointSelector: {}, enableDefaultDeny: {ingress: false}, ingress: [{}], egress: [{}]}"),
			head + "E\nspec.ingress[0] in allow [] [*]\nspec.egress[0] out allow [] [*]"},
		{"default deny switched on without rules", ciliumDoc("{endpointSelector: {}, enableDefaultDeny: {egress: true, ingress: true}, ingress: [{}]}"), in + "[] [*]"},

		{"peers missing, with ports: anyone", ciliumIngress(`{toPorts: [{ports: [{port: "80", protocol: TCP}]}]}`), in + "[any] [6:80]"},
		{"peers missing, with icmps: anyone", ciliumIngress(`{icmps: [{fields: [{type: 8}]}]}`), in + "[any] [1:8]"},
		{"empty list of peers: no one", ciliumIngress(`{fromEndpoints: [], toPorts: [{ports: [{port: "80", protocol: TCP}]}]}`), in + "[] [6:80]"},
		{"empty list of CIDRs: no one", ciliumIngress(`{fromCIDR: [], toPorts: [{ports: [{port: "80", protocol: TCP}]}]}`), in + "[] [6:80]"},
		{"empty list beside a full one: no one", ciliumIngress(`{fromEndpoints: [], fromEntities: [all]}`), in + "[] [*]"},
		{"empty peer: pods of the own namespace", ciliumIngress("{fromEndpoints: [{}]}"), in + "[{namespace=default}] [*]"},
		{"peers", ciliumIngress("{fromEndpoints: [{matchLabels: {a: b}}, {matchExpressions: [{key: c, operator: Exists}]}]}"), in + "[{namespace=default a=b}, {namespace=default c+}] [*]"},
		{"prefixed keys", ciliumIngress(`{fromEndpoints: [{matchLabels: {"k8s:a": b, "any:c": d, "container:e": f}}]}`), in + "[{namespace=default c=d container:e=f a=b}] [*]"},
		{"peers of another namespace", ciliumIngress(`{fromEndpoints: [{matchLabels: {"k8s:io.kubernetes.pod.namespace": o}}]}`), in + "[{namespace=o}] [*]"},
		{"peers without a namespace", ciliumIngress(`{fromEndpoints: [{matchExpressions: [{key: io.kubernetes.pod.namespace, operator: DoesNotExist}]}]}`), in + "[{namespace-}] [*]"},
		{"peers by namespace label", ciliumIngress(`{fromEndpoints: [{matchLabels: {"any:io.cilium.k8s.namespace.labels.t": a}}]}`), in + "[{ns:t=a}] [*]"},
		{"reserved peers", ciliumIngress(`{fromEndpoints: [{matchLabels: {"reserved:host": ""}}]}`), in + "[host] [*]"},

		{"subject", ciliumDoc("{endpointSelector: {matchLabels: {a: b}}, ingress: [{}]}"), "CiliumNetworkPolicy default/web {namespace=default a=b} I\nspec.ingress[0] in allow [] [*]"},
		{"subject of another namespace, prefixed: overruled", ciliumDoc(`{endpointSelector: {matchLabels: {"k8s:io.kubernetes.pod.namespace": o}}, ingress: [{}]}`), in + "[] [*]"},
		{"subject of another namespace, not prefixed: none", ciliumDoc(`{endpointSelector: {matchLabels: {io.kubernetes.pod.namespace: o}}, ingress: [{}]}`),
			"CiliumNetworkPolicy default/web {namespace=default namespace=o} I\nspec.ingress[0] in allow [] [*]"},

		{"ports", ciliumIngress(`{toPorts: [{ports: [{port: "80", protocol: TCP}, {port: "1000", endPort: 2000, protocol: UDP}]}, {ports: [{port: "5", endPort: 4, protocol: SCTP}]}]}`),
			in + "[any] [6:80 17:1000-2000 132:5]"},
		{"any protocol is never ICMP", ciliumIngress(`{toPorts: [{ports: [{port: "80"}, {port: "81", protocol: ANY}]}]}`), in + "[any] [6:80 17:80 132:80 6:81 17:81 132:81]"},
		{"port 0 is every port", ciliumIngress(`{toPorts: [{ports: [{port: "0", endPort: 5, protocol: TCP}]}]}`), in + "[any] [6:0-65535]"},
		{"port in octal, as Cilium reads it", ciliumIngress(`{toPorts: [{ports: [{port: "010", protocol: TCP}]}]}`), in + "[any] [6:8]"},
		{"protocol without ports", ciliumIngress(`{toPorts: [{ports: [{protocol: GRE}]}]}`), in + "[any] [47:0-65535]"},
		{"named port at ingress", ciliumIngress(`{toPorts: [{ports: [{port: HTTP, endPort: 90, protocol: TCP}]}]}`), in + "[any] [6:http-90]"},
		{"named port at egress", ciliumEgress(`{toEndpoints: [{}], toPorts: [{ports: [{port: HTTP, endPort: 90}]}]}`), out + "[{namespace=default}] [6:http 17:http 132:http]"},
		{"entry without ports matches nothing", ciliumIngress("{fromEndpoints: [{}], toPorts: [{}]}"), in + "[{namespace=default}] []"},
		{"empty ports match nothing", ciliumIngress("{fromEndpoints: [{}], toPorts: [{ports: []}]}"), in + "[{namespace=default}] []"},
		{"empty toPorts is no limit", ciliumIngress("{fromEndpoints: [{}], toPorts: []}"), in + "[{namespace=default}] [*]"},
		{"empty toPorts without peers is an empty rule", ciliumIngress("{toPorts: []}"), in + "[] [*]"},
		{"icmps", ciliumIngress("{icmps: [{fields: [{type: 8}, {type: EchoRequest, family: IPv6}, {type: TimeExceeded, family: IPv4}]}]}"), in + "[any] [1:8 58:128 1:11]"},
		{"empty fields match nothing", ciliumIngress("{icmps: [{fields: []}]}"), in + "[any] []"},
		{"empty L7 rules are none", ciliumIngress(`{toPorts: [{ports: [{port: "80", protocol: TCP}], rules: {http: []}}]}`), in + "[any] [6:80]"},

		{"a reserved label is an entity", ciliumIngress(`{fromEndpoints: [{matchLabels: {"reserved:host": ""}}, {matchExpressions: [{key: "reserved:world", operator: Exists}]}]}`), in + "[host, world] [*]"},
		{"reserved labels with others that no entity has", ciliumIngress(`{fromEndpoints: [{matchLabels: {"reserved:host": "", a: b}}, {matchLabels: {"reserved:all": ""}}]}`), in + "[] [*]"},
		{"reserved labels excluded", ciliumIngress(`{fromEndpoints: [{matchExpressions: [{key: "reserved:host", operator: DoesNotExist}, {key: "reserved:world-ipv6", operator: NotIn, values: [""]}]}]}`),
			in + "[{reserved:host- reserved:world-ipv6!=}, remote-node, 0.0.0.0/0, unmanaged] [*]"},

		{"CIDRs match neither pods nor nodes", ciliumEgress("{toCIDR: [10.1.2.3/8, '::/0']}"), out + "[10.0.0.0/8, ::/0] [*]"},
		{"CIDR sets", ciliumEgress("{toCIDRSet: [{cidr: 10.0.0.0/8, except: [10.0.0.0/8]}, {cidr: 0.0.0.0/0}]}"), out + "[10.0.0.0/8-10.0.0.0/8, 0.0.0.0/0] [*]"},
		{"entities", ciliumEgress("{toEntities: [all, world, cluster, host, remote-node, none]}"), out + "[all, world, cluster, host, remote-node, none] [*]"},
		{"deny of egress", ciliumDoc(`{endpointSelector: {}, egressDeny: [{toCIDR: [10.0.0.0/8], toPorts: [{ports: [{port: "1", protocol: TCP}]}]}]}`),
			head + "E\nspec.egressDeny[0] out deny [10.0.0.0/8] [6:1]"},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m, statuses := translate(t, test.manifest, Options{})
			if got := policyText(m.Policies[0]); got != test.want {
				t.Errorf("\n got %s\nwant %s", got, test.want)
			}
			if len(statuses) > 0 && statuses[0].Reason != ReasonDiffers {
				t.Errorf("statuses %v", statuses)
			}
		})
	}
}

func TestClusterwideAndSpecs(t *testing.T) {
	m, _ := translate(t, `apiVersion: cilium.io/v2
kind: CiliumClusterwideNetworkPolicy
metadata: {name: all}
spec: {endpointSelector: {}, ingress: [{fromEndpoints: [{}]}]}
specs:
- {endpointSelector: {matchLabels: {"k8s:io.kubernetes.pod.namespace": a}}, egress: [{toEntities: [cluster]}]}
- {endpointSelector: {}, ingressDeny: [{fromEntities: [world]}]}
`, Options{})
	var got []string
	for _, p := range m.Policies {
		got = append(got, policyText(p))
	}
	want := `CiliumClusterwideNetworkPolicy all {} I
spec.ingress[0] in allow [{}] [*]
CiliumClusterwideNetworkPolicy all {namespace=a} E
specs[0].egress[0] out allow [cluster] [*]
CiliumClusterwideNetworkPolicy all {} I
specs[1].ingressDeny[0] in deny [world] [*]`
	if text := strings.Join(got, "\n"); text != want {
		t.Errorf("got\n%s\nwant\n%s", text, want)
	}
}

// What cannot be enforced still isolates, admits nothing, denies at least what it says, and tells its author.
func TestUnsupported(t *testing.T) {
	const ports = `toPorts: [{ports: [{port: "80", protocol: TCP}]`
	tests := []struct{ name, manifest, want, path, message string }{
		{"HTTP rules", ciliumIngress("{fromEndpoints: [{}], " + ports + ", rules: {http: [{method: GET}]}}]}"), "I\nspec.ingress[0] in allow [] [6:80]",
			"spec.ingress[0].toPorts[0].rules.http", "rules for HTTP requests are not supported: weir judges packets; the rule admits nothing. Remove rules to admit the ports."},
		{"DNS rules", ciliumEgress("{" + ports + `, rules: {dns: [{matchPattern: "*"}]}}]}`), "E\nspec.egress[0] out allow [] [6:80]",
			"spec.egress[0].toPorts[0].rules.dns", "rules for DNS requests are not supported: weir judges packets; the rule admits nothing. Remove rules to admit the ports."},
		{"server names", ciliumEgress("{" + ports + `, serverNames: [a.example]}]}`), "E\nspec.egress[0] out allow [] [6:80]",
			"spec.egress[0].toPorts[0].serverNames", "what needs a proxy is not supported; the rule admits nothing. Remove serverNames to admit the ports."},
		{"DNS names", ciliumEgress("{toFQDNs: [{matchName: a.example}], " + ports + "}]}"), "E\nspec.egress[0] out allow [] [6:80]",
			"spec.egress[0].toFQDNs", "DNS names as peers are not supported; the rule admits nothing. Use toCIDR."},
		{"groups", ciliumIngress("{fromGroups: [{aws: {region: a}}]}"), "I\nspec.ingress[0] in allow [] [*]",
			"spec.ingress[0].fromGroups", "cloud provider groups are not supported; the rule admits nothing. Write the group's CIDRs."},
		{"authentication", ciliumIngress("{fromEndpoints: [{}], authentication: {mode: required}}"), "I\nspec.ingress[0] in allow [] [*]",
			"spec.ingress[0].authentication", "mutual authentication is not supported; the rule admits nothing. Remove authentication."},
		{"deny of groups", ciliumDoc("{endpointSelector: {}, egressDeny: [{toGroups: [{aws: {region: a}}], " + ports + "}]}]}"),
			"E\nspec.egressDeny[0] out deny [world] [6:80]", "spec.egressDeny[0].toGroups",
			"cloud provider groups are not supported; the rule denies more than it says: the whole world. Write the group's CIDRs."},
	}
	for _, test := range tests {
		t.Run(test.name, func(t *testing.T) {
			m, statuses := translate(t, test.manifest, Options{})
			if got, want := policyText(m.Policies[0]), "CiliumNetworkPolicy default/web {namespace=default} "+test.want; got != want {
				t.Errorf("\n got %s\nwant %s", got, want)
			}
			want := Status{"CiliumNetworkPolicy default/web", test.path, ReasonUnsupported, test.message}
			if len(statuses) != 1 || statuses[0] != want {
				t.Errorf("\n got %+v\nwant %+v", statuses, want)
			}
		})
	}
	t.Run("authentication disabled", func(t *testing.T) {
		m, statuses := translate(t, ciliumIngress("{fromEndpoints: [{}], authentication: {mode: disabled}}"), Options{})
		if len(statuses) > 0 || len(m.Policies[0].Rules[0].Peers) != 1 {
			t.Errorf("%v %v", m.Policies[0], statuses)
		}
	})
	t.Run("policy for nodes", func(t *testing.T) {
		m, statuses := translate(t, "apiVersion: cilium.io/v2\nkind: CiliumClusterwideNetworkPolicy\nmetadata: {name: web}\nspec: {nodeSelector: {}, ingress: [{}]}\n", Options{})
		if len(m.Policies) != 0 || len(statuses) != 1 || statuses[0].Path != "spec.nodeSelector" {
			t.Errorf("%v %v", m.Policies, statuses)
		}
	})
}

func TestICMPTypeZero(t *testing.T) {
	manifest := ciliumIngress("{icmps: [{fields: [{type: 0}, {type: EchoReply}]}]}")
	for _, test := range []struct {
		options Options
		want    string
	}{{Options{}, "[1:0-255 1:0-255]"}, {Options{ICMPZeroIsEchoReply: true}, "[1:0 1:0]"}} {
		m, statuses := translate(t, manifest, test.options)
		if got := ruleText(m.Policies[0].Rules[0]); !strings.HasSuffix(got, test.want) {
			t.Errorf("%s, want %s", got, test.want)
		}
		if len(statuses) != 2 || statuses[1].Reason != ReasonDiffers || statuses[1].Path != "spec.ingress[0].icmps[0].fields[1].type" {
			t.Errorf("statuses %v", statuses)
		}
	}
}

func TestNodeMustExist(t *testing.T) {
	o, err := Decode("m.yaml", []byte(nodes))
	if err != nil {
		t.Fatal(err)
	}
	_, _, err = Translate(o, "n3", Options{})
	if !errors.Is(err, ErrNoNode) || err.Error() != `find Node "n3" among the objects: no such Node; there are n1, n2` {
		t.Error(err)
	}
	_, _, err = Translate(&Objects{}, "n3", Options{})
	if !errors.Is(err, ErrNoNode) || err.Error() != `find Node "n3" among the objects: no such Node; there is none at all` {
		t.Error(err)
	}
}
