// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"encoding/binary"
	"fmt"
	"slices"
)

// Policies under audit enforce nothing. An image therefore has two planes: the enforced one, of all other policies, and the
// audited one, of all policies as if none were under audit. A pod that no policy under audit selects has the same row in
// both. Where they differ, the cells of the enforced plane say which of its permissions the audited plane does not give.

// plane is what a set of policies means for a local pod in one direction.
type plane struct {
	rules     []int32 // of compiler.rules, sorted
	isolated  bool
	policed   bool   // by any policy at all
	standing  bool   // the node may reach the pod
	isolation uint16 // the number for who isolates, where only policies under audit do; 0: none
}

// equal says that both planes make the same of every packet.
func (p *plane) equal(q *plane) bool {
	return p.isolated == q.isolated && p.policed == q.policed && slices.Equal(p.rules, q.rules)
}

// planes are what policies mean for a local pod in one direction, without those under audit and with them.
func (c *compiler) planes(policies []int32, subject int32, dir Direction) (enforced, audited plane, err error) {
	if audited, err = c.effective(policies, subject, dir); err != nil {
		return plane{}, plane{}, err
	}
	if !slices.ContainsFunc(policies, func(i int32) bool { return c.policies[i].Audit }) {
		return audited, audited, nil
	}
	rest := slices.DeleteFunc(slices.Clone(policies), func(i int32) bool { return c.policies[i].Audit })
	if enforced, err = c.effective(rest, subject, dir); err != nil {
		return plane{}, plane{}, err
	}
	if !audited.isolated || enforced.isolated {
		return enforced, audited, nil
	}
	for _, i := range policies {
		if p := &c.policies[i]; p.Audit && p.Isolates[dir] {
			number, ok := c.n.rules[isolationName(p.Key, dir)]
			if !ok {
				return plane{}, plane{}, fmt.Errorf("%s has no number for its isolation", p.Key)
			}
			if audited.isolation == 0 || number < audited.isolation {
				audited.isolation = number
			}
		}
	}
	return enforced, audited, nil
}

// isolationName is the name under which what a policy under audit denies by default is counted.
func isolationName(key string, dir Direction) RuleName {
	return RuleName{Policy: key, Path: dir.String() + " isolation"}
}

// auditedIsolations are the names of a policy's isolations, if it is under audit.
func (p *Policy) auditedIsolations() (names []RuleName) {
	for _, dir := range []Direction{Ingress, Egress} {
		if p.Audit && p.Isolates[dir] {
			names = append(names, isolationName(p.Key, dir))
		}
	}
	return names
}

// AuditedPolicies lists the policies under audit by their keys, sorted.
func (img *Image) AuditedPolicies() []string {
	var keys []string
	for i := range img.keys.Policies {
		if p := &img.keys.Policies[i]; p.Audit {
			keys = append(keys, p.Key)
		}
	}
	slices.Sort(keys)
	return slices.Compact(keys)
}

// planesDiffer says whether policies under audit select the pods of identity subject in direction dir.
func (img *Image) planesDiffer(dir Direction, subject uint32) bool {
	enforced, audited := img.row(offSubjects, dir, subject), img.row(offAudited, dir, subject)
	return enforced != audited && !bytes.Equal(img.bytes[enforced:][:imageRowSize], img.bytes[audited:][:imageRowSize])
}

// rowSpec says what a row is made of.
type rowSpec struct {
	plane
	audited *plane // of a row of the enforced plane that differs from that of the audited one; it has all of its rules
}

// widest is the plane with all rules that tell peers or ports apart.
func (s *rowSpec) widest() *plane {
	if s.audited != nil {
		return s.audited
	}
	return &s.plane
}

// mark is rowAudit for the row of a pod that only policies under audit select.
func (s *rowSpec) mark() uint32 {
	if s.policed {
		return 0
	}
	return rowAudit
}

// key is equal for equal rows of one direction; the rules say which, but for rows that have none.
func (s *rowSpec) key(dir Direction) string {
	all := s.widest()
	flags := byte(0)
	for i, set := range []bool{s.isolated, all.isolated, s.policed, s.audited != nil, all.standing} {
		if set {
			flags |= 1 << i
		}
	}
	key := []byte{byte(dir), flags}
	key = binary.LittleEndian.AppendUint16(key, all.isolation)
	for _, r := range all.rules {
		key = binary.LittleEndian.AppendUint32(key, uint32(r))
	}
	return string(key)
}

// decide returns the cells of the row for peers that rules match, those of its widest plane. In a row of the audited plane, what
// is denied by default names the isolation.
func (s *rowSpec) decide(rules []*compiledRule, portSets map[int32][]int32, parts []cellParts) []Cell {
	all := s.widest()
	set := decide(rules, portSets, all.isolated, parts)
	if s.audited == nil {
		for i, c := range set {
			if all.isolation != 0 && c == cell(false, 0) {
				set[i] = cell(false, all.isolation) | cellAudit
			}
		}
		return set
	}
	own := make([]*compiledRule, 0, len(rules))
	for _, r := range rules {
		if !r.audit && (!r.standing || s.standing) {
			own = append(own, r)
		}
	}
	cells := decide(own, portSets, s.isolated, parts)
	for i, c := range cells {
		if c.Allow() && !set[i].Allow() {
			cells[i] |= cellAudit
		}
	}
	return cells
}
