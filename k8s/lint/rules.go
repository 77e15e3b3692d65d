// SPDX-License-Identifier: Apache-2.0

package lint

// Rule is a kind of finding.
type Rule struct {
	ID       string   // stable: annotations and dashboards name it
	Severity Severity // that its findings have if nothing makes them graver or milder
	Summary  string
	Help     string // why it matters and how to mend it
}

// IDs of rules.
const (
	invalidObject     = "invalid-object"
	unsupportedField  = "unsupported-field"
	readDifferently   = "read-differently"
	unresolved        = "unresolved-reference"
	subjectNothing    = "subject-selects-nothing"
	peerNothing       = "peer-selects-nothing"
	orInsteadOfAnd    = "or-instead-of-and"
	guardsOtherSide   = "guards-other-side"
	shadowedByDeny    = "shadowed-by-deny"
	neverAsked        = "never-asked"
	containedInRule   = "contained-in-rule"
	duplicatePolicy   = "duplicate-policy"
	namedPortMissing  = "named-port-missing"
	servicePort       = "service-port"
	portUndeclared    = "port-undeclared"
	portUnadmitted    = "port-unadmitted"
	emptyAdmitsNobody = "empty-rule-admits-nobody"
	emptyAdmitsAll    = "empty-rule-admits-all"
	matchesNothing    = "rule-matches-nothing"
	rulesWithoutType  = "rules-without-type"
	impliedIngress    = "implied-ingress"
	denyIsolates      = "deny-isolates"
	noEffect          = "no-effect"
	dnsForgotten      = "dns-forgotten"
	cidrNamesPods     = "cidr-names-pods"
	ignoreUnknown     = "ignore-unknown"
)

// Rules are all rules, in the order in which a reviewer would care.
func Rules() []Rule {
	return []Rule{
		{invalidObject, Error, "The object is not valid",
			"The API server would refuse this object, or two objects contradict each other. weir refuses a set with a mistake in it as a whole, and the last good one stays enforced. Mend the field that the finding names."},
		{unsupportedField, Error, "The field cannot be enforced",
			"weir judges packets by addresses, protocols and ports. A rule that asks for more isolates its subjects as it says and admits nothing; a deny rule denies all that it could mean. Do what the finding proposes instead."},
		{readDifferently, Note, "The field is read otherwise than it looks",
			"weir, or Cilium, gives this field a meaning that readers do not expect. Write what you mean in the way that the finding proposes. A warning if it leaves the rule without effect."},
		{unresolved, Warning, "The field names what the set does not have",
			"The Service, the CIDR group or the addresses that this field stands for are not among the objects, so it matches nothing until they are. Add the object, or correct the name. A note if the rule has other peers, or if the set has no workloads and may be the policies alone."},
		{subjectNothing, Warning, "The policy selects no pod",
			"No pod or workload of the set has the labels that the policy's own selector asks for, so it guards nothing. Correct the labels, or add the workload to the set. A note if the set may merely lack the workload."},
		{peerNothing, Warning, "A peer selector selects no pod",
			"No pod or workload of the set has the labels, or is in a namespace with the labels, that this peer asks for, so the entry admits or denies nobody. A note if the set may merely lack the workload or the namespace."},
		{orInsteadOfAnd, Warning, "Two peers where one with both selectors is meant",
			"A peer that selects namespaces and a peer that selects pods stand side by side: the first admits every pod of those namespaces, the second pods of the policy's own namespace, where nobody has these labels. Written as one entry with both selectors, they select pods with these labels in those namespaces."},
		{guardsOtherSide, Warning, "The policy guards the other side than its name or its ports suggest",
			"A policy guards the pods that its own selector selects; peers are who may talk to them. A policy that is to keep others from a server must select the server and name the clients as peers. With the two swapped the server stays open to everyone, and the client is cut off."},
		{shadowedByDeny, Warning, "A deny rule takes away all that the rule admits",
			"Any deny that matches beats any rule that admits, whatever its order or its object. All subjects, peers and ports of this rule are within those of a deny rule, so it admits nothing. Narrow the deny rule, or remove this one."},
		{neverAsked, Warning, "An earlier rule or tier decides all that the rule matches",
			"In the tiers of ClusterNetworkPolicy the first rule that matches decides, and what the admin tier decides no other policy is asked about. All subjects, peers and ports of this rule are within those of an earlier one. Change the order or the priority, narrow the earlier rule, or remove this one. A note if both do the same."},
		{containedInRule, Note, "Another rule admits all that the rule admits",
			"Whatever pods there are, subjects, peers and ports of this rule are within those of another, so it adds nothing. Removing it makes the policy easier to read; if the other rule is too wide, narrow that one."},
		{duplicatePolicy, Warning, "Two policies say the same",
			"Two policies have the same subjects and the same rules. Whoever changes one of them changes nothing as long as the other stays. Remove one."},
		{namedPortMissing, Warning, "No pod has a port of that name",
			"The name of a port stands for the container port of that name and protocol: of the guarded pod at ingress, of the other pod at egress. No pod that the rule is about has one, so the entry matches nothing. Correct the name or the protocol, or name the container's port."},
		{servicePort, Warning, "The port is a Service's, not the pod's",
			"Policy sees a packet with the port that the pod listens on: the Service's targetPort, not its port. Write the targetPort."},
		{portUndeclared, Note, "No container declares the port",
			"The containers of the pods that the rule is about declare ports, but not this one. Declarations are information only, so the rule may be right; it may also have the port of something else."},
		{portUnadmitted, Note, "No rule admits traffic to a declared port",
			"The pods are isolated for ingress, other ports of theirs are admitted, and this one that a container declares is not. If somebody is to reach it, add it to a rule."},
		{emptyAdmitsNobody, Note, "An empty rule of a Cilium policy admits nobody",
			"In a cilium.io policy an empty rule ({}) switches default deny on and admits nothing, whereas in a NetworkPolicy it admits everything. To admit everyone write fromEntities: [all] or toEntities: [all]. A warning if the policy's name says that it allows something."},
		{emptyAdmitsAll, Note, "An empty rule of a NetworkPolicy admits everybody",
			"In a NetworkPolicy an empty rule ({}), or an empty list of peers, admits everything. To admit nobody leave the rule out: ingress: []. A warning if the policy's name says that it denies something; a note only if policyTypes does not say which directions are meant."},
		{matchesNothing, Warning, "The rule matches nothing",
			"A list of peers or ports in this rule is written and empty, or no entry of it can match: the rule admits or denies nothing. Leave the list out to mean everyone or every port, or fill it."},
		{rulesWithoutType, Warning, "Rules of a direction that policyTypes does not name",
			"A NetworkPolicy's rules count only in the directions that policyTypes names. Add the direction, or remove the rules."},
		{impliedIngress, Warning, "An egress policy without policyTypes cuts off ingress too",
			"A NetworkPolicy without policyTypes isolates for ingress whatever its rules are. This one has rules for egress only, so it cuts off all ingress that no other policy admits. Write policyTypes: [Egress]. A note if other policies admit ingress."},
		{denyIsolates, Warning, "Deny rules alone deny everything",
			"A cilium.io policy with nothing but deny rules in a direction isolates its subjects in that direction, and no policy admits anything, so everything is denied and not only what the rules say. Add a rule that admits, such as fromEntities: [all], or enableDefaultDeny with false for the direction."},
		{noEffect, Warning, "The policy has no effect",
			"The policy isolates in neither direction, and its rules change nothing: there are none, or they admit what nobody denies. Remove it, or add what it is to isolate."},
		{dnsForgotten, Warning, "Egress is restricted and DNS forgotten",
			"The pods are isolated for egress, are to reach other pods, and no rule admits port 53 to anything that may be a name server, so they cannot look up names. Admit UDP and TCP port 53 to the cluster's DNS. A note if the set has no Service in front of what they are to reach."},
		{cidrNamesPods, Warning, "A CIDR rule of a Cilium policy that names pods",
			"In cilium.io policies CIDR rules match addresses outside the cluster only, never those of pods or nodes. Select the pods by their labels."},
		{ignoreUnknown, Warning, "The annotation to ignore findings names no rule",
			"The annotation weirnet.github.io/lint-ignore lists IDs of rules. One that does not exist suppresses nothing."},
	}
}
