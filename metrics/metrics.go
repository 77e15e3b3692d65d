// SPDX-License-Identifier: Apache-2.0

// Package metrics says in Prometheus' words, and in a line of text, what the datapath counted and what the agent did.
package metrics

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"github.com/weirnet/weir/policy"
)

// Metrics are the agent's own figures together with those of the datapath.
type Metrics struct {
	registry *prometheus.Registry

	applies         prometheus.Histogram
	enforced        prometheus.Histogram
	applyFailures   prometheus.Counter
	lastApply       prometheus.Gauge
	imageBytes      prometheus.Gauge
	imageGeneration prometheus.Gauge
	identities      prometheus.Gauge
	endpoints       prometheus.Gauge
	unattached      prometheus.Gauge
	nodes           prometheus.Gauge
	unenforceable   prometheus.Gauge
	oversized       prometheus.Gauge
	audited         prometheus.Gauge
	attachments     *prometheus.GaugeVec
}

// Source is how the agent's source of policy does.
type Source struct {
	Refused bool // what it says now is not enforced, but what it said before
	Silent  int  // kinds of objects that the API server does not tell of
}

// New registers everything. The datapath and the source are asked anew at each scrape.
func New(datapath Datapath, source func() Source, version string) *Metrics {
	gauge := func(name, help string) prometheus.Gauge {
		return prometheus.NewGauge(prometheus.GaugeOpts{Name: "weir_" + name, Help: help})
	}
	m := &Metrics{
		registry: prometheus.NewRegistry(),
		applies: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_apply_seconds", Help: "Time that it took to plan a change and to write it into the kernel's tables.",
			Buckets: prometheus.ExponentialBuckets(0.0005, 2, 15),
		}),
		enforced: prometheus.NewHistogram(prometheus.HistogramOpts{
			Name: "weir_event_to_enforced_seconds", Help: "Time from when the agent heard of a change until the kernel's tables held it.",
			Buckets: []float64{.0005, .001, .002, .003, .005, .0075, .01, .015, .02, .03, .04, .05, .06, .08, .1, .15, .25, .5, 1, 2.5, 5, 10, 30},
		}),
		applyFailures: prometheus.NewCounter(prometheus.CounterOpts{
			Name: "weir_apply_failures_total", Help: "Changes that could not be applied; the state before stayed.",
		}),
		lastApply:       gauge("last_apply_timestamp_seconds", "When policy was last applied."),
		imageBytes:      gauge("image_bytes", "Size of the live policy image."),
		imageGeneration: gauge("image_generation", "Generation of the live policy image."),
		identities:      gauge("identities", "Identities that policy on this node tells apart."),
		endpoints:       gauge("endpoints", "Pods of this node."),
		unattached:      gauge("endpoints_without_interface", "Pods of this node whose interface has not been found."),
		nodes:           gauge("nodes", "Nodes of the cluster."),
		unenforceable:   gauge("unenforceable_rules", "Rules that cannot be enforced exactly; they admit nothing."),
		oversized:       gauge("oversized_namespaces", "Namespaces whose policies are too large; the pods they select are isolated. The cluster-wide policies count as one."),
		audited:         gauge("audited_policies", "Policies under audit; they enforce nothing."),
		attachments: prometheus.NewGaugeVec(prometheus.GaugeOpts{
			Name: "weir_attachments", Help: "Interfaces that a program is attached to.",
		}, []string{"hook"}),
	}
	manifestsError := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "weir_manifests_error", Help: "1 while the present manifests, or the cluster's present state, are refused and an earlier one is enforced.",
	}, func() float64 {
		if source().Refused {
			return 1
		}
		return 0
	})
	silent := prometheus.NewGaugeFunc(prometheus.GaugeOpts{
		Name: "weir_api_silent_kinds", Help: "Kinds of objects that the API server does not tell of at present; what it told last is enforced.",
	}, func() float64 { return float64(source().Silent) })
	info := prometheus.NewGauge(prometheus.GaugeOpts{
		Name: "weir_build_info", Help: "Always 1.", ConstLabels: prometheus.Labels{"version": version},
	})
	info.Set(1)
	m.registry.MustRegister(m.applies, m.enforced, m.applyFailures, m.lastApply, manifestsError, silent, m.imageBytes, m.imageGeneration,
		m.identities, m.endpoints, m.unattached, m.nodes, m.unenforceable, m.oversized, m.audited, m.attachments, info, newCollector(datapath))
	return m
}

// Handler serves the metrics. A datapath that cannot be read fails the scrape rather than thin it out.
func (m *Metrics) Handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{})
}

// Applied notes that a plan is carried out since now.
func (m *Metrics) Applied(plan *policy.Plan, took time.Duration, now time.Time) {
	compiled := plan.Final
	m.applies.Observe(took.Seconds())
	m.lastApply.Set(float64(now.UnixNano()) / 1e9)
	m.imageBytes.Set(float64(compiled.Image.Size()))
	m.imageGeneration.Set(float64(compiled.Image.Generation()))
	if compiled.Addresses != nil { // else they are hardly others than before
		m.identities.Set(float64(distinctIdentities(compiled)))
	}
	m.endpoints.Set(float64(len(compiled.Endpoints)))
	m.nodes.Set(float64(len(compiled.Nodes)))
	m.audited.Set(float64(len(compiled.Image.AuditedPolicies())))
}

// Enforced notes when each of the changes that are in force since now had been received.
func (m *Metrics) Enforced(received []time.Time, now time.Time) {
	for _, at := range received {
		m.enforced.Observe(now.Sub(at).Seconds())
	}
}

// ApplyFailed notes a change that was not applied.
func (m *Metrics) ApplyFailed() { m.applyFailures.Inc() }

// Unenforceable notes how many rules of the enforced manifests admit nothing because they cannot be enforced.
func (m *Metrics) Unenforceable(rules int) { m.unenforceable.Set(float64(rules)) }

// Oversized notes how many namespaces' policies are too large, so that the pods they select are isolated.
func (m *Metrics) Oversized(namespaces int) { m.oversized.Set(float64(namespaces)) }

// Interfaces notes how many pods have no interface yet, and how many interfaces each hook's program is on.
func (m *Metrics) Interfaces(missing int, attached map[string]int) {
	m.unattached.Set(float64(missing))
	for hook, n := range attached {
		m.attachments.WithLabelValues(hook).Set(float64(n))
	}
}

func distinctIdentities(compiled *policy.Compiled) int {
	seen := map[uint32]bool{}
	for _, a := range compiled.Addresses {
		seen[a.Identity] = true
	}
	return len(seen)
}
