// SPDX-License-Identifier: Apache-2.0

package main

import (
	apiextensionsv1 "k8s.io/apiextensions-apiserver/pkg/apis/apiextensions/v1"
)

// A port is a number up to 65535 or a service name (RFC 6335 section 5.1).
const portPattern = "^([0-9]{1,4}|[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]|([A-Za-z0-9]-?)*[A-Za-z](-?[A-Za-z0-9])*)$"

// ported and bare are the protocols with and without ports.
func ported() []string { return []string{"TCP", "UDP", "SCTP", "ANY"} }
func bare() []string   { return []string{"IGMP", "IPIP", "IPV6", "GRE", "ESP", "AH", "VRRP"} }

// portRule is an entry of toPorts. Deny rules have ports only.
func portRule(d direction) schema {
	ports := list("Ports, of which one must match; none match nothing.", portSchema(d))
	ports.MaxItems = ptr(int64(maxPorts))
	fields := props{"ports": optional(ports)}
	if d.deny {
		return object("", fields)
	}
	for name, f := range layer7() {
		fields[name] = f
	}
	// What Cilium knew once. It is here to be refused: left out, it would be removed, and with it what narrows the rule.
	const l7 = "has(self.rules) && "
	rules := []apiextensionsv1.ValidationRule{
		demand("!("+l7+"(has(self.rules.kafka) || has(self.rules.l7proto) || has(self.rules.l7)))",
			"rules for Kafka and generic parsers are gone since Cilium 1.20; admit the ports without them, or use http", ".rules"),
		demand("!("+l7+"has(self.rules.http) && has(self.rules.dns))", "has http and dns; write one of them", ".rules"),
		demand("!("+l7+"has(self.rules.dns) && size(self.rules.dns) > 0 && !(has(self.ports) && size(self.ports) > 0))",
			"missing; DNS rules need the port, 53", ".ports"),
	}
	if !d.egress {
		rules = append(rules,
			demand("!("+l7+"has(self.rules.dns) && size(self.rules.dns) > 0)", "not possible at ingress; write http, or move it to egress", ".rules"),
			demand("!has(self.listener)", "not possible at ingress; remove it", ".listener"))
	}
	if d.single {
		const http, dns = l7 + "has(self.rules.http) && size(self.rules.http) > 0", l7 + "has(self.rules.dns) && size(self.rules.dns) > 0"
		rules = append(rules,
			demand("!("+http+" && has(self.ports)) || self.ports.all(p, has(p.protocol) && p.protocol == 'TCP')",
				"where http rules are, every port needs protocol: TCP", ".ports"),
			demand("!(("+http+" || "+dns+") && has(self.ports)) || self.ports.all(p, has(p.port) && p.port != '0')",
				"where http or dns rules are, a port cannot be 0, which is every port; write its number", ".ports"))
	}
	return object("", fields, rules...)
}

func portSchema(d direction) schema {
	s := object("", props{
		"port":     optional(matching(`A number or a name, quoted; "0" is every port.`, portPattern, 15)),
		"endPort":  optional(integer("The last port, if it is a range.", 0, 65535)),
		"protocol": optional(oneOf("ANY unless said otherwise: TCP, UDP and SCTP. ICMP goes into icmps.", append(ported(), bare()...)...)),
	})
	// Said so, it costs nothing of the budget that rules have.
	s.AllOf = []schema{
		when(schema{Properties: map[string]schema{"protocol": {Enum: oneOf("", ported()...).Enum}}}, schema{Required: []string{"port"}}), // or none
		when(schema{Required: []string{"protocol"}, Properties: map[string]schema{"protocol": {Enum: oneOf("", bare()...).Enum}}},
			schema{Properties: map[string]schema{"port": {Enum: oneOf("", "0").Enum}}}),
	}
	if d.single {
		s.XValidations = append(s.XValidations, demand("!has(self.endPort) || self.endPort == 0 || !has(self.port) || !self.port.matches('^[0-9]+$') || self.endPort >= int(self.port)",
			"is below port; write the last port of the range", ".endPort"))
	}
	return s
}

// layer7 is what needs a proxy. weir has none: it admits nothing by a rule that asks for one, and says so in the policy's
// status. So that it can, the fields are here.
func layer7() props {
	secret := object("A Secret.", props{"name": required(nonempty(text("Its name."))), "namespace": optional(text("Its namespace."))})
	tls := object("TLS at a proxy. weir has none: such a rule admits nothing.", props{
		"secret": required(secret), "trustedCA": optional(text("")), "certificate": optional(text("")), "privateKey": optional(text("")),
	})
	return props{
		"terminatingTLS": optional(tls),
		"originatingTLS": optional(tls),
		"serverNames":    optional(list("Names in TLS. weir does not read them: such a rule admits nothing.", nonempty(text("")))),
		"listener": optional(object("A listener of Envoy. weir has none: such a rule admits nothing.", props{
			"envoyConfig": required(object("", props{"kind": optional(text("")), "name": required(nonempty(text("")))})),
			"name":        required(nonempty(text(""))), "priority": optional(integer("", 0, 255)),
		})),
		"rules": optional(object("Rules for requests. weir judges packets: such a rule admits nothing.", props{
			"http": optional(list("", object("", props{
				"path": optional(text("")), "method": optional(text("")), "host": optional(text("")), "headers": optional(list("", text(""))),
				"headerMatches": optional(list("", object("", props{"name": required(nonempty(text(""))), "mismatch": optional(text("")), "secret": optional(secret),
					"value": optional(text(""))}))),
			}))),
			"dns":     optional(list("", fqdn())),
			"kafka":   optional(list("Gone since Cilium 1.20.", anything(""))),
			"l7proto": optional(text("Gone since Cilium 1.20.")),
			"l7":      optional(list("Gone since Cilium 1.20.", anything(""))),
		})),
	}
}
