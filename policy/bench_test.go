// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"fmt"
	"math"
	"net/netip"
	"os"
	"runtime"
	"slices"
	"strconv"
	"syscall"
	"testing"
	"time"
)

// The limit of the adversarial clusters' images: the largest that a node can be given room for.
const benchMaxImage = 64 << 20

// benchCluster is a model to plan for, and how large its image may become.
type benchCluster struct {
	name  string
	limit int
	model func() *Model
}

func realistic() []benchCluster {
	return []benchCluster{
		{"pods=10000", 0, func() *Model { return Synthetic(10000, 10000, 250, 1) }},
		{"pods=50000", 0, func() *Model { return replicated(Synthetic(10000, 10000, 250, 1), 5) }},
	}
}

func adversarial() []benchCluster {
	return []benchCluster{
		{"overlapping-selectors", benchMaxImage, func() *Model { return overlappingSelectors(10000, 250) }},
		{"port-ranges", benchMaxImage, func() *Model { return portRanges(10000, 250) }},
		{"nested-cidrs", benchMaxImage, func() *Model { return nestedCIDRs(10000, 250, 20000) }},
		{"named-ports", benchMaxImage, func() *Model { return namedPortsPerPod(10000, 250) }},
	}
}

// What it takes to plan for a cluster of which nothing is known yet, and how large the result is.
func BenchmarkScratch(b *testing.B) { benchScratch(b, realistic()) }

// The same in clusters that take one property to its extreme.
func BenchmarkAdversarial(b *testing.B) { benchScratch(b, adversarial()) }

func benchScratch(b *testing.B, clusters []benchCluster) {
	for _, c := range clusters {
		b.Run(c.name, func(b *testing.B) {
			m := c.model()
			peak, least := resetPeak(), time.Duration(math.MaxInt64)
			var p *Planner
			var plan *Plan
			var err error
			for b.Loop() {
				p = NewPlanner()
				p.MaxImage = c.limit
				start := time.Now()
				if plan, err = p.Plan(m); err != nil {
					b.Fatal(err)
				}
				least = min(least, time.Since(start))
			}
			p.Commit(plan)
			reportSizes(b, plan.Final)
			b.ReportMetric(float64(len(plan.Overflow)), "charged-namespaces")
			b.ReportMetric(float64(least.Microseconds())/1000, "min-ms")
			b.ReportMetric(peak(), "peak-MB")
			runtime.GC()
			var stats runtime.MemStats
			runtime.ReadMemStats(&stats)
			b.ReportMetric(float64(stats.HeapAlloc)/1e6, "heap-MB")
			runtime.KeepAlive(p)
			runtime.KeepAlive(m)
		})
	}
}

// One policy that selects local pods changes its peers and ports, and back.
func BenchmarkPolicyEdit(b *testing.B) {
	for _, c := range realistic() {
		b.Run(c.name, func(b *testing.B) {
			m := c.model()
			at := policyOfLocalPod(b, m)
			was := m.Policies[at].Rules
			edited := slices.Clone(was)
			edited[0].Ports = []PortMatch{{Protocol: TCP, First: 4711, Last: 4712}}
			edited[0].Peers = []Peer{{Kind: PeerSelector, Selector: Selector{
				{Key: namespaceLabel, Op: In, Values: []string{"ns-1"}}, {Key: "tier", Op: In, Values: []string{"api"}},
			}}}
			benchSteps(b, m, func(i int) *Model {
				next := *m
				next.Policies = slices.Clone(m.Policies)
				if next.Policies[at].Rules = was; i%2 == 0 {
					next.Policies[at].Rules = edited
				}
				return &next
			}, func(plan *Plan) bool { return plan.Swap })
		})
	}
}

// A policy that names prefixes nobody named before changes what identities remember.
func BenchmarkPolicyEditNewCIDR(b *testing.B) {
	for _, c := range realistic() {
		b.Run(c.name, func(b *testing.B) {
			m := c.model()
			at := policyOfLocalPod(b, m)
			benchSteps(b, m, func(i int) *Model {
				next := *m
				next.Policies = slices.Clone(m.Policies)
				rules := slices.Clone(m.Policies[at].Rules)
				cidr := netip.PrefixFrom(addrIn(100, 64, i, 0), 24)
				rules[0].Peers = []Peer{{Kind: PeerCIDR, CIDR: cidr, MatchPods: true, MatchNodes: true}}
				next.Policies[at].Rules = rules
				return &next
			}, func(plan *Plan) bool { return plan.Swap })
		})
	}
}

// One pod comes whose identity is new: an image is due, with its class and, if it is local, its rows.
func BenchmarkPodOfNewIdentity(b *testing.B) {
	for _, c := range realistic() {
		b.Run(c.name, func(b *testing.B) {
			m := c.model()
			benchSteps(b, m, func(i int) *Model {
				next := *m
				pod := m.Pods[0]
				pod.Name, pod.UID, pod.Addrs = "another", "another", []netip.Addr{mustAddr("10.32.250.250")}
				pod.Labels = map[string]string{"app": "app-1", "tier": "api", "version": fmt.Sprint("new-", i), namespaceLabel: syntheticNamespace(0)}
				next.Pods = append(slices.Clip(m.Pods), pod)
				return &next
			}, func(plan *Plan) bool { return plan.Interim != nil })
		})
	}
}

// One pod comes, or goes, whose identity other pods have: no image is due. The model is given whole.
func BenchmarkPodOfKnownIdentityWhole(b *testing.B) {
	for _, c := range realistic() {
		b.Run(c.name, func(b *testing.B) {
			m := c.model()
			with := *m
			pod := m.Pods[0]
			pod.Name, pod.UID, pod.Addrs = "another", "another", []netip.Addr{mustAddr("10.32.250.250")}
			with.Pods = append(slices.Clip(m.Pods), pod)
			benchSteps(b, m, func(i int) *Model {
				if i%2 == 0 {
					return &with
				}
				return m
			}, func(plan *Plan) bool { return plan.Interim == nil && !plan.Swap })
		})
	}
}

// The same, given as a change.
func BenchmarkPodOfKnownIdentity(b *testing.B) {
	for _, c := range realistic() {
		b.Run(c.name, func(b *testing.B) {
			m := c.model()
			p := NewPlanner()
			plan, err := p.Plan(m)
			if err != nil {
				b.Fatal(err)
			}
			p.Commit(plan)
			pod := m.Pods[0]
			pod.Name, pod.UID, pod.Addrs = "another", "another", []netip.Addr{mustAddr("10.32.250.250")}
			come, leave := Changes{Pods: []Pod{pod}}, Changes{GonePods: []string{pod.Key()}}
			runtime.GC()
			for b.Loop() {
				for _, change := range []Changes{come, leave} {
					if plan, err = p.PlanChanges(change); err != nil {
						b.Fatal(err)
					}
					if plan.Delta == nil || len(plan.Delta.Set)+len(plan.Delta.Gone) != 1 {
						b.Fatalf("%+v", plan.Delta)
					}
					p.Commit(plan)
				}
			}
			b.ReportMetric(float64(b.Elapsed().Nanoseconds())/float64(2*b.N), "ns/pod") // one comes, one goes
		})
	}
}

func BenchmarkLookup(b *testing.B) {
	c := build(b, Synthetic(1000, 10000, 250, 1))
	i := 0
	for b.Loop() {
		e := &c.Endpoints[i%len(c.Endpoints)]
		c.Image.Lookup(Ingress, e.Identity, c.Addresses[i%len(c.Addresses)].Identity, TCP, uint16(i))
		i += 7919
	}
}

// benchSteps plans and commits one model after the other; each plan must be of the kind that the bench is about.
func benchSteps(b *testing.B, m *Model, model func(int) *Model, kind func(*Plan) bool) {
	p := NewPlanner()
	for range 2 { // what rests after the first plan rests no more
		plan, err := p.Plan(m)
		if err != nil {
			b.Fatal(err)
		}
		p.Commit(plan)
	}
	runtime.GC()
	peak, least, cpu := resetPeak(), time.Duration(math.MaxInt64), time.Duration(math.MaxInt64)
	i := 0
	for b.Loop() {
		next, start, began := model(i), time.Now(), cpuTime()
		plan, err := p.Plan(next)
		if err != nil {
			b.Fatal(err)
		}
		least, cpu = min(least, time.Since(start)), min(cpu, cpuTime()-began)
		if !kind(plan) {
			b.Fatalf("step %d: interim %v, swap %v", i, plan.Interim != nil, plan.Swap)
		}
		p.Commit(plan)
		i++
	}
	b.ReportMetric(peak(), "peak-MB")
	b.ReportMetric(float64(least.Microseconds())/1000, "min-ms")
	b.ReportMetric(float64(cpu.Microseconds())/1000, "min-cpu-ms")
}

// cpuTime is what the process has used so far, the collector's share included: on a busy machine it says more than a clock.
func cpuTime() time.Duration {
	var u syscall.Rusage
	syscall.Getrusage(syscall.RUSAGE_SELF, &u)
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}

func policyOfLocalPod(b *testing.B, m *Model) int {
	i := slices.IndexFunc(m.Policies, func(p Policy) bool {
		return len(p.Rules) > 1 && slices.ContainsFunc(m.Pods, func(pod Pod) bool { return pod.Node == m.Node && p.Subject.Matches(pod.Labels) })
	})
	if i < 0 {
		b.Fatal("no policy selects a local pod")
	}
	return i
}

func reportSizes(b *testing.B, c *Compiled) {
	single := 0
	blocks := map[netip.Prefix]bool{}
	for i := range c.Addresses {
		p := c.Addresses[i].Prefix
		if !p.Addr().Is4() {
			continue
		}
		single++
		for _, bits := range []int{16, 24} {
			if p.Bits() > bits {
				blocks[netip.PrefixFrom(p.Addr(), bits).Masked()] = true
			}
		}
	}
	b.ReportMetric(float64(c.Image.Size()), "image-bytes")
	b.ReportMetric(float64(c.Image.u32(offKeysLen)), "key-bytes")
	b.ReportMetric(float64(c.Image.Rows()), "rows")
	b.ReportMetric(float64(c.Image.Identities()), "identities")
	b.ReportMetric(float64(single), "addresses")
	b.ReportMetric(float64(65536*8+len(blocks)*256*8), "trie-bytes") // the first level and its blocks of 256
}

// resetPeak lets the peak of the process's memory begin anew; the function returned tells it, in MB.
func resetPeak() func() float64 {
	os.WriteFile("/proc/self/clear_refs", []byte("5"), 0)
	return func() float64 {
		status, _ := os.ReadFile("/proc/self/status")
		_, after, _ := bytes.Cut(status, []byte("VmHWM:"))
		fields := bytes.Fields(after)
		if len(fields) == 0 {
			return 0
		}
		kb, _ := strconv.Atoi(string(fields[0]))
		return float64(kb) / 1000
	}
}

// What becomes of 10,000 identities in a whole cluster: one policy edited, the same in every namespace, everything isolated.
func BenchmarkDiff10000(b *testing.B) {
	old := Synthetic(1000, 10000, 250, 1)
	edit := *old
	edit.Policies = append([]Policy(nil), old.Policies...)
	rule := edit.Policies[500].Rules[0]
	rule.Ports = append([]PortMatch{{Protocol: TCP, First: 7000, Last: 7010}}, rule.Ports...)
	edit.Policies[500].Rules = append([]Rule{rule}, edit.Policies[500].Rules[1:]...)
	every := *old
	every.Policies = Synthetic(1000, 10000, 250, 2).Policies
	isolated := *old
	for ns := range 250 {
		isolated.Policies = append(isolated.Policies[:len(isolated.Policies):len(isolated.Policies)], Policy{Key: "NetworkPolicy " + syntheticNamespace(ns) + "/deny",
			Subject:  Selector{{Key: namespaceLabel, Op: In, Values: []string{syntheticNamespace(ns)}}},
			Isolates: [2]bool{true, true}})
	}
	large := Synthetic(10000, 10000, 250, 1)
	largeEdit := *large
	largeEdit.Policies = Synthetic(10000, 10000, 250, 2).Policies
	for _, c := range []struct {
		name     string
		old, now *Model
	}{{"nothing", old, old}, {"edit", old, &edit}, {"isolated", old, &isolated}, {"everything", old, &every}, {"everything-10000-policies", large, &largeEdit}} {
		b.Run(c.name, func(b *testing.B) {
			b.ReportAllocs()
			for b.Loop() {
				d, err := Differences(c.old, c.now, nil)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(len(d.Relations)), "relations")
			}
		})
	}
}
