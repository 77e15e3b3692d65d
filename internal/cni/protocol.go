// SPDX-License-Identifier: Apache-2.0

// Package cni is the conversation between the CNI plugin, which the container runtime starts for every pod that comes or
// goes, and the agent on the same node. Each question is a connection of its own to a socket of the agent's: one line of
// JSON there, one back. With what is asked about a pod goes a descriptor of its network namespace, so that the agent needs
// neither the host's processes nor its mounts to find it.
package cni

import (
	"errors"
	"fmt"
	"net/netip"
	"time"
)

// DefaultSocket is where the agent listens.
const DefaultSocket = "/run/weir/agent.sock"

// PluginType is what the plugin is called in a network configuration, and its file.
const PluginType = "weir-cni"

const (
	protocol    = 1
	maxQuestion = 64 << 10 // bytes; what a plugin has to say takes a few hundred
	maxAnswer   = 64 << 10
)

// ErrAway says that no agent answered: none listens, or it ended before it had answered. It may be back in a moment.
var ErrAway = errors.New("the weir agent does not answer")

// Refusal is the agent's own answer that something cannot be done, and why.
type Refusal struct{ Reason string }

func (r *Refusal) Error() string { return r.Reason }

// Pod is a pod's interface as the container runtime and the plugins before ours know it.
type Pod struct {
	Namespace   string       `json:"namespace"`
	Name        string       `json:"name"`
	UID         string       `json:"uid,omitempty"` // empty: the runtime does not tell
	ContainerID string       `json:"containerID"`   // of the pod's sandbox
	NetNS       string       `json:"netns"`         // path in the host's mount namespace, for people
	Interface   string       `json:"interface"`     // inside the pod: eth0
	Addrs       []netip.Addr `json:"addresses"`
}

// String names the pod for people.
func (p *Pod) String() string { return p.Namespace + "/" + p.Name }

type verb string

const (
	verbAdd     verb = "add"     // answered when the pod is guarded
	verbCheck   verb = "check"   // is it?
	verbRelease verb = "release" // the sandbox is gone
	verbKeep    verb = "keep"    // these sandboxes are all there are
	verbStatus  verb = "status"  // is anybody there?
)

// question is a line to the agent.
type question struct {
	Protocol   int           `json:"protocol"`
	Verb       verb          `json:"verb"`
	Patience   time.Duration `json:"patience,omitempty"` // nanoseconds until the asker gives up
	Pod        *Pod          `json:"pod,omitempty"`
	Containers []string      `json:"containers,omitempty"`
}

// answer is a line from the agent.
type answer struct {
	OK     bool   `json:"ok"`
	Reason string `json:"reason,omitempty"`
}

// check says what is wrong with a question that the agent got.
func (q *question) check(hasNamespace bool) error {
	if q.Protocol != protocol {
		return fmt.Errorf("read question: it is of protocol %d, this agent speaks %d", q.Protocol, protocol)
	}
	switch q.Verb {
	case verbAdd, verbCheck:
		switch {
		case q.Pod == nil || q.Pod.Namespace == "" || q.Pod.Name == "" || q.Pod.ContainerID == "" || q.Pod.Interface == "":
			return fmt.Errorf("read question: %s does not say which pod, container and interface", q.Verb)
		case !hasNamespace:
			return fmt.Errorf("read question: %s of pod %s comes without its network namespace", q.Verb, q.Pod)
		}
	case verbRelease:
		if len(q.Containers) != 1 {
			return fmt.Errorf("read question: %s names %d containers, want one", q.Verb, len(q.Containers))
		}
	case verbKeep, verbStatus:
	default:
		return fmt.Errorf("read question: unknown verb %q", q.Verb)
	}
	return nil
}
