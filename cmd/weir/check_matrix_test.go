// SPDX-License-Identifier: Apache-2.0

package main

import (
	"fmt"
	"strings"
	"testing"
)

// matrixPod is one of nine: a, b and c in each of the namespaces xx, yy and zz, which have the label ns; all listen on 80 and 81.
type matrixPod struct{ ns, name string }

func matrixPods() []matrixPod {
	var pods []matrixPod
	for _, ns := range []string{"xx", "yy", "zz"} {
		for _, name := range []string{"a", "b", "c"} {
			pods = append(pods, matrixPod{ns, name})
		}
	}
	return pods
}

func (p matrixPod) addr() string {
	return fmt.Sprintf("10.244.%d.%d", p.ns[0]-'x'+1, 10+p.name[0]-'a')
}

// matrixCluster has a namespace to each of three nodes.
func matrixCluster() string {
	var b strings.Builder
	for n := 1; n <= 3; n++ {
		fmt.Fprintf(&b, "apiVersion: v1\nkind: Node\nmetadata: {name: n%d}\nspec: {podCIDR: 10.244.%d.0/24}\nstatus: {addresses: [{type: InternalIP, address: 192.0.2.%d}]}\n---\n", n, n, n)
	}
	for _, ns := range []string{"xx", "yy", "zz"} {
		fmt.Fprintf(&b, "apiVersion: v1\nkind: Namespace\nmetadata: {name: %s, labels: {ns: %s}}\n---\n", ns, ns)
	}
	for _, p := range matrixPods() {
		fmt.Fprintf(&b, "apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: %s, labels: {pod: %s}}\nspec: {nodeName: n%d, containers: [{name: c, ports: ["+
			"{name: serve-80-tcp, containerPort: 80}, {name: serve-81-tcp, containerPort: 81}, {name: serve-80-udp, containerPort: 80, protocol: UDP}, {name: serve-81-udp, containerPort: 81, protocol: UDP}]}]}\nstatus: {podIP: %s}\n---\n",
			p.name, p.ns, p.name, p.ns[0]-'x'+1, p.addr())
	}
	return b.String()
}

// matrixPacket is what a row of the table judges.
type matrixPacket struct {
	src, dst matrixPod
	protocol string
	port     int
}

// matrixRow is a scenario of the Kubernetes network policy conformance tests: policies of namespace xx, and who may then talk
// to whom. A pod always reaches itself, so that rows need not say it.
type matrixRow struct {
	name, policies string
	allowed        func(p matrixPacket) bool
}

func matrixPolicy(name, spec string) string {
	return "apiVersion: networking.k8s.io/v1\nkind: NetworkPolicy\nmetadata: {name: " + name + ", namespace: xx}\nspec: " + spec + "\n---\n"
}

// TestConformanceMatrix: scenarios of the upstream conformance tests, every pod to every pod on every port, by all judges.
func TestConformanceMatrix(t *testing.T) {
	kernel := newKernelJudge(nil)
	t.Cleanup(func() { kernel.Close() })
	cluster := matrixCluster()
	for _, row := range matrixRows() {
		t.Run(row.name, func(t *testing.T) {
			var probes strings.Builder
			for _, src := range matrixPods() {
				for _, dst := range matrixPods() {
					for _, protocol := range []string{"TCP", "UDP", "SCTP"} {
						for _, port := range []int{80, 81} {
							want := verdictName(src == dst || row.allowed(matrixPacket{src, dst, protocol, port}))
							fmt.Fprintf(&probes, `{"src":"%s/%s","dst":"%s/%s","protocol":"%s","port":%d,"want":"%s"}`+"\n", src.ns, src.name, dst.ns, dst.name, protocol, port, want)
						}
					}
				}
			}
			dir := manifests(t, map[string]string{"cluster.yaml": cluster, "policies.yaml": row.policies})
			if code, _, errs := checkWith(t, kernel, "all", dir, nil, probes.String()); code != checkFine || errs != "" {
				t.Errorf("exit code %d\n%s", code, errs)
			}
		})
	}
}

func matrixRows() []matrixRow {
	// Who is guarded, in most of them: pod a of xx. toA says that a packet is for it, fromA that it is from it.
	const a = "podSelector: {matchLabels: {pod: a}}"
	toA := func(p matrixPacket) bool { return p.dst == matrixPod{"xx", "a"} }
	fromA := func(p matrixPacket) bool { return p.src == matrixPod{"xx", "a"} }
	toX := func(p matrixPacket) bool { return p.dst.ns == "xx" }
	fromX := func(p matrixPacket) bool { return p.src.ns == "xx" }
	y81 := "ingress: [{from: [{namespaceSelector: {matchLabels: {ns: yy}}}], ports: [{protocol: TCP, port: 81}]}]"
	y80 := "ingress: [{from: [{namespaceSelector: {matchLabels: {ns: yy}}}], ports: [{protocol: TCP, port: 80}]}]"
	z80 := "ingress: [{from: [{namespaceSelector: {matchLabels: {ns: zz}}}], ports: [{protocol: TCP, port: 80}]}]"
	ingressA := func(name, rules string, allowed func(p matrixPacket) bool) matrixRow {
		return matrixRow{name, matrixPolicy("p", "{"+a+", policyTypes: [Ingress], "+rules+"}"), func(p matrixPacket) bool { return !toA(p) || allowed(p) }}
	}
	egressA := func(name, rules string, allowed func(p matrixPacket) bool) matrixRow {
		return matrixRow{name, matrixPolicy("p", "{"+a+", policyTypes: [Egress], "+rules+"}"), func(p matrixPacket) bool { return !fromA(p) || allowed(p) }}
	}
	return []matrixRow{
		{"default deny of ingress", matrixPolicy("deny", "{podSelector: {}, policyTypes: [Ingress]}"), func(p matrixPacket) bool { return !toX(p) }},
		{"default deny of everything", matrixPolicy("deny", "{podSelector: {}, policyTypes: [Ingress, Egress]}"), func(p matrixPacket) bool { return !toX(p) && !fromX(p) }},
		{"default deny of egress", matrixPolicy("deny", "{podSelector: {}, policyTypes: [Egress]}"), func(p matrixPacket) bool { return !fromX(p) }},
		ingressA("from pods of the same namespace", "ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}]}]", func(p matrixPacket) bool { return p.src == matrixPod{"xx", "b"} }),
		ingressA("from a namespace by label", "ingress: [{from: [{namespaceSelector: {matchLabels: {ns: yy}}}]}]", func(p matrixPacket) bool { return p.src.ns == "yy" }),
		ingressA("from a namespace by name", "ingress: [{from: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: zz}}}]}]", func(p matrixPacket) bool { return p.src.ns == "zz" }),
		ingressA("from pods by expression", "ingress: [{from: [{podSelector: {matchExpressions: [{key: pod, operator: In, values: [b]}]}}]}]", func(p matrixPacket) bool { return p.src == matrixPod{"xx", "b"} }),
		ingressA("from namespaces by expression", "ingress: [{from: [{namespaceSelector: {matchExpressions: [{key: ns, operator: In, values: [yy]}]}}]}]", func(p matrixPacket) bool { return p.src.ns == "yy" }),
		ingressA("from pods or a namespace", "ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}, {namespaceSelector: {matchLabels: {ns: yy}}}]}]",
			func(p matrixPacket) bool { return p.src.ns == "yy" || p.src == matrixPod{"xx", "b"} }),
		ingressA("from pods in a namespace", "ingress: [{from: [{podSelector: {matchLabels: {pod: b}}, namespaceSelector: {matchLabels: {ns: yy}}}]}]", func(p matrixPacket) bool { return p.src == matrixPod{"yy", "b"} }),
		ingressA("from several pods in several namespaces", "ingress: [{from: [{podSelector: {matchExpressions: [{key: pod, operator: In, values: [b, c]}]}, namespaceSelector: {matchExpressions: [{key: ns, operator: NotIn, values: [xx]}]}}]}]",
			func(p matrixPacket) bool { return p.src.ns != "xx" && p.src.name != "a" }),
		ingressA("from any of several pods", "ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}, {podSelector: {matchLabels: {pod: c}}}]}]", func(p matrixPacket) bool { return p.src.ns == "xx" && p.src.name != "a" }),
		ingressA("from every namespace", "ingress: [{from: [{namespaceSelector: {}}]}]", func(matrixPacket) bool { return true }),
		ingressA("from pods that no pod is", "ingress: [{from: [{podSelector: {matchExpressions: [{key: pod, operator: DoesNotExist}]}}]}]", func(matrixPacket) bool { return false }),
		ingressA("a port, from a namespace", y81, func(p matrixPacket) bool { return p.src.ns == "yy" && p.protocol == "TCP" && p.port == 81 }),
		ingressA("a port by name", "ingress: [{ports: [{protocol: TCP, port: serve-81-tcp}]}]", func(p matrixPacket) bool { return p.protocol == "TCP" && p.port == 81 }),
		ingressA("a port by the name that it has in another protocol", "ingress: [{ports: [{protocol: TCP, port: serve-81-udp}]}]", func(matrixPacket) bool { return false }),
		ingressA("UDP only", "ingress: [{ports: [{protocol: UDP, port: 80}]}]", func(p matrixPacket) bool { return p.protocol == "UDP" && p.port == 80 }),
		ingressA("SCTP is not TCP", "ingress: [{ports: [{protocol: SCTP, port: 80}]}]", func(p matrixPacket) bool { return p.protocol == "SCTP" && p.port == 80 }),
		ingressA("SCTP without a port is not TCP", "ingress: [{ports: [{protocol: SCTP}]}]", func(p matrixPacket) bool { return p.protocol == "SCTP" }),
		ingressA("a range", "ingress: [{ports: [{protocol: TCP, port: 81, endPort: 90}]}]", func(p matrixPacket) bool { return p.protocol == "TCP" && p.port == 81 }),
		ingressA("several rules, each its own", "ingress: [{from: [{podSelector: {matchLabels: {pod: b}}}], ports: [{port: 80}]}, {from: [{namespaceSelector: {matchLabels: {ns: yy}}}], ports: [{port: 81}]}]",
			func(p matrixPacket) bool {
				return p.protocol == "TCP" && (p.src == matrixPod{"xx", "b"} && p.port == 80 || p.src.ns == "yy" && p.port == 81)
			}),
		ingressA("a rule that allows all", "ingress: [{}]", func(matrixPacket) bool { return true }),
		ingressA("a block with a hole", "ingress: [{from: [{ipBlock: {cidr: 10.244.2.0/24, except: [10.244.2.11/32]}}]}]", func(p matrixPacket) bool { return p.src.ns == "yy" && p.src.name != "b" }),
		ingressA("a hole that another block covers", "ingress: [{from: [{ipBlock: {cidr: 10.244.2.0/24, except: [10.244.2.11/32]}}, {ipBlock: {cidr: 10.244.2.11/32}}]}]", func(p matrixPacket) bool { return p.src.ns == "yy" }),

		egressA("to a port", "egress: [{ports: [{protocol: TCP, port: 80}]}]", func(p matrixPacket) bool { return p.protocol == "TCP" && p.port == 80 }),
		egressA("to a port by name", "egress: [{ports: [{protocol: TCP, port: serve-80-tcp}]}]", func(p matrixPacket) bool { return p.protocol == "TCP" && p.port == 80 }),
		egressA("to a block", "egress: [{to: [{ipBlock: {cidr: 10.244.3.0/28}}]}]", func(p matrixPacket) bool { return p.dst.ns == "zz" }),
		egressA("to a block with a hole", "egress: [{to: [{ipBlock: {cidr: 10.244.3.0/24, except: [10.244.3.10/31]}}]}]", func(p matrixPacket) bool { return p.dst == matrixPod{"zz", "c"} }),
		egressA("to pods in a namespace", "egress: [{to: [{namespaceSelector: {matchLabels: {ns: yy}}, podSelector: {matchLabels: {pod: a}}}]}]", func(p matrixPacket) bool { return p.dst == matrixPod{"yy", "a"} }),
		egressA("to pods of the same namespace", "egress: [{to: [{podSelector: {matchExpressions: [{key: pod, operator: NotIn, values: [c]}]}}]}]", func(p matrixPacket) bool { return p.dst.ns == "xx" && p.dst.name != "c" }),

		{"stacked policies with overlapping selectors", matrixPolicy("one", "{"+a+", policyTypes: [Ingress], "+y81+"}") + matrixPolicy("two", "{"+a+", policyTypes: [Ingress], "+z80+"}") + matrixPolicy("three", "{"+a+", policyTypes: [Ingress], "+y80+"}"),
			func(p matrixPacket) bool {
				return !toA(p) || p.protocol == "TCP" && (p.src.ns == "yy" || p.src.ns == "zz" && p.port == 80)
			}},
		{"allow all beside default deny", matrixPolicy("deny", "{podSelector: {}, policyTypes: [Ingress]}") + matrixPolicy("allow", "{"+a+", ingress: [{}]}"), func(p matrixPacket) bool { return !toX(p) || toA(p) }},
		{"both directions of one pod", matrixPolicy("both", "{"+a+", policyTypes: [Ingress, Egress], "+y81+", egress: [{to: [{podSelector: {matchLabels: {pod: b}}}]}]}"),
			func(p matrixPacket) bool {
				return (!toA(p) || p.src.ns == "yy" && p.protocol == "TCP" && p.port == 81) && (!fromA(p) || p.dst == matrixPod{"xx", "b"})
			}},
		{"egress of one side, ingress of the other", matrixPolicy("out", "{"+a+", policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {pod: b}}}]}]}") +
			matrixPolicy("in", "{podSelector: {matchLabels: {pod: b}}, policyTypes: [Ingress], ingress: [{from: [{podSelector: {matchLabels: {pod: c}}}]}]}"),
			func(p matrixPacket) bool {
				return !fromA(p) && (p.dst != matrixPod{"xx", "b"} || p.src == matrixPod{"xx", "c"})
			}},
	}
}
