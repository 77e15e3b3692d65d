// SPDX-License-Identifier: Apache-2.0

package status

import (
	"cmp"
	"hash/fnv"
	"slices"
	"strconv"
	"strings"

	"github.com/weirnet/weir/k8s"
)

// Limits of the exceptions that a node lists, so that it stays small however many there are: a WeirNode is read by everybody
// who watches it, and there are thousands of them.
const (
	maxDetails     = 40   // with field and message
	maxExceptions  = 1000 // in all
	maxMessage     = 300  // characters
	maxFailure     = 500
	truncationMark = "…"
)

// version reads a resourceVersion; 0 is one that is no number, older than all that are.
func version(text string) uint64 {
	v, err := strconv.ParseUint(text, 10, 64)
	if err != nil {
		return 0
	}
	return v
}

func hash(text string) string {
	h := fnv.New64a()
	h.Write([]byte(text))
	return strconv.FormatUint(h.Sum64(), 36)
}

// marks says up to which version each kind of refs is enforced if refs is all that is. The highest version counts: a change
// of a policy that it does not cover has a higher one, and would be in refs.
func marks(refs []k8s.PolicyRef) []KindMark {
	type high struct {
		version  uint64
		policies int32
	}
	byKind := map[string]high{}
	for i := range refs {
		h := byKind[refs[i].Kind]
		byKind[refs[i].Kind] = high{max(h.version, version(refs[i].ResourceVersion)), h.policies + 1}
	}
	out := make([]KindMark, 0, len(byKind))
	for kind, h := range byKind {
		out = append(out, KindMark{Kind: kind, ResourceVersion: strconv.FormatUint(h.version, 10), Policies: h.policies})
	}
	slices.SortFunc(out, func(a, b KindMark) int { return cmp.Compare(a.Kind, b.Kind) })
	return out
}

// blocking says whether a policy that a node lists with this reason is not enforced as written. The others are notes.
func blocking(reason string) bool {
	switch reason {
	case k8s.ReasonUnsupported, k8s.ReasonTooLarge, k8s.ReasonRefused:
		return true
	}
	return false
}

// exceptions lists what statuses say of policies, the same for the same statuses, and how many blocking ones were left out.
// Past maxDetails, what is listed has neither field nor message and each policy and reason is listed once; offset, which
// differs between nodes, moves which of them have details, so that the nodes together tell all. Notes are left out first.
// That a policy is under audit is no exception: it stands in the policy.
func exceptions(statuses []k8s.Status, offset uint32) (list []Exception, omitted int) {
	var blockers, notes []Exception
	for _, s := range statuses {
		kind, object, _ := strings.Cut(s.Object, " ")
		if _, isPolicy := kindsByName[kind]; !isPolicy || s.Reason == k8s.ReasonAudited {
			continue
		}
		e := Exception{Kind: kind, Name: object, Reason: s.Reason, Field: s.Path, Message: truncate(s.Message, maxMessage)}
		if namespace, name, ok := strings.Cut(object, "/"); ok {
			e.Namespace, e.Name = namespace, name
		}
		if blocking(s.Reason) {
			blockers = append(blockers, e)
		} else {
			notes = append(notes, e)
		}
	}
	slices.SortStableFunc(blockers, compareExceptions)
	slices.SortStableFunc(notes, compareExceptions)
	if len(blockers) <= maxDetails {
		return append(blockers, notes[:min(len(notes), maxDetails-len(blockers))]...), 0
	}
	first := int(offset % uint32(len(blockers)))
	for i, e := range blockers {
		again := i > 0 && blockers[i-1].about(e)
		if (i-first+len(blockers))%len(blockers) >= maxDetails {
			e.Field, e.Message = "", ""
			if n := len(list); again && (n == 0 || list[n-1].about(e) || n == maxExceptions) {
				continue
			}
		}
		if len(list) < maxExceptions {
			list = append(list, e)
		} else if !again {
			omitted++
		}
	}
	return list, omitted
}

// about says whether two exceptions are about the same policy for the same reason.
func (e Exception) about(o Exception) bool {
	return e.Kind == o.Kind && e.Namespace == o.Namespace && e.Name == o.Name && e.Reason == o.Reason
}

func compareExceptions(a, b Exception) int {
	return cmp.Or(cmp.Compare(a.Kind, b.Kind), cmp.Compare(a.Namespace, b.Namespace), cmp.Compare(a.Name, b.Name),
		cmp.Compare(a.Reason, b.Reason), cmp.Compare(a.Field, b.Field), cmp.Compare(a.Message, b.Message))
}

// truncate cuts text to at most limit characters.
func truncate(text string, limit int) string {
	if len(text) <= limit {
		return text
	}
	runes := []rune(text)
	if len(runes) <= limit {
		return text
	}
	return string(runes[:limit-1]) + truncationMark
}
