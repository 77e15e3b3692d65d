// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"fmt"
	"maps"
	"math"
	"net/netip"
	"runtime"
	"slices"
	"testing"
	"time"
)

const largeNodes = 5000

// large is a cluster of 50,000 pods on 5,000 nodes with 1,000 policies and 5,000 Services of ten backends each.
func large(identities int) *Model {
	m := replicated(Synthetic(1000, identities, 250, 1), 50000/identities)
	m.Nodes = m.Nodes[:1]
	for i := 1; i < largeNodes; i++ {
		m.Nodes = append(m.Nodes, largeNode(i))
	}
	remote := 0
	for i := range m.Pods {
		if p := &m.Pods[i]; p.Node != m.Node {
			n := 1 + remote%(largeNodes-1)
			p.Node, p.Addrs = m.Nodes[n].Name, []netip.Addr{addrIn(10, 64, n, 2+remote/(largeNodes-1))}
			remote++
		}
	}
	for i := range 5000 {
		p := ServicePort{Protocol: TCP, Port: 80}
		for j := range 10 {
			p.Backends = append(p.Backends, netip.AddrPortFrom(m.Pods[(10*i+j)%len(m.Pods)].Addrs[0], 8080))
		}
		m.Services = append(m.Services, Service{
			Namespace: syntheticNamespace(i % 250), Name: fmt.Sprintf("service-%d", i), Addrs: []netip.Addr{addrIn(10, 200, i/250, i%250)},
			Ports: []ServicePort{p},
		})
	}
	return m
}

func largeNode(i int) Node {
	cidr := netip.PrefixFrom(addrIn(10, 64, i, 0), 24)
	return Node{
		Name: fmt.Sprintf("node-%d", i), Underlay: []netip.Addr{addrIn(172, 16, i, 10)}, Overlay: []netip.Addr{cidr.Addr(), cidr.Addr().Next()},
		PodCIDRs: []netip.Prefix{cidr}, VTEPMAC: [6]byte{2, 0, 0, 0, byte(i >> 8), byte(i)}, APIServer: i == 1,
	}
}

// What a watcher tells of a large cluster, planned from the changes alone.
func BenchmarkChange(b *testing.B) {
	for _, identities := range []int{10000, 50000} {
		b.Run(fmt.Sprintf("identities=%d", identities), func(b *testing.B) {
			benchChanges(b, large(identities))
		})
	}
}

func benchChanges(b *testing.B, m *Model) {
	p := NewPlanner()
	for range 2 {
		plan, err := p.Plan(m)
		if err != nil {
			b.Fatal(err)
		}
		p.Commit(plan)
	}
	relabelled := func(pod Pod, key, value string) Pod {
		pod.Labels = maps.Clone(pod.Labels)
		pod.Labels[key] = value
		return pod
	}
	local, remote := m.Pods[0], m.Pods[1]
	local.Name, local.UID, local.Addrs = "local", "local", []netip.Addr{mustAddr("10.32.250.250")}
	remote.Name, remote.UID, remote.Addrs = "remote", "remote", []netip.Addr{mustAddr("10.64.1.250")}
	at := policyOfLocalPod(b, m)
	edited := func(rule Rule) Changes {
		policies := slices.Clone(m.Policies)
		policies[at].Rules = append([]Rule{rule}, policies[at].Rules[1:]...)
		return Changes{Policies: policies}
	}
	var namespace []Pod
	for _, pod := range m.Pods {
		if pod.Namespace == m.Pods[0].Namespace {
			namespace = append(namespace, pod)
		}
	}
	for _, c := range []struct {
		name   string
		change func(i int) Changes
	}{
		{"new-identity-here", func(i int) Changes { return Changes{Pods: []Pod{relabelled(local, "version", fmt.Sprint("here-", i))}} }},
		{"new-identity-elsewhere", func(i int) Changes {
			return Changes{Pods: []Pod{relabelled(remote, "version", fmt.Sprint("elsewhere-", i))}}
		}},
		{"come-and-go", func(i int) Changes {
			if i%2 == 0 {
				return Changes{GonePods: []string{remote.Key()}}
			}
			return Changes{Pods: []Pod{relabelled(remote, "version", fmt.Sprint("come-", i))}}
		}},
		{"namespace-label", func(i int) Changes {
			var c Changes
			for _, pod := range namespace {
				c.Pods = append(c.Pods, relabelled(pod, "io.cilium.k8s.namespace.labels.team", fmt.Sprint("changed-", i)))
			}
			return c
		}},
		{"policy", func(i int) Changes {
			rule := m.Policies[at].Rules[0]
			rule.Ports = []PortMatch{{Protocol: TCP, First: 4711, Last: uint16(4712 + i%2)}}
			return edited(rule)
		}},
		{"policy-of-new-prefix", func(i int) Changes {
			rule := m.Policies[at].Rules[0]
			rule.Peers = []Peer{{Kind: PeerCIDR, CIDR: netip.PrefixFrom(addrIn(100, 64, i%10000, 0), 24), MatchPods: true, MatchNodes: true}}
			return edited(rule)
		}},
		{"node", func(i int) Changes {
			if i%2 == 0 {
				return Changes{NodesChanged: []Node{largeNode(largeNodes + i)}}
			}
			return Changes{GoneNodes: []string{largeNode(largeNodes + i - 1).Name}}
		}},
		{"endpoints", func(i int) Changes {
			s := m.Services[i%len(m.Services)]
			s.Ports = slices.Clone(s.Ports)
			s.Ports[0].Backends = s.Ports[0].Backends[:1+i%9]
			return Changes{ServicesChanged: []Service{s}}
		}},
	} {
		b.Run(c.name, func(b *testing.B) {
			i, least, all := 0, time.Duration(math.MaxInt64), []time.Duration{}
			runtime.GC()
			cpu := cpuTime()
			b.ReportAllocs()
			for b.Loop() {
				change := c.change(i)
				start := time.Now()
				plan, err := p.PlanChanges(change)
				if err != nil {
					b.Fatal(err)
				}
				took := time.Since(start)
				least, all = min(least, took), append(all, took)
				if plan.Delta == nil {
					b.Fatal("a plan of the whole")
				}
				p.Commit(plan)
				i++
			}
			slices.Sort(all)
			b.ReportMetric(float64((cpuTime()-cpu).Microseconds())/1000/float64(i), "cpu-ms") // the collector's share included
			b.ReportMetric(float64(least.Microseconds())/1000, "min-ms")
			b.ReportMetric(float64(all[(len(all)-1)*99/100].Microseconds())/1000, "p99-ms")
		})
	}
}

// What a planner keeps in memory of a large cluster, its pods' labels excepted, and what plans of the whole take meanwhile:
// the first one, and another beside what is kept.
func BenchmarkChangeMemory(b *testing.B) {
	for _, identities := range []int{10000, 50000} {
		b.Run(fmt.Sprintf("identities=%d", identities), func(b *testing.B) {
			for b.Loop() {
				m := large(identities)
				labels := make([]map[string]string, len(m.Pods))
				for i := range m.Pods {
					labels[i] = m.Pods[i].Labels
				}
				p := NewPlanner()
				for i, what := range []string{"first", "again"} {
					runtime.GC()
					peak, start := resetPeak(), time.Now()
					m.Options.HostByRule = i > 0
					plan, err := p.Plan(m)
					if err != nil {
						b.Fatal(err)
					}
					b.ReportMetric(float64(time.Since(start).Milliseconds()), what+"-ms")
					b.ReportMetric(peak(), what+"-peak-MB")
					p.Commit(plan)
				}
				m = nil
				held := heapInUse()
				runtime.KeepAlive(p)
				p = nil
				b.ReportMetric((held-heapInUse())/1e6, "planner-MB")
				runtime.KeepAlive(labels)
			}
		})
	}
}

func heapInUse() float64 {
	runtime.GC()
	runtime.GC() // the first one has finalizers left
	var stats runtime.MemStats
	runtime.ReadMemStats(&stats)
	return float64(stats.HeapAlloc)
}
