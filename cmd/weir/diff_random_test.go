// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"math/rand/v2"
	"net/netip"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/weirnet/weir/k8s/oracle"
	"github.com/weirnet/weir/policy"
)

// names reads the names that diff gives to sets.
type names struct {
	set      *manifestSet
	workload policy.Grouping
}

// has says whether one of a relation's names covers a party, as the other end sees it.
func (n names) has(list []string, p, other oracle.Party) bool {
	return slices.ContainsFunc(list, func(name string) bool { return n.covers(name, p, other) })
}

func (n names) covers(name string, p, other oracle.Party) bool {
	for _, whole := range []string{"everyone", "all pods of namespace"} {
		if strings.HasPrefix(name, whole) {
			if set, but, ok := strings.Cut(name, " but "); ok {
				return n.covers(set, p, other) && !n.has(strings.Split(but, " and "), p, other)
			}
		}
	}
	own := p.Node != "" && other.Pod != nil && other.Pod.Spec.NodeName == p.Node
	unmanaged := p.Pod == nil && p.Node == "" && n.set.cluster.place(p) != ""
	namespace, isNamespace := strings.CutPrefix(name, "all pods of namespace ")
	switch {
	case name == "everyone":
		return true
	case name == "all pods":
		return p.Pod != nil
	case isNamespace:
		return p.Pod != nil && p.Pod.Namespace == namespace
	case name == "own node":
		return own
	case name == "other nodes":
		return p.Node != "" && !own
	case strings.HasPrefix(name, "own node "):
		return own && node(strings.TrimPrefix(name, "own node "), p)
	case strings.HasPrefix(name, "node "):
		return p.Node != "" && !own && node(strings.TrimPrefix(name, "node "), p)
	case name == "pod addresses without a pod":
		return unmanaged
	}
	prefix, except, _ := strings.Cut(name, " except ")
	if prefix == "world" {
		prefix = "0.0.0.0/0"
		if p.Addr.Is6() {
			prefix = "::/0"
		}
		if p.Pod != nil || p.Node != "" || unmanaged {
			return false
		}
	}
	if cidr, err := netip.ParsePrefix(prefix); err == nil {
		return p.Pod == nil && p.Node == "" && cidr.Contains(p.Addr) && (except == "" || !slices.ContainsFunc(strings.Split(except, ", "),
			func(hole string) bool { return netip.MustParsePrefix(hole).Contains(p.Addr) }))
	}
	if p.Pod == nil {
		return false
	}
	key := p.Pod.Namespace + "/" + p.Pod.Name
	rest, ok := strings.CutPrefix(name, n.workload(&policy.Pod{Namespace: p.Pod.Namespace, Name: p.Pod.Name}))
	return ok && (rest == "" || strings.HasPrefix(rest, " (") && slices.Contains(strings.Split(strings.Trim(rest, " ()"), ", "), key))
}

// node says whether "n1", or "n1 (ADDR, ADDR)", means a party.
func node(text string, p oracle.Party) bool {
	name, addrs, some := strings.Cut(strings.TrimSuffix(text, ")"), " (")
	return name == p.Node && (!some || slices.Contains(strings.Split(addrs, ", "), p.Addr.String()))
}

// portsHave says whether a relation's ports include one.
func portsHave(ports []string, protocol uint8, port uint16) bool {
	for _, text := range ports {
		name, runs, some := strings.Cut(text, " ")
		runs = strings.TrimPrefix(runs, "type ")
		whole := name == "ICMP" && protocol == policy.ICMPv6 && !some
		switch {
		case text == "all ports" || whole:
			return true
		case name != policy.ProtocolName(protocol):
			continue
		case !some:
			return true
		}
		for _, run := range strings.Split(runs, ",") {
			first, last, isRange := strings.Cut(run, "-")
			if !isRange {
				last = first
			}
			from, _ := strconv.Atoi(first)
			to, _ := strconv.Atoi(last)
			if from <= int(port) && int(port) <= to {
				return true
			}
		}
	}
	return false
}

// TestDiffRandom: read back by its names, what diff lists is for every probe what two oracles differ on.
func TestDiffRandom(t *testing.T) {
	seed := setting(t, "WEIR_RANDOM_SEED", uint64(time.Now().UnixNano()))
	t.Logf("WEIR_RANDOM_SEED=%d", seed)
	turned := map[string]int{}
	for n := range 40 {
		w := newWorld(rand.New(rand.NewPCG(seed, uint64(n))))
		other := newWorld(rand.New(rand.NewPCG(seed, uint64(n)+1<<32))).policies
		switch n % 3 {
		case 0:
			other = append(slices.Clone(w.policies[1:]), other[0])
			other[len(other)-1] = strings.Replace(other[len(other)-1], "\n  name: p0", "\n  name: another", 1)
		case 1:
			other = w.policies[1:]
		}
		var run diffRun
		for i, to := range []**manifestSet{&run.old, &run.now} {
			var err error
			if *to, err = openSet(manifests(t, map[string]string{"cluster.yaml": w.cluster, "policies.yaml": strings.Join([][]string{w.policies, other}[i], "---\n")}), w.options); err != nil {
				t.Fatal(err)
			}
		}
		report, err := run.relations()
		if err != nil {
			t.Fatal(err)
		}
		old, now := oracle.New(run.old.objects, oracleOptions(w.options)), oracle.New(run.now.objects, oracleOptions(w.options))
		read := names{run.now, workloads(run.old.cluster, run.now.cluster)}
		for _, p := range append(w.probes(4, 600), w.probes(6, 200)...) {
			q, err := run.now.cluster.resolve(p)
			if err != nil || q.src.Addr == q.dst.Addr || !run.plain(q) {
				continue
			}
			before, after := reaches(old, q), reaches(now, q)
			var allowed, denied []string
			for i, c := range report.Changes {
				family := c.Family == "" || (c.Family == "IPv6") == q.src.Addr.Is6()
				if family && portsHave(c.Ports, q.protocol, q.port) && read.has(c.Sources, q.src, q.dst) && read.has(c.Destinations, q.dst, q.src) {
					if c.Change == "allowed" {
						allowed = append(allowed, report.comparison.Relations[i].String())
					} else {
						denied = append(denied, report.comparison.Relations[i].String())
					}
				}
			}
			if (len(allowed) > 0) != (!before && after) || (len(denied) > 0) != (before && !after) {
				t.Fatalf("world %d: %s (%s → %s): was %v, is %v; listed as allowed %q, as denied %q\n%s\n=== new\n%s", n, p, q.src.Addr, q.dst.Addr, before, after,
					allowed, denied, strings.Join(w.policies, "---\n"), strings.Join(other, "---\n"))
			}
			turned[fmt.Sprint(before, " → ", after)]++
		}
	}
	t.Logf("%v", turned)
	if turned["true → false"] < 50 || turned["false → true"] < 50 {
		t.Errorf("too few verdicts turned: %v", turned)
	}
}

// plain says that no Service is at the destination.
func (r *diffRun) plain(q *question) bool {
	if q.src.Pod == nil {
		return true
	}
	for _, s := range []*manifestSet{r.old, r.now} {
		t, err := s.brain.tables(q.srcNode)
		if err != nil || t.serviceAt(q.dst.Addr, q.protocol, q.port) != nil {
			return false
		}
	}
	return true
}

func reaches(o *oracle.Oracle, q *question) bool {
	egress, ingress := o.Judge(q.src, q.dst, oracle.Packet{Protocol: q.protocol, Port: q.port})
	return (egress == nil || egress.Allow) && (ingress == nil || ingress.Allow)
}
