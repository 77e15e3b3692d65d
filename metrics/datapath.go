// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"github.com/prometheus/client_golang/prometheus"

	"github.com/weirnet/weir/bpf"
)

// Datapath is what the collector reads at each scrape.
type Datapath interface {
	Counters() (map[Slot]Traffic, error)
	Rules() (map[Rule]Traffic, error)
	Flows() (map[string]int, error) // by table: "assured", "new"
}

// Slot is one way out of one hook.
type Slot struct {
	Hook      bpf.Hook
	Direction bpf.Direction
	Verdict   bpf.Verdict
	Reason    bpf.Reason
}

// Rule names a rule: the policy object and the place in it. Under audit, it is what the rule would have dropped.
type Rule struct {
	Policy, Path string
	Audit        bool
}

// Traffic is what was counted.
type Traffic struct{ Packets, Bytes uint64 }

type collector struct {
	datapath Datapath

	packets, bytes, rulePackets, ruleBytes, auditPackets, auditBytes, flows, violations *prometheus.Desc
}

func newCollector(d Datapath) *collector {
	slot := []string{"hook", "direction", "verdict", "reason"}
	rule := []string{"policy", "rule"}
	desc := func(name, help string, labels []string) *prometheus.Desc {
		return prometheus.NewDesc("weir_"+name, help, labels, nil)
	}
	return &collector{
		datapath:     d,
		packets:      desc("packets_total", "Packets by where they were judged, which way, what became of them, and why.", slot),
		bytes:        desc("bytes_total", "Bytes of these packets.", slot),
		rulePackets:  desc("rule_packets_total", "Packets that a rule decided.", rule),
		ruleBytes:    desc("rule_bytes_total", "Bytes of these packets.", rule),
		auditPackets: desc("audit_rule_packets_total", "Packets that a rule or the isolation of a policy under audit would have dropped.", rule),
		auditBytes:   desc("audit_rule_bytes_total", "Bytes of these packets.", rule),
		flows:        desc("flows", "Flows in the connection tables, at the last sweep.", []string{"table"}),
		violations:   desc("violations_total", "Packets that broke the overlay's rules, dropped or only observed.", []string{"reason", "verdict"}),
	}
}

func (c *collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{c.packets, c.bytes, c.rulePackets, c.ruleBytes, c.auditPackets, c.auditBytes, c.flows, c.violations} {
		ch <- d
	}
}

func (c *collector) Collect(ch chan<- prometheus.Metric) {
	counter := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	slots, err := c.datapath.Counters()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.packets, err)
	}
	violations := map[[2]string]uint64{}
	for s, t := range slots {
		if t.Packets == 0 {
			continue
		}
		verdict, reason := bpf.VerdictName(s.Verdict), bpf.ReasonName(s.Reason)
		labels := []string{bpf.HookName(s.Hook), bpf.DirectionName(s.Direction), verdict, reason}
		counter(c.packets, t.Packets, labels...)
		counter(c.bytes, t.Bytes, labels...)
		if s.Reason >= bpf.ReasonUnknownVTEP && s.Reason <= bpf.ReasonSpoofedLocal {
			violations[[2]string{reason, verdict}] += t.Packets
		}
	}
	for labels, packets := range violations {
		counter(c.violations, packets, labels[:]...)
	}
	rules, err := c.datapath.Rules()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.rulePackets, err)
	}
	for r, t := range rules {
		packets, bytes := c.rulePackets, c.ruleBytes
		if r.Audit {
			packets, bytes = c.auditPackets, c.auditBytes
		}
		counter(packets, t.Packets, r.Policy, r.Path)
		counter(bytes, t.Bytes, r.Policy, r.Path)
	}
	flows, err := c.datapath.Flows()
	if err != nil {
		ch <- prometheus.NewInvalidMetric(c.flows, err)
	}
	for table, n := range flows {
		ch <- prometheus.MustNewConstMetric(c.flows, prometheus.GaugeValue, float64(n), table)
	}
}
