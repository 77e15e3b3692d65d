// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"fmt"
	"strings"
	"testing"

	"github.com/weirnet/weir/policy"
)

// clusterDoc is a ClusterNetworkPolicy called guard with the given spec, in flow style.
func clusterDoc(spec string) string {
	return "apiVersion: policy.networking.k8s.io/v1alpha2\nkind: ClusterNetworkPolicy\nmetadata: {name: guard}\nspec: " + spec + "\n"
}

// clusterWith is a policy of the admin tier for all pods with one rule.
func clusterWith(direction, rule string) string {
	return clusterDoc("{tier: Admin, priority: 5, subject: {namespaces: {}}, " + direction + ": [" + rule + "]}")
}

func TestClusterNetworkPolicyRefusedByName(t *testing.T) {
	const ruled, pods, namespaces = "action: Deny, ", "{pods: {podSelector: {}}}", "{namespaces: {}}"
	ingress := func(rule string) string { return clusterWith("ingress", rule) }
	egress := func(rule string) string { return clusterWith("egress", rule) }
	port := func(p string) string {
		return egress("{action: Deny, to: [{pods: {podSelector: {}}}], protocols: [" + p + "]}")
	}
	many := func(item string, n int) string { return strings.TrimSuffix(strings.Repeat(item+", ", n), ", ") }
	for _, test := range []struct{ name, manifest, want string }{
		{"no tier", clusterDoc("{priority: 5, subject: {namespaces: {}}}"), "spec.tier: missing, must be Admin or Baseline"},
		{"a tier that there is not", clusterDoc("{tier: admin, priority: 5, subject: {namespaces: {}}}"), `spec.tier: unknown tier "admin", must be Admin or Baseline`},
		{"no priority", clusterDoc("{tier: Admin, subject: {namespaces: {}}}"), "spec.priority: missing, must be 0 to 1000"},
		{"priority below 0", clusterDoc("{tier: Admin, priority: -1, subject: {namespaces: {}}}"), "spec.priority: is -1, must be 0 to 1000"},
		{"priority above 1000", clusterDoc("{tier: Baseline, priority: 1001, subject: {namespaces: {}}}"), "spec.priority: is 1001, must be 0 to 1000"},
		{"no subject", clusterDoc("{tier: Admin, priority: 5}"), "spec.subject: missing; namespaces: {} selects every pod"},
		{"empty subject", clusterDoc("{tier: Admin, priority: 5, subject: {}}"), "spec.subject: missing; namespaces: {} selects every pod"},
		{"two subjects", clusterDoc("{tier: Admin, priority: 5, subject: {namespaces: {}, pods: {podSelector: {}}}}"), "spec.subject: has namespaces and pods, must have one of them; pods may select namespaces, too"},
		{"subject without podSelector", clusterDoc("{tier: Admin, priority: 5, subject: {pods: {namespaceSelector: {}}}}"), "spec.subject.pods.podSelector: missing; {} selects every pod of the namespaces"},
		{"a subject's bad operator", clusterDoc("{tier: Admin, priority: 5, subject: {namespaces: {matchExpressions: [{key: a, operator: Like}]}}}"), `spec.subject.namespaces.matchExpressions[0].operator: Invalid value: "Like": not a valid selector operator`},
		{"unknown field of the spec", clusterDoc("{tier: Admin, priority: 5, subject: {namespaces: {}}, egres: []}"), "spec.egres: unknown field, did you mean egress?"},
		{"unknown field of the subject", clusterDoc("{tier: Admin, priority: 5, subject: {namespaces: {}, nodes: {}}}"), "spec.subject.nodes: unknown field, remove it"},
		{"26 rules", clusterDoc("{tier: Admin, priority: 5, subject: {namespaces: {}}, ingress: [" + many("{action: Pass, from: [{namespaces: {}}]}", 26) + "]}"), "spec.ingress: has 26 entries, at most 25"},
		{"no action", ingress("{from: [" + pods + "]}"), "spec.ingress[0].action: missing, must be Accept, Deny or Pass"},
		{"an action of the older version", ingress("{action: Allow, from: [" + pods + "]}"), `spec.ingress[0].action: unknown action "Allow", must be Accept, Deny or Pass`},
		{"a long name", ingress("{name: " + strings.Repeat("ä", 101) + ", " + ruled + "from: [" + pods + "]}"), "spec.ingress[0].name: has 101 characters, at most 100"},
		{"no sources", ingress("{action: Deny}"), "spec.ingress[0].from: missing or empty, must have at least one peer; namespaces: {} is every pod"},
		{"empty destinations", egress("{action: Deny, to: []}"), "spec.egress[0].to: missing or empty, must have at least one peer; namespaces: {} is every pod"},
		{"26 peers", egress("{" + ruled + "to: [" + many(namespaces, 26) + "]}"), "spec.egress[0].to: has 26 entries, at most 25"},
		{"blank peer", ingress("{" + ruled + "from: [{namespaces: }]}"), "spec.ingress[0].from[0].namespaces: has no value; give it one or leave the field out"},
		{"two ways to name a peer", egress("{" + ruled + "to: [{namespaces: {}, networks: [10.0.0.0/8]}]}"), "spec.egress[0].to[0]: names its peers in several ways, must use one; make them entries of their own"},
		{"a peer's podSelector is missing", ingress("{" + ruled + "from: [{pods: {namespaceSelector: {}}}]}"), "spec.ingress[0].from[0].pods.podSelector: missing; {} selects every pod of the namespaces"},
		{"empty networks", egress("{" + ruled + "to: [{networks: []}]}"), "spec.egress[0].to[0].networks: empty, must have at least one entry"},
		{"a network without a mask", egress("{" + ruled + "to: [{networks: [10.0.0.1]}]}"), `spec.egress[0].to[0].networks[0]: "10.0.0.1" has no mask, write 10.0.0.1/32`},
		{"a network with host bits", egress("{" + ruled + "to: [{networks: [10.1.2.3/8]}]}"), `spec.egress[0].to[0].networks[0]: "10.1.2.3/8" has bits set that the mask cuts off, write 10.0.0.0/8`},
		{"a network twice", egress("{" + ruled + "to: [{networks: [10.0.0.0/8, '::/0', 10.0.0.0/8]}]}"), `spec.egress[0].to[0].networks[2]: "10.0.0.0/8" is listed already, remove one`},
		{"a bad domain name", egress("{action: Accept, to: [{domainNames: ['a*.example.com']}]}"), `spec.egress[0].to[0].domainNames[0]: "a*.example.com" is not a domain name such as example.com or *.example.com`},
		{"empty protocols", egress("{" + ruled + "to: [" + pods + "], protocols: []}"), "spec.egress[0].protocols: empty; leave it out for every protocol and port"},
		{"26 protocols", port(many("{tcp: {destinationPort: {number: 1}}}", 26)), "spec.egress[0].protocols: has 26 entries, at most 25"},
		{"two protocols in one entry", port("{tcp: {destinationPort: {number: 1}}, udp: {destinationPort: {number: 1}}}"), "spec.egress[0].protocols[0]: has several of tcp, udp, sctp and destinationNamedPort, must have one; make them entries of their own"},
		{"port 0", port("{tcp: {destinationPort: {number: 0}}}"), "spec.egress[0].protocols[0].tcp.destinationPort.number: 0 is not a port, must be 1 to 65535"},
		{"port 65536", port("{udp: {destinationPort: {number: 65536}}}"), "spec.egress[0].protocols[0].udp.destinationPort.number: 65536 is not a port, must be 1 to 65535"},
		{"number and range", port("{sctp: {destinationPort: {number: 1, range: {start: 1, end: 2}}}}"), "spec.egress[0].protocols[0].sctp.destinationPort: has number and range, must have one of them"},
		{"a range of one", port("{tcp: {destinationPort: {range: {start: 5, end: 5}}}}"), "spec.egress[0].protocols[0].tcp.destinationPort.range: start 5 must be less than end 5"},
		{"a range without its start", port("{tcp: {destinationPort: {range: {end: 5}}}}"), "spec.egress[0].protocols[0].tcp.destinationPort.range.start: 0 is not a port, must be 1 to 65535"},
		{"a named port of a network", egress("{" + ruled + "to: [" + pods + ", {networks: [10.0.0.0/8]}], protocols: [{destinationNamedPort: http}]}"), "spec.egress[0].protocols[0].destinationNamedPort: networks, nodes and domainNames have no named ports; make them a rule of their own"},
	} {
		t.Run(test.name, func(t *testing.T) {
			_, err := Decode("m.yaml", []byte(test.manifest))
			if err == nil {
				t.Fatal("accepted")
			}
			if want := "m.yaml document 1: ClusterNetworkPolicy guard: " + test.want; err.Error() != want {
				t.Errorf("\n got %s\nwant %s", err, want)
			}
		})
	}
}

func TestVersionsOfClusterNetworkPolicy(t *testing.T) {
	doc := clusterDoc("{tier: Admin, priority: 0, subject: {namespaces: {}}}\nstatus: {conditions: [{type: a}]}")
	for version, want := range map[string]string{
		"v1alpha2": "", "v1beta1": "",
		"v1alpha1": "m.yaml document 1: ClusterNetworkPolicy guard: apiVersion: policy.networking.k8s.io/v1alpha1 is not supported, write policy.networking.k8s.io/v1alpha2",
	} {
		o, err := Decode("m.yaml", []byte(strings.Replace(doc, "v1alpha2", version, 1)))
		if want == "" && (err != nil || len(o.ClusterNetworkPolicies) != 1) || want != "" && (err == nil || err.Error() != want) {
			t.Errorf("%s: %v, want %q", version, err, want)
		}
	}
	_, err := Decode("m.yaml", []byte("apiVersion: policy.networking.k8s.io/v1alpha1\nkind: AdminNetworkPolicy\nmetadata: {name: a}\n"))
	if want := "m.yaml document 1: AdminNetworkPolicy a: kind: AdminNetworkPolicy of policy.networking.k8s.io/v1alpha1 is not supported, remove the object"; err == nil || err.Error() != want {
		t.Errorf("%v, want %s", err, want)
	}
}

// clusterText is a policy in one line for its head and one for each rule.
func clusterText(p policy.Policy) string {
	text := policyText(p)
	return strings.Replace(text, p.Key, fmt.Sprintf("%s %s %d", p.Key, p.Tier, p.Priority), 1)
}

func TestClusterNetworkPolicy(t *testing.T) {
	const admin = "ClusterNetworkPolicy guard admin 5 {} "
	for _, test := range []struct{ name, manifest, want string }{
		{"no rules", clusterDoc("{tier: Admin, priority: 0, subject: {namespaces: {}}}"), "ClusterNetworkPolicy guard admin 0 {} "},
		{"baseline", clusterDoc("{tier: Baseline, priority: 1000, subject: {namespaces: {matchLabels: {env: prod}}}}"), "ClusterNetworkPolicy guard baseline 1000 {ns:env=prod} "},
		{"pods of namespaces", clusterDoc("{tier: Admin, priority: 5, subject: {pods: {namespaceSelector: {matchExpressions: [{key: env, operator: NotIn, values: [dev]}]}, podSelector: {matchLabels: {app: a}}}}}"),
			"ClusterNetworkPolicy guard admin 5 {ns:env!=dev app=a} "},
		{"a missing namespaceSelector is every namespace", clusterDoc("{tier: Admin, priority: 5, subject: {pods: {podSelector: {matchLabels: {app: a}}}}}"), "ClusterNetworkPolicy guard admin 5 {app=a} "},
		{"the order of rules is kept, by direction", clusterDoc("{tier: Admin, priority: 5, subject: {namespaces: {}}, " +
			"egress: [{action: Pass, to: [{namespaces: {}}]}], ingress: [{action: Deny, from: [{namespaces: {}}]}, {action: Accept, from: [{namespaces: {}}]}]}"),
			admin + "\nspec.ingress[0] in deny [{}] [*]\nspec.ingress[1] in allow [{}] [*]\nspec.egress[0] out pass [{}] [*]"},
		{"sources", clusterWith("ingress", "{action: Accept, from: [{namespaces: {}}, {namespaces: {matchLabels: {env: prod}}}, {pods: {podSelector: {matchLabels: {app: a}}}}, {pods: {namespaceSelector: {matchLabels: {env: ''}}, podSelector: {}}}]}"),
			admin + "\nspec.ingress[0] in allow [{}, {ns:env=prod}, {app=a}, {ns:env=}] [*]"},
		{"networks are checked inside the cluster as well", clusterWith("egress", "{action: Deny, to: [{networks: [0.0.0.0/0, '2001:db8::/32']}, {namespaces: {}}]}"),
			admin + "\nspec.egress[0] out deny [0.0.0.0/0+inside, 2001:db8::/32+inside, {}] [*]"},
		{"protocols", clusterWith("ingress", "{action: Deny, from: [{namespaces: {}}], protocols: [{tcp: {destinationPort: {number: 80}}}, {udp: {destinationPort: {range: {start: 1, end: 65535}}}}, {sctp: {destinationPort: {range: {start: 5, end: 6}}}}]}"),
			admin + "\nspec.ingress[0] in deny [{}] [6:80 17:1-65535 132:5-6]"},
		{"a named port is of any protocol", clusterWith("egress", "{action: Accept, to: [{namespaces: {}}], protocols: [{destinationNamedPort: http}]}"),
			admin + "\nspec.egress[0] out allow [{}] [6:http 17:http 132:http]"},
		{"a name that no port can have", clusterWith("egress", "{action: Accept, to: [{namespaces: {}}], protocols: [{destinationNamedPort: Http}]}"),
			admin + "\nspec.egress[0] out allow [{}] []"},
	} {
		t.Run(test.name, func(t *testing.T) {
			m, statuses := translate(t, test.manifest, Options{IPBlockCilium: true})
			if got := clusterText(m.Policies[0]); got != test.want {
				t.Errorf("\n got %s\nwant %s", got, test.want)
			}
			if len(statuses) > 0 {
				t.Errorf("statuses %v", statuses)
			}
		})
	}
}

// A rule with anything in it that is not understood matches nothing if it accepts, and denies everything otherwise.
func TestClusterNetworkPolicyFailsClosed(t *testing.T) {
	const newer = "or has lost a field of a newer version"
	for _, test := range []struct{ name, direction, peers, rest, path, why, remedy string }{
		{"unknown field of a peer", "ingress", "{regions: [a]}", "", "from[0].regions", "unknown field", "Remove the field, or use what this version of weir knows."},
		{"unknown field beside a known one", "egress", "{namespaces: {}, exept: []}", "", "to[0].exept", "unknown field", "Remove the field, or use what this version of weir knows."},
		{"unknown field of a selector", "egress", "{pods: {podSelector: {matchLabel: {}}}}", "", "to[0].pods.podSelector.matchLabel", "unknown field", "Did you mean matchLabels?"},
		{"one bad peer of several", "egress", "{namespaces: {}}, {networks: [10.0.0.0/8]}, {services: {}}", "", "to[2].services", "unknown field", "Remove the field, or use what this version of weir knows."},
		{"networks as sources", "ingress", "{networks: [10.0.0.0/8]}", "", "from[0].networks", "unknown field", "Remove the field, or use what this version of weir knows."},
		{"a peer without a field", "ingress", "{}", "", "from[0]", "names no peer, " + newer, "Write namespaces or pods."},
		{"a destination without a field", "egress", "{namespaces: {}}, {}", "", "to[1]", "names no peer, " + newer, "Write namespaces, pods or networks."},
		{"nodes", "egress", "{nodes: {}}", "", "to[0].nodes", "selecting nodes by label is not supported", "Use networks with the nodes' addresses."},
		{"domain names", "egress", "{domainNames: ['*.example.com', a_b.example.com.]}", "", "to[0].domainNames", "DNS names as peers are not supported", "Use networks."},
		{"unknown field of the rule", "egress", "{namespaces: {}}", ", ports: [{port: 80}]", "ports", "unknown field", "Remove the field, or use what this version of weir knows."},
		{"unknown protocol", "ingress", "{namespaces: {}}", ", protocols: [{tcp: {destinationPort: {number: 80}}}, {icmp: {type: 8}}]", "protocols[1].icmp", "unknown field", "Remove the field, or use what this version of weir knows."},
		{"a protocol without a field", "ingress", "{namespaces: {}}", ", protocols: [{}]", "protocols[0]", "names no protocol, " + newer, "Write tcp, udp, sctp or destinationNamedPort."},
		{"a protocol without a port", "ingress", "{namespaces: {}}", ", protocols: [{tcp: {}}]", "protocols[0].tcp", "names no destinationPort, " + newer, "For every port write the range from 1 to 65535."},
		{"a port without a field", "ingress", "{namespaces: {}}", ", protocols: [{udp: {destinationPort: {}}}]", "protocols[0].udp.destinationPort", "names no port, " + newer, "Write number or range."},
		{"unknown field beside the port", "egress", "{namespaces: {}}", ", protocols: [{tcp: {destinationPort: {number: 80}, flags: [SYN]}}]", "protocols[0].tcp.flags", "unknown field", "Remove the field, or use what this version of weir knows."},
	} {
		side := map[string]string{"ingress": "from", "egress": "to"}[test.direction]
		for action, means := range map[string]string{"Accept": "allow []", "Deny": "deny [any] [*]", "Pass": "deny [any] [*]"} {
			t.Run(test.name+"/"+action, func(t *testing.T) {
				m, statuses := translate(t, clusterWith(test.direction, "{action: "+action+", "+side+": ["+test.peers+"]"+test.rest+"}, {action: Pass, "+side+": [{namespaces: {}}]}"), Options{})
				rules := m.Policies[0].Rules
				if got := ruleText(rules[0]); !strings.Contains(got, means) {
					t.Errorf("%s, want %s", got, means)
				}
				if got := ruleText(rules[1]); !strings.HasSuffix(got, "pass [{}] [*]") {
					t.Errorf("the rule beside it became %s", got)
				}
				instead := "the rule denies everything, as the API prescribes"
				if action == "Accept" {
					instead = "the rule matches nothing"
				}
				want := Status{"ClusterNetworkPolicy guard", "spec." + test.direction + "[0]." + test.path, ReasonUnsupported, test.why + "; " + instead + ". " + test.remedy}
				if len(statuses) != 1 || statuses[0] != want {
					t.Errorf("\n got %+v\nwant %+v", statuses, want)
				}
			})
		}
	}
}
