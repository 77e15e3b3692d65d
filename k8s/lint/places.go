// SPDX-License-Identifier: Apache-2.0

package lint

import (
	"encoding/json"
	"fmt"
	"slices"
	"strconv"
	"strings"

	"github.com/weirnet/weir/policy"
)

// places are the paths of a rule's peers and ports in its object, one for each of policy.Rule's. Where the object has not
// one field for each of them, it is the path of the list, or of the rule.
type places struct{ peers, ports []string }

// places finds a rule's peers and ports in its object.
func (s *scene) places(object string, r *policy.Rule) places {
	fields, _ := at(s.tree(object), r.Path).(map[string]any)
	p := places{peers: repeat(r.Path, len(r.Peers)), ports: repeat(r.Path, len(r.Ports))}
	for key, value := range fields {
		list, _ := value.([]any)
		path := r.Path + "." + key
		switch {
		case key == "toPorts" || key == "ports" || key == "icmps" || key == "protocols":
			if list != nil {
				p.ports = portPlaces(path, list, len(r.Ports))
			}
		case strings.HasPrefix(key, "from") || strings.HasPrefix(key, "to"):
			if len(list) > 0 {
				p.peers = peerPlaces(path, list, r.Peers)
			}
		}
	}
	return p
}

func repeat(path string, n int) []string {
	return slices.Repeat([]string{path}, n)
}

// peerPlaces leads each peer to the item of list that it was made of.
func peerPlaces(path string, list []any, peers []policy.Peer) []string {
	if len(list) == len(peers) {
		return indices(path, len(peers))
	}
	// Items about reserved identities become other kinds of peers, several or none.
	out := repeat(path, len(peers))
	var selectors []string
	for i, item := range list {
		if data, _ := json.Marshal(item); !strings.Contains(string(data), `"reserved:`) {
			selectors = append(selectors, fmt.Sprintf("%s[%d]", path, i))
		}
	}
	var at []int
	for i := range peers {
		if peers[i].Kind == policy.PeerSelector {
			at = append(at, i)
		}
	}
	if len(at) == len(selectors) {
		for i := range at {
			out[at[i]] = selectors[i]
		}
	}
	return out
}

func indices(path string, n int) []string {
	out := make([]string, n)
	for i := range out {
		out[i] = path + "[" + strconv.Itoa(i) + "]"
	}
	return out
}

// portPlaces leads each port to the entry that it was made of. An entry of toPorts without a protocol is one port for each
// of TCP, UDP and SCTP.
func portPlaces(path string, list []any, n int) []string {
	var out []string
	for i, item := range list {
		fields, _ := item.(map[string]any)
		ports, nested := fields["ports"].([]any)
		if !nested {
			out = append(out, fmt.Sprintf("%s[%d]", path, i))
			continue
		}
		for j, port := range ports {
			protocol, _ := port.(map[string]any)["protocol"].(string)
			count := 1
			if protocol == "" || protocol == "ANY" {
				count = 3
			}
			out = append(out, repeat(fmt.Sprintf("%s[%d].ports[%d]", path, i, j), count)...)
		}
	}
	if len(out) != n {
		return repeat(path, n)
	}
	return out
}

// tree is an object as it is written.
func (s *scene) tree(object string) any {
	tree, known := s.trees[object]
	if subject := s.objects[object]; !known && subject != nil {
		tree = s.in.Tree(s.in.Objects.Origin(subject), object)
		s.trees[object] = tree
	}
	return tree
}

// at is the value that a path leads to; nil if there is none.
func at(tree any, path string) any {
	for _, step := range strings.FieldsFunc(path, func(r rune) bool { return r == '.' || r == '[' || r == ']' }) {
		switch node := tree.(type) {
		case map[string]any:
			tree = node[step]
		case []any:
			i, err := strconv.Atoi(step)
			if err != nil || i < 0 || i >= len(node) {
				return nil
			}
			tree = node[i]
		default:
			return nil
		}
	}
	return tree
}

// subjectPath is where a policy says whom it guards.
func (s *scene) subjectPath(g *guard) string {
	spec, _ := at(s.tree(g.Key), g.root).(map[string]any)
	for _, key := range []string{"endpointSelector", "podSelector", "subject"} {
		if _, written := spec[key]; written {
			return g.root + "." + key
		}
	}
	return g.root
}
