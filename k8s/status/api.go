// SPDX-License-Identifier: Apache-2.0

// Package status tells a cluster how far its policies are enforced. Each node publishes a WeirNode: for each kind of policy
// the resourceVersion up to which everything is enforced there, and what is not enforced as written (Reporter). One operator
// makes of these, for each policy, on how many nodes its present generation is enforced (Board, Operator), and writes that
// as a PolicyStatus, as the condition Enforced, and as Events.
//
// A node's mark is one number for a kind, so what a node writes does not grow with the number of policies. It rests on
// resourceVersions being comparable as integers between objects of a kind (KEP-5504).
package status

import (
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/runtime/schema"
)

// GroupVersion is that of all kinds here.
var GroupVersion = schema.GroupVersion{Group: "weirnet.github.io", Version: "v1alpha1"}

var nodeResource = schema.GroupVersionResource{Version: "v1", Resource: "nodes"}

// Kinds of objects that are written here.
const (
	KindNode                = "WeirNode"
	KindPolicyStatus        = "PolicyStatus"
	KindClusterPolicyStatus = "ClusterPolicyStatus"
)

// Their resources.
var (
	NodeResource                = GroupVersion.WithResource("weirnodes")
	PolicyStatusResource        = GroupVersion.WithResource("policystatuses")
	ClusterPolicyStatusResource = GroupVersion.WithResource("clusterpolicystatuses")
)

// Phases of a node.
const (
	PhaseEnforcing = "Enforcing" // what the marks say
	PhaseFailing   = "Failing"   // what the marks say and nothing newer, because of the failure
	PhaseCleaned   = "Cleaned"   // weir has left the node; nothing is enforced
)

// WeirNode is what a node's agent says of itself. It has the name of the Node, and goes away with it.
type WeirNode struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Status NodeStatus `json:"status,omitempty"`
}

// NodeStatus is how far a node has come.
type NodeStatus struct {
	Phase           string      `json:"phase,omitempty"`
	AgentVersion    string      `json:"agentVersion,omitempty"`
	BootID          string      `json:"bootID,omitempty"` // of the kernel that enforces: another one enforces nothing of this
	StartedAt       metav1.Time `json:"startedAt,omitzero"`
	AppliedAt       metav1.Time `json:"appliedAt,omitzero"` // when marks or exceptions last changed
	ImageGeneration int64       `json:"imageGeneration,omitempty"`
	Policies        int32       `json:"policies"` // enforced, of all kinds
	Failure         string      `json:"failure,omitempty"`
	Kinds           []KindMark  `json:"kinds,omitempty"`
	// Exceptions are what is not enforced as written although the marks cover it. Those past the limit are counted by
	// ExceptionsOmitted: while that is not zero, nothing can be said of a policy that has no exception here.
	Exceptions        []Exception `json:"exceptions,omitempty"`
	ExceptionCount    int32       `json:"exceptionCount"`
	ExceptionsOmitted int32       `json:"exceptionsOmitted,omitempty"`
}

// KindMark says that every policy of a kind is enforced in its version of ResourceVersion or a later one.
type KindMark struct {
	Kind            string `json:"kind"`
	ResourceVersion string `json:"resourceVersion"`
	Policies        int32  `json:"policies"`
}

// Exception is a policy that is in force otherwise than written. Field and Message may be missing where there are many: other
// nodes have them.
type Exception struct {
	Kind      string `json:"kind"`
	Namespace string `json:"namespace,omitempty"`
	Name      string `json:"name"`
	Reason    string `json:"reason"` // k8s.Reason...
	Field     string `json:"field,omitempty"`
	Message   string `json:"message,omitempty"`
}

// PolicyStatus is how far one policy is enforced. ClusterPolicyStatus is the same for policies without namespace.
type PolicyStatus struct {
	metav1.TypeMeta   `json:",inline"`
	metav1.ObjectMeta `json:"metadata,omitempty"`

	Policy PolicyReference `json:"policy"`
	Status PolicyState     `json:"status,omitempty"`
}

// PolicyReference names the policy.
type PolicyReference struct {
	APIVersion string `json:"apiVersion"`
	Kind       string `json:"kind"`
	Name       string `json:"name"`
	UID        string `json:"uid"`
}

// PolicyState is on how many nodes which generation is in force.
type PolicyState struct {
	ObservedGeneration int64 `json:"observedGeneration"`
	// ResourceVersion is that of the policy when this generation, audited or not, was first seen: nodes whose mark has
	// reached it have applied it.
	ResourceVersion string `json:"resourceVersion"`
	Audited         bool   `json:"audited,omitempty"`

	Summary   string       `json:"summary"`   // "4998/5000"
	Nodes     int32        `json:"nodes"`     // that must enforce it
	Applied   int32        `json:"applied"`   // that have applied this generation
	Enforced  int32        `json:"enforced"`  // that enforce it as written
	Waiting   []string     `json:"waiting"`   // some of those that have not applied it; never null
	Reasons   []NodeReason `json:"reasons"`   // why it is not enforced as written, and notes; never null
	ChangedAt metav1.Time  `json:"changedAt"` // when this generation was first seen
	// EnforcedAt is when all nodes enforced it, for the first time.
	EnforcedAt *metav1.Time `json:"enforcedAt,omitempty"`

	Conditions []metav1.Condition `json:"conditions"`
}

// NodeReason is why nodes do not enforce a policy as written, or a note about how they read it.
type NodeReason struct {
	Reason string        `json:"reason"`
	Note   bool          `json:"note,omitempty"` // the policy is enforced all the same
	Nodes  int32         `json:"nodes"`
	Sample []string      `json:"sample,omitempty"`
	Fields []ReasonField `json:"fields,omitempty"`
}

// ReasonField is a field of a policy and what is the matter with it.
type ReasonField struct {
	Field   string `json:"field,omitempty"`
	Message string `json:"message"`
}

// ConditionEnforced is the type of the one condition.
const ConditionEnforced = "Enforced"

// Reasons of the condition Enforced.
const (
	ReasonEnforced      = "Enforced"       // True: on all nodes, as written
	ReasonProgressing   = "Progressing"    // False: nodes have not applied this generation yet
	ReasonNodesFailing  = "NodesFailing"   // False: some of them cannot, and say why
	ReasonNotEnforced   = "NotEnforceable" // False: a field cannot be enforced as written
	ReasonTooLarge      = "TooLarge"       // False: the policies of the namespace do not fit
	ReasonRefused       = "Refused"        // False: the object is wrong
	ReasonAudited       = "Audited"        // False: as asked for, under audit
	ReasonNodesNotReady = "NodesNotReady"  // Unknown: all nodes that are ready enforce it, others cannot be asked
	ReasonUnlisted      = "Unlisted"       // Unknown: nodes have more exceptions than they list
	ReasonNoNodes       = "NoNodes"        // Unknown: no node runs weir
)
