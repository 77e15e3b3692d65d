// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"fmt"
	"math"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/vishvananda/netlink"
	corev1 "k8s.io/api/core/v1"

	"github.com/weirnet/weir/internal/fakeapi"
	"github.com/weirnet/weir/internal/lab"
)

// BenchmarkScale runs an agent against a cluster of 50,000 pods, 5,000 nodes and 1,000 policies that an API server in memory
// serves: how long until it is enforced, what memory and CPU that takes, and how long a change takes from its event to the
// tables. WEIR_SCALE=PODS,NODES,POLICIES changes the sizes.
func BenchmarkScale(b *testing.B) {
	size := &bigCluster{pods: 50000, nodes: 5000, policies: 1000}
	if text := os.Getenv("WEIR_SCALE"); text != "" {
		if _, err := fmt.Sscanf(text, "%d,%d,%d", &size.pods, &size.nodes, &size.policies); err != nil {
			b.Fatal(err)
		}
	}
	for b.Loop() {
		s := newScaleBench(b, size)
		s.sync()
		s.churn("known identities", 30*time.Second, 50, false)
		s.churn("with its Services' endpoints", 20*time.Second, 50, true)
		s.fresh(400, 10)
		s.memory("at the end")
	}
}

type scaleBench struct {
	*testing.B
	size  *bigCluster
	api   *fakeapi.Server
	agent *nodeAgent
	began time.Time
	lab   *lab.Lab
	pods  []*corev1.Pod // as they are now
	at    int
}

func newScaleBench(b *testing.B, size *bigCluster) *scaleBench {
	b.Helper()
	l, err := lab.New(lab.Config{})
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { l.Close() })
	s := &scaleBench{B: b, size: size, api: fakeapi.New(), lab: l}
	own := l.Nodes[0]
	for i := range 10 {
		addr := own.PodCIDR.Addr().As4()
		addr[3] = byte(10 + i)
		if _, err := l.AddPod(own, lab.PodSpec{Name: fmt.Sprintf("local-%d", i), Addr: netip.AddrFrom4(addr), Silent: true}); err != nil {
			b.Fatal(err)
		}
	}
	size.next = nil
	s.pods = size.fill(s.api, own, l.Pods)
	s.must(own.Do(s.routes))
	var listener net.Listener
	s.must(own.Do(func() (err error) { listener, err = net.Listen("tcp", "127.0.0.1:0"); return err }))
	s.api.Serve(listener)
	b.Cleanup(s.api.Stop)
	kubeconfig := filepath.Join(b.TempDir(), "kubeconfig")
	s.must(os.WriteFile(kubeconfig, []byte("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: 'http://"+listener.Addr().String()+
		"'}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\ncurrent-context: c\n"), 0o600))
	s.began = time.Now()
	s.agent, err = startAgentOn(own, "--kubeconfig", kubeconfig, "--log-level", "info")
	s.must(err)
	b.Cleanup(func() {
		s.agent.stop(syscall.SIGTERM)
		if b.Failed() {
			b.Logf("agent:\n%s", s.agent.log)
		}
	})
	return s
}

// routes are those that flannel makes, one to every node.
func (s *scaleBench) routes() error {
	device, err := netlink.LinkByName("flannel.1")
	if err != nil {
		return err
	}
	for i := 1; i < s.size.nodes; i++ {
		cidr := nodeCIDR(i)
		dst := net.IPNet{IP: cidr.Addr().AsSlice(), Mask: net.CIDRMask(24, 32)}
		r := &netlink.Route{LinkIndex: device.Attrs().Index, Dst: &dst, Gw: dst.IP, Flags: int(netlink.FLAG_ONLINK)}
		if err := netlink.RouteAdd(r); err != nil {
			return fmt.Errorf("add route to %s: %w", cidr, err)
		}
	}
	return nil
}

func (s *scaleBench) must(err error) {
	s.Helper()
	if err != nil {
		s.Fatal(err)
	}
}

// sync waits until all is enforced.
func (s *scaleBench) sync() {
	s.Helper()
	for {
		if _, err := s.agent.get(context.Background(), "/readyz"); err == nil {
			break
		}
		select {
		case <-s.agent.done:
			s.Fatal("the agent ended")
		case <-time.After(20 * time.Millisecond):
		}
		if time.Since(s.began) > 2*time.Minute {
			s.Fatal("the agent is not ready after two minutes")
		}
	}
	took := time.Since(s.began)
	s.ReportMetric(took.Seconds(), "sync-s")
	s.Logf("%d pods, %d nodes, %d policies: enforced %.1f s after the agent's start, of which %.1f s were CPU time of the agent's",
		s.size.pods, s.size.nodes, s.size.policies, took.Seconds(), s.cpu().Seconds())
	time.Sleep(5 * time.Second)
	s.memory("after the sync")
}

// memory reports what the process and its maps take.
func (s *scaleBench) memory(when string) {
	s.Helper()
	status, err := os.ReadFile(fmt.Sprintf("/proc/%d/status", s.agent.cmd.Process.Pid))
	s.must(err)
	field := func(name string) float64 {
		m := regexp.MustCompile(name + `:\s+(\d+) kB`).FindStringSubmatch(string(status))
		if m == nil {
			s.Fatalf("no %s in %s", name, status)
		}
		kb, _ := strconv.ParseFloat(m[1], 64)
		return kb / 1024
	}
	maps := map[string]int{}
	infos, _ := filepath.Glob(fmt.Sprintf("/proc/%d/fdinfo/*", s.agent.cmd.Process.Pid))
	for _, info := range infos {
		data, err := os.ReadFile(info)
		id := regexp.MustCompile(`map_id:\s+(\d+)`).FindSubmatch(data)
		size := regexp.MustCompile(`memlock:\s+(\d+)`).FindSubmatch(data)
		if err == nil && id != nil && size != nil {
			maps[string(id[1])], _ = strconv.Atoi(string(size[1]))
		}
	}
	kernel := 0
	for _, size := range maps {
		kernel += size
	}
	anon := field("RssAnon")
	s.ReportMetric(anon, strings.ReplaceAll(when, " ", "-")+"-RssAnon-MB")
	s.Logf("%s: RssAnon %.0f MB, RssFile %.0f MB, RssShmem (mapped tables) %.0f MB, kernel maps %.0f MB, RssHWM %.0f MB", when, anon,
		field("RssFile"), field("RssShmem"), float64(kernel)/(1<<20), field("VmHWM"))
}

// cpu is the CPU time that the agent has taken.
func (s *scaleBench) cpu() time.Duration {
	s.Helper()
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", s.agent.cmd.Process.Pid))
	s.must(err)
	fields := strings.Fields(string(stat[strings.LastIndexByte(string(stat), ')')+2:]))
	user, _ := strconv.Atoi(fields[11])
	system, _ := strconv.Atoi(fields[12])
	return time.Duration(user+system) * 10 * time.Millisecond
}

// churn replaces pods: one goes and another of its workload comes, as a rollout does.
func (s *scaleBench) churn(what string, length time.Duration, perSecond int, services bool) {
	s.Helper()
	before, cpu := s.count(), s.cpu()
	tick := time.NewTicker(time.Second / time.Duration(perSecond))
	defer tick.Stop()
	start := time.Now()
	for away := -1; time.Since(start) < length; {
		<-tick.C
		if away < 0 {
			for s.at++; away < 0 || s.pods[away].Spec.NodeName == s.lab.Nodes[0].NodeID; s.at++ { // those are real
				away = s.at * 37 % s.size.pods
			}
			s.api.Delete(podsPath, s.pods[away].Namespace+"/"+s.pods[away].Name, false)
			continue
		}
		node := 1 + away%(s.size.nodes-1)
		fresh := s.size.pod(away, s.at, node, s.size.address(node))
		s.pods[away] = fresh
		s.api.Put(podsPath, fresh)
		if services {
			s.api.Put("/apis/discovery.k8s.io/v1/endpointslices", s.size.slice(s.pods, away))
		}
		away = -1
	}
	time.Sleep(200 * time.Millisecond)
	took, used := time.Since(start), s.cpu()-cpu
	s.latency(what, before)
	s.Logf("%s: %d changes/s took %.1f %% of a CPU", what, perSecond, 100*used.Seconds()/took.Seconds())
	s.ReportMetric(100*used.Seconds()/took.Seconds(), strings.ReplaceAll(what, " ", "-")+"-cpu-%")
}

// fresh adds pods that policy has to tell from all others.
func (s *scaleBench) fresh(pods, perSecond int) {
	s.Helper()
	before := s.count()
	for i := range pods {
		p := s.size.pod(i*perWorkload+1, 60000+i, 2+i, s.size.address(2+i))
		p.Name, p.Labels["app"] = fmt.Sprintf("fresh-%d", i), fmt.Sprintf("fresh-%d", i)
		s.api.Put(podsPath, p)
		time.Sleep(time.Second / time.Duration(perSecond))
	}
	s.latency("new identities", before)
}

// count is the agent's histogram.
func (s *scaleBench) count() samples {
	s.Helper()
	all, err := s.agent.metrics(context.Background())
	s.must(err)
	return all
}

// latency reports how long the events since before took.
func (s *scaleBench) latency(what string, before samples) {
	s.Helper()
	name := "weir_event_to_enforced_seconds"
	was := map[string]float64{}
	for _, one := range before {
		if one.name == name+"_bucket" {
			was[one.labels["le"]] = one.value
		}
	}
	var bounds, counts []float64
	for _, one := range s.count() {
		if one.name == name+"_bucket" {
			bound, err := strconv.ParseFloat(one.labels["le"], 64)
			if err != nil {
				bound = math.Inf(1)
			}
			bounds, counts = append(bounds, bound), append(counts, one.value-was[one.labels["le"]])
		}
	}
	total := counts[len(counts)-1]
	quantile := func(q float64) float64 {
		for i := range counts {
			if counts[i] >= q*total {
				low, under := 0.0, 0.0
				if i > 0 {
					low, under = bounds[i-1], counts[i-1]
				}
				if math.IsInf(bounds[i], 1) {
					return low
				}
				return low + (bounds[i]-low)*(q*total-under)/(counts[i]-under)
			}
		}
		return math.NaN()
	}
	s.Logf("%s: %.0f events, from event to enforced p50 %.1f ms, p99 %.1f ms", what, total, 1000*quantile(.5), 1000*quantile(.99))
	s.ReportMetric(1000*quantile(.99), strings.ReplaceAll(what, " ", "-")+"-p99-ms")
	histogram := map[string]float64{}
	for i := range counts {
		if n := counts[i]; i == 0 && n > 0 || i > 0 && n > counts[i-1] {
			histogram[fmt.Sprintf("<=%gms", 1000*bounds[i])] = n
			if i > 0 {
				histogram[fmt.Sprintf("<=%gms", 1000*bounds[i])] -= counts[i-1]
			}
		}
	}
	text, _ := json.Marshal(histogram)
	s.Logf("   %s", text)
}
