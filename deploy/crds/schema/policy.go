// SPDX-License-Identifier: Apache-2.0

package main

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// Bounds of lists. Rules in CEL are admitted only if their worst case is cheap enough, and that is a product of these. They
// bind no policy that people write by hand; lists of peers, which tools fill, have none.
const (
	maxSpecs   = 50
	maxRules   = 200 // in one direction of one spec
	maxToPorts = 40
	maxPorts   = 40 // Cilium's own
)

// policyRoot is the schema of a CiliumNetworkPolicy, or of a clusterwide one.
func policyRoot(namespaced bool) schema {
	return object("Guards pods: what its rules do not admit, in a direction that has rules, is denied.", props{
		"spec":  optional(specSchema(namespaced, true)),
		"specs": optional(atMost(maxSpecs, list("Several specs in one object, each as spec is.", silent(specSchema(namespaced, false))))),
		"status": optional(schema{Type: "object", Description: "Written by weir's operator.", Properties: map[string]schema{"conditions": conditions()},
			XPreserveUnknownFields: ptr(true)}),
	}, demand("has(self.spec) || has(self.specs)", "missing, and specs too; write one of them", ".spec"))
}

func ptr[T any](v T) *T { return &v }

func conditions() schema {
	condition := object("", props{
		"type": required(text("")), "status": required(oneOf("", "True", "False", "Unknown")), "reason": optional(text("")), "message": optional(text("")),
		"lastTransitionTime": optional(schema{Type: "string", Format: "date-time"}), "observedGeneration": optional(schema{Type: "integer", Format: "int64"}),
	})
	s := list("Enforced: on how many nodes this generation is in force.", condition)
	s.XListType, s.XListMapKeys = ptr("map"), []string{"type"}
	return s
}

// specSchema is one spec. Its ports are looked at more closely if it is the only one: of fifty, that would cost too much.
func specSchema(namespaced, single bool) schema {
	rules := []apiextensionsv1.ValidationRule{
		demand("has(self.endpointSelector) || has(self.nodeSelector)", "missing; endpointSelector: {} selects every pod", ".endpointSelector"),
		demand("!(has(self.endpointSelector) && has(self.nodeSelector))", "cannot be combined with endpointSelector; write one of them", ".nodeSelector"),
		demand("(has(self.ingress) && size(self.ingress) > 0) || (has(self.ingressDeny) && size(self.ingressDeny) > 0) || "+
			"(has(self.egress) && size(self.egress) > 0) || (has(self.egressDeny) && size(self.egressDeny) > 0)",
			"has no rule in ingress, ingressDeny, egress or egressDeny; to deny everything write ingress: [{}]", ""),
	}
	if namespaced {
		rules = append(rules, demand("!has(self.nodeSelector)", "needs a CiliumClusterwideNetworkPolicy; use endpointSelector here", ".nodeSelector"))
	}
	return object("Whom the policy guards, and what it admits and denies.", props{
		"endpointSelector": optional(selector("The pods that are guarded; {} is all of them, of the namespace if the policy has one.")),
		"nodeSelector":     optional(selector("The nodes that are guarded. weir guards pods: it reports such a policy and does not enforce it.")),
		"ingress":          optional(section("What is admitted to these pods. [] and missing say nothing; [{}] admits nobody.", direction{single: single})),
		"ingressDeny":      optional(section("What is denied to these pods, whatever else admits it.", direction{deny: true, single: single})),
		"egress":           optional(section("What these pods are admitted to.", direction{egress: true, single: single})),
		"egressDeny":       optional(section("What these pods are denied, whatever else admits it.", direction{egress: true, deny: true, single: single})),
		"enableDefaultDeny": optional(object("Whether what no rule admits is denied, by direction; default: where there are rules.", props{
			"ingress": optional(flag("For what comes in.")), "egress": optional(flag("For what goes out.")),
		})),
		"labels": optional(list("Names of the rules, without effect on traffic.", object("", props{
			"key": required(nonempty(text("Its name."))), "value": optional(text("Its value.")), "source": optional(text("Where it comes from.")),
		}))),
		"description": optional(text("For people.")),
		"log":         optional(object("For flow logs.", props{"value": optional(matching("A text.", "", 32))})),
	}, rules...)
}

// direction says which of the four sections it is.
type direction struct{ egress, deny, single bool }

func (d direction) peer(what string) string {
	if d.egress {
		return "to" + what
	}
	return "from" + what
}

func section(about string, d direction) schema {
	return atMost(maxRules, list(about, ruleSchema(d)))
}

func ruleSchema(d direction) schema {
	kinds := []string{"Endpoints", "CIDR", "CIDRSet", "Entities", "Groups", "Nodes"}
	fields := props{
		d.peer("Endpoints"): optional(list("Pods, by label; [] is nobody. Of the policy's namespace unless the labels name another.", selector(""))),
		d.peer("CIDR"):      optional(list("Prefixes outside of the cluster.", prefix("A prefix; a single address has the mask /32 or /128."))),
		d.peer("CIDRSet"):   optional(list("Prefixes outside of the cluster, less exceptions, or groups of prefixes.", cidrRule())),
		d.peer("Entities"): optional(list("Parts of the world by name.", oneOf("", "all", "world", "world-ipv4", "world-ipv6", "cluster", "cluster-mesh", "host",
			"remote-node", "kube-apiserver", "health", "init", "ingress", "unmanaged", "none"))),
		d.peer("Groups"): optional(list("Groups of a cloud provider. weir does not know them: such a rule admits nobody.", object("", props{
			"aws": optional(object("", props{"labels": optional(texts("", text(""))), "region": optional(text("")),
				"securityGroupsIds": optional(list("", text(""))), "securityGroupsNames": optional(list("", text("")))})),
		}))),
		d.peer("Nodes"):    optional(list("Other nodes, by label; needs policy.nodeSelectorLabels of the chart.", selector(""))),
		d.peer("Requires"): optional(list("Gone since Cilium 1.19.", anything(""))),
		"toPorts":          optional(atMost(maxToPorts, list("Ports; missing is every port and protocol.", portRule(d)))),
		"icmps": optional(list("ICMP types.", object("", props{"fields": optional(atMost(maxPorts, list("", object("", props{
			"family": optional(oneOf("IPv4 unless said otherwise.", "IPv4", "IPv6")),
			"type": required(schema{Description: "A number, or a name such as EchoRequest.", XIntOrString: true,
				Pattern: "^([0-9]|[1-9][0-9]|1[0-9][0-9]|2[0-4][0-9]|25[0-5]|[A-Z][A-Za-z0-9]*)$", Minimum: ptr(0.0), Maximum: ptr(255.0)}),
		}))))}))),
	}
	if d.egress {
		kinds = append(kinds, "Services")
		fields["toServices"] = optional(list("Services, by name or by label.", object("", props{
			"k8sService":         optional(object("", props{"serviceName": optional(text("")), "namespace": optional(text(""))})),
			"k8sServiceSelector": optional(object("", props{"selector": required(selector("")), "namespace": optional(text(""))})),
		})))
	}
	if !d.deny {
		fields["authentication"] = optional(object("Mutual authentication. weir does not know it: such a rule admits nobody, unless it is disabled.", props{
			"mode": required(oneOf("", "disabled", "required", "test-always-fail"))}))
	}
	if d.egress && !d.deny {
		kinds = append(kinds, "FQDNs")
		fields["toFQDNs"] = optional(list("DNS names. weir does not know them: such a rule admits nothing.", fqdn()))
	}
	return object("", fields,
		demand(onlyOne(d, kinds), "names its peers in more than one way; a rule may use one of "+names(d, kinds)+", make the others rules of their own", ""),
		demand("!(has(self.icmps) && size(self.icmps) > 0 && has(self.toPorts) && size(self.toPorts) > 0)", "cannot be combined with toPorts; make it a rule of its own", ".icmps"),
		demand("!has(self."+d.peer("Requires")+") || size(self."+d.peer("Requires")+") == 0",
			"gone since Cilium 1.19; put the requirements into the peers' selectors", "."+d.peer("Requires")),
	)
}

// onlyOne says in CEL that at most one way to name peers is used.
func onlyOne(d direction, kinds []string) string {
	sum := ""
	for i, k := range kinds {
		if i > 0 {
			sum += " + "
		}
		f := d.peer(k)
		sum += "(has(self." + f + ") && size(self." + f + ") > 0 ? 1 : 0)"
	}
	return sum + " <= 1"
}

func names(d direction, kinds []string) string {
	text := ""
	for i, k := range kinds {
		switch {
		case i == len(kinds)-1:
			text += " and "
		case i > 0:
			text += ", "
		}
		text += d.peer(k)
	}
	return text
}

func cidrRule() schema {
	return exactlyOne(object("", props{
		"cidr":              optional(prefix("A prefix.")),
		"except":            optional(list("Prefixes inside of it that are not meant.", prefix(""))),
		"cidrGroupRef":      optional(nonempty(matching("The name of a CiliumCIDRGroup.", "", 253))),
		"cidrGroupSelector": optional(selector("CiliumCIDRGroups, by label.")),
	}), "cidr", "cidrGroupRef", "cidrGroupSelector")
}

func fqdn() schema {
	return exactlyOne(object("", props{
		"matchName":    optional(nonempty(matching("A name.", "^[-a-zA-Z0-9_]+([.][-a-zA-Z0-9_]+)*[.]?$", 255))),
		"matchPattern": optional(nonempty(matching("A name with * for parts of labels.", "^[-a-zA-Z0-9_.*]+$", 255))),
	}), "matchName", "matchPattern")
}

// selector is a label selector whose keys may have a source: k8s:app.
func selector(about string) schema {
	value := matching("", "^(([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9])?$", 63)
	expression := object("", props{
		"key":      required(matching("NAME or SOURCE:NAME.", "^([^:]+:)?([a-z0-9]([-a-z0-9.]*[a-z0-9])?/)?[A-Za-z0-9]([-A-Za-z0-9_.]*[A-Za-z0-9])?$", 400)),
		"operator": required(oneOf("", "In", "NotIn", "Exists", "DoesNotExist")),
		"values":   optional(list("What In and NotIn compare with.", value)),
	})
	operators := func(names ...string) schema {
		return schema{Required: []string{"operator"}, Properties: map[string]schema{"operator": {Enum: oneOf("", names...).Enum}}}
	}
	expression.AllOf = []schema{
		when(operators("In", "NotIn"), schema{Required: []string{"values"}, Properties: map[string]schema{"values": {MinItems: ptr(int64(1))}}}),
		when(operators("Exists", "DoesNotExist"), schema{Properties: map[string]schema{"values": {MaxItems: ptr(int64(0))}}}),
	}
	return object(about, props{
		"matchLabels":      optional(texts("Labels that must be there; a key is NAME or SOURCE:NAME.", value)),
		"matchExpressions": optional(list("Requirements that must be met, all of them.", expression)),
	})
}
