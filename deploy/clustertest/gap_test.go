// SPDX-License-Identifier: Apache-2.0

//go:build cluster

package clustertest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	"github.com/weirnet/weir/internal/cluster"
)

// born is how many pods of each kind are started at once.
const born = 5

// A pod that sends from its first instruction gets no packet through that policy forbids, and what policy admits gets
// through: with the plugin; without it, if pods that are not known yet are cut off. Without either there may be a gap, which is
// measured: with the container runtime's records, and with nothing but the API and netlink.
func TestGapAtPodStart(t *testing.T) {
	for _, mode := range []struct {
		name   string
		values []string
		closed bool
	}{
		{"with", nil, true},
		{"without, drop", []string{"cni.install=false", "extraArgs={--cni-cache-dir=}", "unknownEndpoint=drop"}, true},
		{"without, pass, runtime's records", []string{"cni.install=false"}, false},
		{"without, pass", []string{"cni.install=false", "extraArgs={--cni-cache-dir=}"}, false},
	} {
		t.Run(mode.name, func(t *testing.T) {
			c := installed(t, mode.values...)
			ns := namespace(t, c, fmt.Sprintf("gap-%d", time.Now().UnixNano()))
			near, far := &pod{Namespace: ns, Name: "near", Node: "n1"}, &pod{Namespace: ns, Name: "far", Node: "n2"}
			control := &pod{Namespace: ns, Name: "control", Node: "n1", Labels: map[string]string{"may": "nothing"}}
			start(t, c, near, far, control)
			apply(t, c, fmt.Sprintf(`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: forbidden, namespace: %s},
  spec: {podSelector: {matchLabels: {may: nothing}}, policyTypes: [Egress], egress: []}}`, ns))
			apply(t, c, fmt.Sprintf(`{apiVersion: networking.k8s.io/v1, kind: NetworkPolicy, metadata: {name: admitted, namespace: %s},
  spec: {podSelector: {matchLabels: {may: far}}, policyTypes: [Egress], egress: [{to: [{podSelector: {matchLabels: {app: far}}}]}]}}`, ns))
			within(t, 20*time.Second, func(ctx context.Context) error { return refused(control.get(ctx, c, near.IP+":8080")) })

			var pods []*pod
			for i := range born {
				for _, to := range []*pod{near, far} {
					pods = append(pods, &pod{Namespace: ns, Name: fmt.Sprintf("%s-%d", to.Name+"-no", i), Node: "n1", Labels: map[string]string{"may": "nothing"},
						Args: []string{"serve", "-to", to.IP, "-for", "5s"}})
				}
				pods = append(pods, &pod{Namespace: ns, Name: fmt.Sprintf("far-yes-%d", i), Node: "n1", Labels: map[string]string{"may": "far"},
					Args: []string{"serve", "-to", far.IP, "-for", "5s"}})
			}
			start(t, c, pods...)
			time.Sleep(6 * time.Second) // until the last has stopped
			arrived := map[string]Count{}
			for _, at := range []*pod{near, far} {
				for from, count := range countsOf(t, c, at) {
					had := arrived[from]
					arrived[from] = Count{UDP: had.UDP + count.UDP, TCP: had.TCP + count.TCP}
				}
			}
			forbidden, passedPods, sent := 0, 0, 0
			for _, p := range pods {
				tried, got := sentBy(t, c, p), arrived[p.IP]
				switch {
				case tried["udp"]+tried["udpFailed"] < 1000 || tried["tcp"] < 100:
					t.Errorf("%s tried too little: %v", p.Name, tried)
				case p.Labels["may"] == "far":
					if got.UDP == 0 || got.TCP == 0 {
						t.Errorf("nothing that policy admits came from %s: %+v of %v", p.Name, got, tried)
					}
					t.Logf("%s: %d of %d datagrams that policy admits arrived", p.Name, got.UDP, tried["udp"])
				default:
					sent += int(tried["udp"])
					forbidden += got.UDP + got.TCP
					if got.UDP+got.TCP > 0 {
						passedPods++
						log, _ := c.Logs(t.Context(), system, agent(t, c, "n1"))
						t.Logf("%s: %d datagrams and %d connections that policy forbids arrived; the agent:\n%s", p.Name, got.UDP, got.TCP, linesWith(log, p.Name, p.IP))
					}
				}
			}
			fmt.Printf("gap at pod start, plugin: %s: %d packets that policy forbids passed, of %d of %d pods (%d sent)\n", mode.name, forbidden, passedPods, 2*born, sent)
			if mode.closed && forbidden > 0 {
				t.Errorf("%d packets that policy forbids passed", forbidden)
			}
		})
	}
}

// linesWith are the lines that have one of the words and are not of a packet.
func linesWith(text string, words ...string) string {
	var out strings.Builder
	for line := range strings.Lines(text) {
		if !strings.Contains(line, "hook=pod_") && slices.ContainsFunc(words, func(w string) bool { return strings.Contains(line, w) }) {
			out.WriteString(line)
		}
	}
	return out.String()
}

// Count is what came from one address: see internal/cluster/app.
type Count struct{ UDP, TCP, HTTP int }

func countsOf(t *testing.T, c *cluster.Cluster, p *pod) (counts map[string]Count) {
	t.Helper()
	ask(t, c, p, "counts", &counts)
	return counts
}

func sentBy(t *testing.T, c *cluster.Cluster, p *pod) (sent map[string]int64) {
	t.Helper()
	ask(t, c, p, "sent", &sent)
	return sent
}

func ask(t *testing.T, c *cluster.Cluster, p *pod, what string, into any) {
	t.Helper()
	out, err := c.PodExec(t.Context(), p.Namespace, p.Name, "/app", "get", "http://127.0.0.1:8080/"+what)
	if err == nil {
		err = json.Unmarshal([]byte(out), into)
	}
	if err != nil {
		t.Fatalf("%s of %s: %v", what, p.Name, err)
	}
}
