// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"testing"
)

// Policies that come and go do not leave their selectors' sets behind for ever.
func TestSetsOfFormerPoliciesAreForgotten(t *testing.T) {
	p, m := NewPlanner(), smallModel()
	step(t, p, m)
	for i := range 3 * manySets {
		m.Policies = []Policy{{Key: "p", Subject: labels("app", In, fmt.Sprint(i)), Isolates: [2]bool{true}}}
		plan, err := p.PlanChanges(Changes{Policies: m.Policies})
		if err != nil {
			t.Fatal(err)
		}
		p.Commit(plan)
	}
	if n := len(p.memo.all.sets) + len(p.memo.locals.sets); n > manySets+100 {
		t.Errorf("%d sets are remembered of one policy's", n)
	}
}
