// SPDX-License-Identifier: Apache-2.0

package policy

// partition splits 0..n-1 into the classes that a sequence of sets does not tell apart (partition refinement: Paige and
// Tarjan, SIAM Journal on Computing 1987). A split costs time in the set's size only.
type partition struct {
	of          []int32 // element → class
	size        []int32 // class → elements
	hits, fresh []int32 // scratch, by class: members of the set; what they become
	touched     []int32 // scratch: classes with members in the set

	// Scratch of localClasses: element → its place among those that are in a list; element → class.
	dense []int32
	class []uint16
}

// reset makes 0..n-1 one class.
func (p *partition) reset(n int) {
	if cap(p.of) < n {
		p.of = make([]int32, n)
	}
	p.of = p.of[:n]
	clear(p.of)
	p.size = append(p.size[:0], int32(n))
	p.hits = append(p.hits[:0], 0)
	p.fresh = append(p.fresh[:0], 0)
}

// split tells the members of set, which has no duplicates, apart from all others.
func (p *partition) split(set []int32) {
	p.touched = p.touched[:0]
	for _, e := range set {
		c := p.of[e]
		if p.hits[c] == 0 {
			p.touched = append(p.touched, c)
		}
		p.hits[c]++
	}
	for _, e := range set {
		c := p.of[e]
		if p.hits[c] == p.size[c] {
			continue // all of it is in set
		}
		if p.fresh[c] == 0 {
			p.fresh[c] = int32(len(p.size))
			p.size = append(p.size, p.hits[c])
			p.hits = append(p.hits, 0)
			p.fresh = append(p.fresh, 0)
		}
		p.of[e] = p.fresh[c]
	}
	for _, c := range p.touched {
		if p.fresh[c] != 0 {
			p.size[c] -= p.hits[c]
		}
		p.hits[c], p.fresh[c] = 0, 0
	}
}

// compact numbers the classes in the order in which their first elements appear in order, writes each element's number
// to out, and returns how many there are.
func (p *partition) compact(order []int32, out []uint16) int {
	next := int32(0)
	for i := range p.fresh {
		p.fresh[i] = -1
	}
	for _, e := range order {
		c := p.of[e]
		if p.fresh[c] < 0 {
			p.fresh[c] = next
			next++
		}
		out[e] = uint16(p.fresh[c])
	}
	clear(p.fresh)
	return int(next)
}

// classesOf lists the classes of the members of set, each once, in order of first appearance.
func classesOf(set []int32, class []uint16, stamp []int32, mark int32) []int32 {
	var classes []int32
	for _, e := range set {
		if c := class[e]; stamp[c] != mark {
			stamp[c] = mark
			classes = append(classes, int32(c))
		}
	}
	return classes
}

// localClasses divides 0..n-1 into the classes that the lists of rules do not tell apart. It returns the class of each,
// the classes that each list consists of by the list's id, and the number of classes; the first until the next call. Of the elements that are in no list
// it takes no notice: most are in none.
func localClasses(p *partition, n int, rules []compiledRule, of func(*compiledRule) *list) ([]uint16, map[int32][]int32, int) {
	sets := make(map[int32][]int32, len(rules))
	lists := make([]*list, 0, len(rules))
	if len(p.dense) < n {
		p.dense, p.class = make([]int32, n), make([]uint16, n)
	}
	members := []int32{-1} // place 0 stands for all that are in no list
	for i := range rules {
		l := of(&rules[i])
		if _, seen := sets[l.id]; seen {
			continue
		}
		sets[l.id] = nil
		lists = append(lists, l)
		for _, e := range l.members {
			if p.dense[e] == 0 {
				p.dense[e] = int32(len(members))
				members = append(members, e)
			}
		}
	}
	defer func() {
		for _, e := range members[1:] {
			p.dense[e] = 0
		}
	}()
	p.reset(len(members))
	var set []int32
	places := func(l *list) []int32 {
		set = set[:0]
		for _, e := range l.members {
			set = append(set, p.dense[e])
		}
		return set
	}
	for _, l := range lists {
		if !l.all {
			p.split(places(l))
		}
	}
	order := make([]int32, 0, len(members))
	for i := range members {
		if i > 0 || len(members) <= n {
			order = append(order, int32(i))
		}
	}
	local := make([]uint16, len(members))
	count := p.compact(order, local)
	class := p.class[:n]
	clear(class)
	for i, e := range members[1:] {
		class[e] = local[i+1] // the rest comes first and has 0
	}
	every := make([]int32, count)
	for i := range every {
		every[i] = int32(i)
	}
	stamp := make([]int32, count)
	for i, l := range lists {
		if l.all {
			sets[l.id] = every
		} else {
			sets[l.id] = classesOf(places(l), local, stamp, int32(i+1))
		}
	}
	return class, sets, count
}
