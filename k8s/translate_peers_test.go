// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"errors"
	"fmt"
	"strings"
	"testing"
)

func groupDoc(name, cidrs string) string {
	return fmt.Sprintf("apiVersion: cilium.io/v2\nkind: CiliumCIDRGroup\nmetadata: {name: %s, labels: {role: %s, io.cilium.k8s.mine: a}}\nspec: {externalCIDRs: %s}\n---\n", name, name, cidrs)
}

func serviceDoc(name, spec string) string {
	return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s, labels: {role: %s}}\nspec: %s\n---\n", name, name, spec)
}

// TestPeersByOtherObjects: groups, Services and nodes become what they consist of, and a name that nothing has is told.
func TestPeersByOtherObjects(t *testing.T) {
	groups := groupDoc("vpn", "[10.8.0.0/16, 198.51.100.0/24]") + groupDoc("office", "[203.0.113.7/25]")
	services := serviceDoc("web", "{selector: {app: web}}") + serviceDoc("db", "{}") + serviceDoc("empty", "{}") + serviceDoc("alias", "{type: ExternalName, externalName: a.example}") +
		"apiVersion: v1\nkind: Service\nmetadata: {name: web, namespace: prod}\nspec: {selector: {app: other}}\n---\n" +
		"apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: db, labels: {kubernetes.io/service-name: db}}\naddressType: IPv4\nports: [{port: 1}, {port: 2, name: b}]\nendpoints: " +
		"[{addresses: [203.0.113.9]}, {addresses: [192.0.2.2]}, {addresses: [10.1.0.5]}, {addresses: [203.0.113.10], conditions: {ready: false}}, {addresses: [203.0.113.8], conditions: {ready: false, serving: true, terminating: true}}]\n---\n" +
		podDoc("p", "spec: {nodeName: n1}\nstatus: {podIP: 10.1.0.5}\n---")
	const more = "apiVersion: v1\nkind: Node\nmetadata: {name: n3, labels: {zone: b}}\nspec: {podCIDR: 10.1.2.0/24}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.3}]}\n---\n"
	const cidrs = "are read as CIDRs, and those match no "
	tests := []struct {
		name, rule, want string
		options          Options
		statuses         []string
	}{
		{"a group by name", "{toCIDRSet: [{cidrGroupRef: vpn}]}", "[10.8.0.0/16, 198.51.100.0/24]", Options{}, nil},
		{"an exception cuts what it covers and nothing else", "{toCIDRSet: [{cidrGroupRef: vpn, except: [10.0.0.0/8, 198.51.100.128/25]}]}", "[198.51.100.0/24-198.51.100.128/25]", Options{}, nil},
		{"groups by label", "{toCIDRSet: [{cidrGroupSelector: {matchExpressions: [{key: role, operator: NotIn, values: [vpn]}]}}]}", "[203.0.113.0/25]", Options{}, nil},
		{"every group", "{toCIDRSet: [{cidrGroupSelector: {}}]}", "[203.0.113.0/25, 10.8.0.0/16, 198.51.100.0/24]", Options{}, nil},
		{"a group by the label that has its name", "{toCIDRSet: [{cidrGroupSelector: {matchLabels: {io.cilium.policy.cidrgroupname/office: ''}}}]}", "[203.0.113.0/25]", Options{}, nil},
		{"Cilium's own labels are not the author's", "{toCIDRSet: [{cidrGroupSelector: {matchLabels: {io.cilium.k8s.mine: a}}}]}", "[]", Options{},
			[]string{"toCIDRSet[0].cidrGroupSelector Unresolved selects no CiliumCIDRGroup; it matches nothing until it does. Correct the selector, or label a group"}},
		{"a group that is not there", "{toCIDRSet: [{cidrGroupRef: none}, {cidr: 10.0.0.0/8}]}", "[10.0.0.0/8]", Options{},
			[]string{"toCIDRSet[0].cidrGroupRef Unresolved there is no CiliumCIDRGroup none; it matches nothing until there is. Add it, or correct the name"}},
		{"CIDRs match nodes by the option", "{toCIDRSet: [{cidrGroupRef: office}, {cidr: 0.0.0.0/0}, {cidr: '::/0'}, {cidr: 10.0.0.0/1}]}",
			"[203.0.113.0/25+some, 0.0.0.0/0, ::/0, 0.0.0.0/1+some]", Options{CIDRMatchNodes: true}, nil},

		{"a Service is the pods that it selects", "{toServices: [{k8sService: {serviceName: web, namespace: default}}]}", "[{namespace=default app=web}]", Options{}, nil},
		{"no namespace is every one", "{toServices: [{k8sService: {serviceName: web}}]}", "[{namespace=default app=web}, {namespace=prod app=other}]", Options{}, nil},
		{"Services by label, whatever source the key names", "{toServices: [{k8sServiceSelector: {selector: {matchLabels: {'k8s:role': web}}}}]}", "[{namespace=default app=web}]", Options{}, nil},
		{"with a selector the name is not read", "{toServices: [{k8sServiceSelector: {selector: {matchLabels: {role: web}}, namespace: default}, k8sService: {serviceName: db}}]}", "[{namespace=default app=web}]", Options{}, nil},
		{"a Service without a selector is its endpoints", "{toServices: [{k8sService: {serviceName: db}}]}", "[10.1.0.5/32, 192.0.2.2/32, 203.0.113.8/32, 203.0.113.9/32]", Options{}, []string{
			"toServices[0] Differs Service default/db has the endpoint 10.1.0.5, which is pod default/p: the endpoints of a Service without a selector " + cidrs + "pods. Use toEndpoints",
			"toServices[0] Differs Service default/db has the endpoint 192.0.2.2, which is node n2: the endpoints of a Service without a selector " + cidrs + "nodes. Use toEntities, or --policy-cidr-match-mode nodes"}},
		{"its nodes by the option", "{toServices: [{k8sService: {serviceName: db}}]}", "[10.1.0.5/32+some, 192.0.2.2/32+some, 203.0.113.8/32+some, 203.0.113.9/32+some]", Options{CIDRMatchNodes: true},
			[]string{"toServices[0] Differs Service default/db has the endpoint 10.1.0.5, which is pod default/p: the endpoints of a Service without a selector " + cidrs + "pods. Use toEndpoints"}},
		{"a Service of nothing", "{toServices: [{k8sService: {serviceName: empty}}]}", "[]", Options{},
			[]string{"toServices[0] Unresolved Service default/empty has neither a selector nor endpoints; it matches nothing until it has"}},
		{"a Service that is not there, not even to ports", "{toServices: [{k8sService: {serviceName: none}}, {}, {k8sService: {serviceName: alias}}]}", "[]", Options{}, []string{
			"toServices[0] Unresolved there is no such Service; it matches nothing until there is. Add it, or correct the name, the namespace or the selector",
			"toServices[1] Unresolved there is no such Service; it matches nothing until there is. Add it, or correct the name, the namespace or the selector",
			"toServices[2] Unresolved there is no such Service; it matches nothing until there is. Add it, or correct the name, the namespace or the selector"}},

		{"an API server that nobody has told of", "{toEntities: [host, kube-apiserver]}", "[host, kube-apiserver]", Options{},
			[]string{"toEntities[1] Unresolved no EndpointSlice of the Service default/kubernetes says where the API is; it matches nothing until one does. Add it"}},

		{"all other nodes are an entity", "{toNodes: [{}]}", "[remote-node]", Options{NodeSelectorLabels: true}, nil},
		{"some other nodes are their addresses", "{toNodes: [{matchLabels: {zone: b}}]}", "[192.0.2.3/32+some, 10.1.2.0/32+some, 10.1.2.1/32+some]", Options{NodeSelectorLabels: true}, nil},
		{"never the own node", "{toNodes: [{matchLabels: {zone: own}}]}", "[]", Options{NodeSelectorLabels: true}, nil},
		{"nodes by a label that none has", "{toNodes: [{matchLabels: {zone: a}}]}", "[]", Options{NodeSelectorLabels: true}, nil},
		{"an empty list of nodes needs no switch", "{toNodes: []}", "[]", Options{}, nil},
	}
	for _, test := range tests {
		for section, action := range map[string]string{"egress": "allow", "egressDeny": "deny"} {
			t.Run(section+": "+test.name, func(t *testing.T) {
				m, statuses := translate(t, more+groups+services+ciliumDoc("{endpointSelector: {}, "+section+": ["+test.rule+"]}"), test.options)
				want := fmt.Sprintf("CiliumNetworkPolicy default/web {namespace=default} E\nspec.%s[0] out %s %s [*]", section, action, test.want)
				if got := policyText(m.Policies[0]); got != want {
					t.Errorf("\n got %s\nwant %s", got, want)
				}
				var told []string
				for _, s := range statuses {
					told = append(told, strings.TrimPrefix(s.Path, "spec."+section+"[0].")+" "+s.Reason+" "+s.Message)
				}
				if strings.Join(told, "\n") != strings.Join(test.statuses, "\n") {
					t.Errorf("told\n%s\nwant\n%s", strings.Join(told, "\n"), strings.Join(test.statuses, "\n"))
				}
			})
		}
	}
}

// TestNodeSelectorsNeedTheirSwitch: without it the object is refused by name, as every mistake is.
func TestNodeSelectorsNeedTheirSwitch(t *testing.T) {
	for rule, path := range map[string]string{ciliumIngress("{fromNodes: [{}]}"): "spec.ingress[0].fromNodes", ciliumEgress("{}, {toNodes: [{}]}"): "spec.egress[1].toNodes"} {
		o, err := Decode("m.yaml", []byte(nodes+rule))
		if err != nil {
			t.Fatal(err)
		}
		_, _, err = Translate(o, "n1", Options{})
		var problem *Problem
		if want := "m.yaml document 3: CiliumNetworkPolicy default/web: " + path + ": needs --node-selector-labels; or use the entity remote-node"; !errors.As(err, &problem) || err.Error() != want {
			t.Errorf("\n got %v\nwant %s", err, want)
		}
	}
}

// TestEndPortThatMeansNothing is told.
func TestEndPortThatMeansNothing(t *testing.T) {
	const rule = "CiliumNetworkPolicy default/web spec."
	for _, test := range []struct{ manifest, want string }{
		{ciliumEgress("{toEndpoints: [{}], toPorts: [{ports: [{port: http, endPort: 90}]}]}"),
			rule + "egress[0].toPorts[0].ports[0].endPort Differs is ignored after a port name at egress. Write numbers"},
		{ciliumIngress("{toPorts: [{ports: [{port: '0', endPort: 90}]}]}"),
			rule + "ingress[0].toPorts[0].ports[0].endPort Differs is ignored, since port 0 is every port. Remove it, or write where the range begins"},
		{ciliumIngress("{toPorts: [{}, {ports: [{port: '80', endPort: 79}]}]}"),
			rule + "ingress[0].toPorts[1].ports[0].endPort Differs is below port 80 and ignored. Correct it, or remove it"},
		{ciliumIngress("{fromEntities: [cluster], toPorts: [{ports: [{port: http, endPort: 90}, {port: '80', endPort: 80}, {port: '80', endPort: 90}, {protocol: GRE}]}]}"), ""},
	} {
		_, statuses := translate(t, test.manifest, Options{})
		var told []string
		for _, s := range statuses {
			told = append(told, s.Object+" "+s.Path+" "+s.Reason+" "+s.Message)
		}
		if got := strings.Join(told, "\n"); got != test.want {
			t.Errorf("%s told\n%s\nwant\n%s", test.manifest, got, test.want)
		}
	}
}
