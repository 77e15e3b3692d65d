// SPDX-License-Identifier: Apache-2.0

package cluster

import (
	"bufio"
	"encoding/json"
	"fmt"
	"os"
	"strings"
)

// What the apiserver's audit log keeps: who asked for what, for service accounts that are not the controllers' own.
const auditPolicy = `apiVersion: audit.k8s.io/v1
kind: Policy
omitStages: [RequestReceived]
rules:
- level: Metadata
  userGroups: ["system:serviceaccounts"]
- level: None
`

// Request is one that a service account made of the apiserver.
type Request struct {
	User      string // system:serviceaccount:NAMESPACE:NAME
	Verb      string // watch, list, get, ...
	Group     string // API group; empty: core
	Resource  string // with its subresource: weirnodes/status
	Namespace string
	Name      string
	Code      int // HTTP status; 0: a watch that goes on
}

func (r Request) String() string {
	group := r.Group
	if group != "" {
		group = "." + group
	}
	return fmt.Sprintf("%s %s%s %s/%s: %d", r.Verb, r.Resource, group, r.Namespace, r.Name, r.Code)
}

// Requests are those that a service account has made so far, of namespace and name.
func (c *Cluster) Requests(namespace, name string) ([]Request, error) {
	file, err := os.Open(c.controlFile("audit.log"))
	if err != nil {
		return nil, fmt.Errorf("read the audit log: %w", err)
	}
	defer file.Close()
	user := "system:serviceaccount:" + namespace + ":" + name
	var requests []Request
	lines := bufio.NewScanner(file)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if !strings.Contains(lines.Text(), user) {
			continue
		}
		var event struct {
			Verb string
			User struct{ Username string }
			// Not of requests for URLs that are no resources.
			ObjectRef      struct{ Resource, Subresource, Namespace, Name, APIGroup string }
			ResponseStatus struct{ Code int }
		}
		if err := json.Unmarshal(lines.Bytes(), &event); err != nil {
			return nil, fmt.Errorf("read the audit log: %w", err)
		}
		if event.User.Username != user || event.ObjectRef.Resource == "" {
			continue
		}
		resource := event.ObjectRef.Resource
		if event.ObjectRef.Subresource != "" {
			resource += "/" + event.ObjectRef.Subresource
		}
		requests = append(requests, Request{User: user, Verb: event.Verb, Group: event.ObjectRef.APIGroup, Resource: resource,
			Namespace: event.ObjectRef.Namespace, Name: event.ObjectRef.Name, Code: event.ResponseStatus.Code})
	}
	return requests, lines.Err()
}
