// SPDX-License-Identifier: Apache-2.0

package policy

// part is those ports of a pair of cells that turn for one reason.
type part struct {
	allowed bool
	cause   int32
	ports   portSet
}

// ways divides ports that turn by the causes on both sides.
func (c *comparer) ways(egress, ingress [2]int32, added, removed int32) []turnKey {
	key := [4]int32{egress[0], egress[1], ingress[0], ingress[1]}
	if ways, known := c.known[key]; known {
		return ways
	}
	var ways []turnKey
	for _, turn := range []struct {
		allowed bool
		ports   int32
	}{{true, added}, {false, removed}} {
		if turn.ports == 0 {
			continue
		}
		for _, e := range c.partsOf(Egress, egress, turn.allowed) {
			for _, i := range c.partsOf(Ingress, ingress, turn.allowed) {
				if common := c.port.common(turn.ports, e.ports, i.ports); common != 0 {
					ways = append(ways, turnKey{turn.allowed, common, e.cause, i.cause})
				}
			}
		}
	}
	c.known[key] = ways
	return ways
}

// partsOf divides the ports by whether and why a side turns; the part of those that do not turn so has no cause.
func (c *comparer) partsOf(dir Direction, cells [2]int32, allowed bool) []part {
	key := partKey{dir, cells}
	parts, known := c.parts[key]
	if !known {
		parts = c.divideByCause(dir, cells)
		c.parts[key] = parts
	}
	rest := c.port.empty()
	for i := range rest {
		rest[i] = ^uint64(0)
	}
	out := []part{{allowed: allowed, ports: rest}}
	for _, p := range parts {
		if p.allowed == allowed {
			out = append(out, p)
			rest.cut(p.ports)
		}
	}
	return out
}

type partKey struct {
	direction Direction
	cells     [2]int32
}

func (c *comparer) divideByCause(dir Direction, cells [2]int32) []part {
	var parts []part
	turned := c.port.empty()
	old, now := c.port.sets[c.sides[0].cells[cells[0]].set], c.port.sets[c.sides[1].cells[cells[1]].set]
	for i := range turned {
		turned[i] = old[i] ^ now[i]
	}
	turned.each(func(class int) {
		allow, rule := c.sides[1].cause(cells[1], class)
		known := knownCause{direction: dir, rule: rule, allow: allow}
		if rule == (RuleName{}) && allow {
			_, known.was = c.sides[0].cause(cells[0], class)
		}
		cause := c.causeNumber(known)
		for i := range parts {
			if parts[i].cause == cause {
				parts[i].ports.add(class)
				return
			}
		}
		parts = append(parts, part{allow, cause, c.port.empty()})
		parts[len(parts)-1].ports.add(class)
	})
	return parts
}

// knownCause is a Cause but for the policies that isolate, which depend on the pods.
type knownCause struct {
	direction Direction
	rule, was RuleName
	allow     bool
}

func (c *comparer) causeNumber(key knownCause) int32 {
	number, ok := c.causeNumbers[key]
	if !ok {
		c.causes = append(c.causes, key)
		number = int32(len(c.causes))
		c.causeNumbers[key] = number
	}
	return number
}

// because tells the causes of a turn for those it is about.
func (c *comparer) because(t turnKey, sources, destinations memberSet) []Cause {
	var all []Cause
	for _, side := range []struct {
		cause int32
		of    memberSet
	}{{t.ingress, destinations}, {t.egress, sources}} {
		if side.cause == 0 {
			continue
		}
		known := c.causes[side.cause-1]
		why := Cause{Direction: known.direction, Rule: known.rule, Was: known.was}
		if !known.allow && known.rule == (RuleName{}) {
			keys := map[string]bool{}
			for _, m := range side.of.list() {
				if m := c.members[m]; m.kind == memberPods {
					for _, key := range c.sides[1].readings[m.reading[1]].isolating(m.ids[1], known.direction) {
						keys[key] = true
					}
				}
			}
			why.Isolating = sortedStrings(keys)
		}
		all = append(all, why)
	}
	return all
}
