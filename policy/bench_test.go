// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"net/netip"
	"testing"
)

func BenchmarkCompile(b *testing.B) {
	for _, policies := range []int{1, 1000, 10000} {
		b.Run(fmt.Sprintf("policies=%d", policies), func(b *testing.B) {
			m := Synthetic(policies, 10000, 250, 1)
			b.ReportAllocs()
			for b.Loop() {
				c, err := Build(m)
				if err != nil {
					b.Fatal(err)
				}
				b.ReportMetric(float64(c.Image.Size()), "image-bytes")
				b.ReportMetric(float64(c.Image.u32(offKeysLen)), "key-bytes")
			}
		})
	}
}

func BenchmarkLookup(b *testing.B) {
	c, err := Build(Synthetic(1000, 10000, 250, 1))
	if err != nil {
		b.Fatal(err)
	}
	i := 0
	for b.Loop() {
		e := &c.Endpoints[i%len(c.Endpoints)]
		c.Image.Lookup(Ingress, e.Identity, c.Addresses[i%len(c.Addresses)].Identity, TCP, uint16(i))
		i += 7919
	}
}

// A pod whose identity is known costs no image.
func BenchmarkPlanPodComes(b *testing.B) {
	m := Synthetic(1000, 10000, 250, 1)
	p := NewPlanner()
	plan, err := p.Plan(m)
	if err != nil {
		b.Fatal(err)
	}
	p.Commit(plan)
	pod := m.Pods[0]
	pod.Name, pod.UID, pod.Addrs = "another", "another", []netip.Addr{mustAddr("10.64.0.254")}
	m.Pods = append(m.Pods, pod)
	for b.Loop() {
		if plan, err = p.Plan(m); err != nil {
			b.Fatal(err)
		}
		if plan.Interim != nil || plan.Swap {
			b.Fatal("the plan has an image")
		}
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
