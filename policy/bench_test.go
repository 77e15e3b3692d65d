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
