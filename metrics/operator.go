// SPDX-License-Identifier: Apache-2.0

package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"
)

// Operator are the figures of the operator.
type Operator struct {
	registry *prometheus.Registry
	enforced prometheus.Histogram
	writes   *prometheus.CounterVec
	leads    prometheus.Gauge
}

// Fleet is how far the cluster has come: policies by the reason of their condition Enforced, and nodes.
type Fleet struct {
	Policies map[string]int
	// Nodes that must enforce policies, and of these those that do not report, and that cannot enforce what is new.
	Nodes, Silent, Failing int
}

// NewOperator registers everything. The fleet is asked for at each scrape; without one, for an operator that stands by, its
// figures are missing.
func NewOperator(fleet func() (Fleet, bool), version string) *Operator {
	o := &Operator{
		registry: prometheus.NewRegistry(),
		enforced: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_policy_enforced_seconds", Help: "Time from a change of a policy, seen by the operator, until all nodes had told that they enforce it.",
			Buckets: []float64{0.1, 0.25, 0.5, 1, 2, 4, 8, 15, 30, 60, 120, 240, 480},
		}),
		writes: prometheus.NewCounterVec(prometheus.CounterOpts{
			Name: "weir_operator_writes_total", Help: "Requests to the API server: status, condition, event or removal; fine or failed.",
		}, []string{"what", "result"}),
		leads: prometheus.NewGauge(prometheus.GaugeOpts{Name: "weir_operator_leads", Help: "1 for the operator that works, 0 for one that stands by."}),
	}
	info := prometheus.NewGauge(prometheus.GaugeOpts{Name: "weir_build_info", Help: "Always 1.", ConstLabels: prometheus.Labels{"version": version}})
	info.Set(1)
	o.registry.MustRegister(o.enforced, o.writes, o.leads, info, fleetCollector{
		fleet:    fleet,
		policies: prometheus.NewDesc("weir_policies", "Policies by the reason of their condition Enforced.", []string{"reason"}, nil),
		nodes:    prometheus.NewDesc("weir_fleet_nodes", "Nodes that must enforce policies: reporting, failing (they report that they cannot enforce what is new) or silent.", []string{"state"}, nil),
	})
	return o
}

// Handler serves the metrics.
func (o *Operator) Handler() http.Handler {
	return promhttp.HandlerFor(o.registry, promhttp.HandlerOpts{})
}

// Leads notes whether this operator is the one that works.
func (o *Operator) Leads(does bool) {
	o.leads.Set(map[bool]float64{true: 1}[does])
}

// Enforced notes how long a policy took to be enforced on all nodes.
func (o *Operator) Enforced(took time.Duration) { o.enforced.Observe(took.Seconds()) }

// Wrote counts a request.
func (o *Operator) Wrote(what string, err error) {
	result := "fine"
	if err != nil {
		result = "failed"
	}
	o.writes.WithLabelValues(what, result).Inc()
}

type fleetCollector struct {
	fleet           func() (Fleet, bool)
	policies, nodes *prometheus.Desc
}

// Describe implements prometheus.Collector.
func (c fleetCollector) Describe(out chan<- *prometheus.Desc) {
	out <- c.policies
	out <- c.nodes
}

// Collect implements prometheus.Collector.
func (c fleetCollector) Collect(out chan<- prometheus.Metric) {
	f, ok := c.fleet()
	if !ok {
		return
	}
	for reason, n := range f.Policies {
		out <- prometheus.MustNewConstMetric(c.policies, prometheus.GaugeValue, float64(n), reason)
	}
	for state, n := range map[string]int{"reporting": f.Nodes - f.Silent - f.Failing, "silent": f.Silent, "failing": f.Failing} {
		out <- prometheus.MustNewConstMetric(c.nodes, prometheus.GaugeValue, float64(n), state)
	}
}
