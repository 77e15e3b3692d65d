// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"errors"
	"net/netip"
	"time"

	"github.com/weirnet/weir/policy"
)

// Update is what a source hands over: the whole state of a cluster, or what has changed in it. A source hands over one
// Update at a time and waits for the answer; after an error, the next one holds what this one held.
type Update struct {
	// Model makes the whole model. What came after the Update was handed over may be in it already.
	Model func() *policy.Model
	// Changes are what is new since the last Update that was not refused; nil: anything may be.
	Changes *policy.Changes
	// Statuses of all objects, sorted by object; Policies, all those that the Update contains, sorted by name.
	Statuses []Status
	Policies []PolicyRef
	// Received says when each of the news in the Update came.
	Received []time.Time
}

// ErrPodGone says that a claimed pod is deleted or has finished.
var ErrPodGone = errors.New("the pod is gone")

// ErrOverruled says that the API has said another address of a claimed pod since.
var ErrOverruled = errors.New("the API says another address now")

// PodClaim is what a CNI plugin knows of a pod that it is about to start: its addresses, before the API does.
type PodClaim struct {
	Namespace, Name string
	UID             string // empty: whatever pod has the name
	ContainerID     string // of the pod's sandbox
	Addrs           []netip.Addr
	Interface       string // host side of the pod's veth
	NetNS           string // path of the pod's network namespace
}

// PodKey is the name that the policy's model has for the pod.
func (c *PodClaim) PodKey() string { return c.Namespace + "/" + c.Name }
