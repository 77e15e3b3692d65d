// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/weirnet/weir/internal/lab"
)

// cniScene is a scene whose first node has the plugin, as a container runtime would run it.
type cniScene struct {
	*scene
	plugin  string
	sockets [2]string
	ids     int
}

func newCNIScene(t *testing.T, flags ...string) *cniScene {
	t.Helper()
	c := &cniScene{scene: newScene(t, lab.Config{}, flags...)}
	c.plugin = filepath.Join(c.lab.Dir, "weir-cni")
	build := exec.Command("go", "build", "-trimpath", "-ldflags", "-s -w", "-o", c.plugin, "../weir-cni")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build the plugin: %v: %s", err, out)
	}
	for i := range c.sockets {
		c.sockets[i] = filepath.Join(c.lab.Dir, c.lab.Nodes[i].NodeID, "agent.sock")
	}
	return c
}

func (c *cniScene) startNode(i int) {
	c.t.Helper()
	a, err := startAgent(c.lab, c.lab.Nodes[i], append([]string{"--socket", c.sockets[i]}, c.flags...)...)
	if err != nil {
		c.t.Fatal(err)
	}
	c.agents[i] = a
}

func (c *cniScene) start() {
	c.t.Helper()
	for i := range c.lab.Nodes {
		c.startNode(i)
	}
	c.ready()
}

// call is one call of the plugin about a pod.
func (c *cniScene) call(command string, p *lab.Pod, id string, timeout time.Duration) (string, error) {
	cmd := exec.Command(c.plugin)
	cmd.Env = []string{"CNI_COMMAND=" + command, "CNI_CONTAINERID=" + id, "CNI_NETNS=" + p.NetNS(), "CNI_IFNAME=eth0", "CNI_PATH=/nowhere",
		fmt.Sprintf("CNI_ARGS=K8S_POD_NAMESPACE=%s;K8S_POD_NAME=%s;K8S_POD_UID=%s", p.Namespace, p.PodSpec.Name, p.UID)}
	cmd.Stdin = strings.NewReader(fmt.Sprintf(`{"cniVersion":"1.0.0","name":"cbr0","type":"weir-cni","socket":%q,"timeout":%q,"prevResult":{"cniVersion":"1.0.0",
		"interfaces":[{"name":"eth0","sandbox":"x"}],"ips":[{"address":"%s/24","interface":0}]}}`, c.sockets[p.Node.Number-1], timeout, p.Addr))
	out, err := cmd.CombinedOutput()
	if err != nil {
		return string(out), fmt.Errorf("%s of %s: %w: %s", command, p.Key(), err, out)
	}
	return string(out), nil
}

// born starts a pod as a kubelet does: the API knows it without an address, and its ADD ends before anything runs in it.
// It returns how long ADD took.
func (c *cniScene) born(node int, name, addr, app string) (p *lab.Pod, took time.Duration) {
	c.t.Helper()
	c.ids++
	id := fmt.Sprint("c", c.ids)
	p, err := c.lab.AddPod(c.lab.Nodes[node-1], lab.PodSpec{Name: name, Addr: netip.MustParseAddr(addr), Labels: map[string]string{"app": app},
		Unaddressed: true, Add: func(p *lab.Pod) error {
			start := time.Now()
			_, err := c.call("ADD", p, id, 10*time.Second)
			took = time.Since(start)
			return err
		}})
	if err != nil {
		c.t.Fatal(err)
	}
	return p, took
}

// No packet that policy forbids passes to or from a pod, from its first instruction on, long before the API knows its
// address; what policy admits passes at once.
func TestE2EAPodIsProtectedFromItsFirstPacket(t *testing.T) {
	c := newCNIScene(t)
	neighbour, server := c.pod(1, "neighbour", strangerIP), c.pod(2, "server", serverIP)
	near, far := collect(t, neighbour, 9000), collect(t, server, 9000)
	c.start()
	c.apply("client.yaml", egress("client", "server", 9000))
	var slowest, sum time.Duration
	const rounds = 10
	for i := range rounds {
		far.Store(0)
		p, took := c.born(1, fmt.Sprint("client-", i), fmt.Sprint("10.42.0.", 30+i), "client")
		shout(t, p, strangerIP+":9000")
		shout(t, p, serverIP+":9000")
		o := &oneAgent{T: t, lab: c.lab, node: c.lab.Nodes[1], agent: c.agents[1]}
		o.eventually("what policy admits", func() bool { return far.Load() > 0 })
		slowest, sum = max(slowest, took), sum+took
	}
	if n := near.Load(); n != 0 {
		t.Errorf("%d forbidden packets passed", n)
	}
	t.Logf("ADD: mean %s, slowest %s", sum/rounds, slowest)

	// What the API says later is the same, and changes nothing; what it does not confirm ends with the container.
	p := c.lab.Pods[len(c.lab.Pods)-1]
	if err := c.lab.Describe(p); err != nil {
		t.Fatal(err)
	}
	c.ready()
	shout(t, p, strangerIP+":9000")
	if _, err := c.call("CHECK", p, fmt.Sprint("c", c.ids), time.Second); err != nil {
		t.Error(err)
	}
	if _, err := c.call("DEL", p, fmt.Sprint("c", c.ids), time.Second); err != nil {
		t.Error(err)
	}
	time.Sleep(50 * time.Millisecond)
	if n := near.Load(); n != 0 {
		t.Errorf("%d forbidden packets passed after the API caught up", n)
	}
}

// Without the plugin, what the container runtime writes down about a pod is how it is met: some time before its first
// instruction. When the record goes, so does what it said.
func TestE2EAPodIsMetByTheRuntimesRecord(t *testing.T) {
	cache := t.TempDir()
	c := newCNIScene(t, "--cni-cache-dir", cache)
	neighbour, server := c.pod(1, "neighbour", strangerIP), c.pod(2, "server", serverIP)
	near, far := collect(t, neighbour, 9000), collect(t, server, 9000)
	c.start()
	c.apply("client.yaml", egress("client", "server", 9000))
	results := filepath.Join(cache, "results")
	if err := os.Mkdir(results, 0o700); err != nil {
		t.Fatal(err)
	}
	time.Sleep(recordPoll + time.Second) // the directory is new
	path := ""
	p, err := c.lab.AddPod(c.lab.Nodes[0], lab.PodSpec{Name: "client", Addr: netip.MustParseAddr(clientIP), Labels: map[string]string{"app": "client"},
		Unaddressed: true, Add: func(p *lab.Pod) error {
			path = filepath.Join(results, "cbr0-c1-eth0")
			return os.WriteFile(path, []byte(fmt.Sprintf(`{"kind":"cniCacheV1","containerId":"c1","config":"e30=","ifName":"eth0","networkName":"cbr0",
				"cniArgs":[["IgnoreUnknown","1"],["K8S_POD_NAMESPACE","default"],["K8S_POD_NAME","client"],["K8S_POD_UID",%q]],"result":{"cniVersion":"1.0.0",
				"interfaces":[{"name":"cni0"},{"name":%q},{"name":"eth0","sandbox":"/var/run/netns/x"}],"ips":[{"address":"%s/24","interface":2}]}}`,
				p.UID, p.Veth, p.Addr)), 0o600)
		}})
	if err != nil {
		t.Fatal(err)
	}
	time.Sleep(100 * time.Millisecond)
	shout(t, p, strangerIP+":9000")
	shout(t, p, serverIP+":9000")
	o := &oneAgent{T: t, lab: c.lab, node: c.lab.Nodes[1], agent: c.agents[1]}
	o.eventually("what policy admits", func() bool { return far.Load() > 0 })
	if n := near.Load(); n != 0 {
		t.Errorf("%d forbidden packets passed", n)
	}
	if err := os.Remove(path); err != nil {
		t.Fatal(err)
	}
	o.eventually("the pod to be a stranger again", func() bool { shout(t, p, strangerIP+":9000"); return near.Load() > 0 })
}

// While no agent runs, ADD waits and then fails, so that the kubelet tries again; an agent that comes meanwhile answers it,
// and pods that were there before are guarded all the time.
func TestE2EAPodIsBornWhileTheAgentIsAway(t *testing.T) {
	c := newCNIScene(t)
	neighbour := c.pod(1, "neighbour", strangerIP)
	near := collect(t, neighbour, 9000)
	c.start()
	c.apply("client.yaml", egress("client", "", 0))
	first, _ := c.born(1, "first", "10.42.0.30", "client")
	if err := c.agents[0].stop(syscall.SIGKILL); err != nil {
		t.Fatal(err)
	}
	c.agents[0] = nil
	p, err := c.lab.AddPod(c.lab.Nodes[0], lab.PodSpec{Name: "second", Addr: netip.MustParseAddr("10.42.0.31"), Labels: map[string]string{"app": "client"}, Unaddressed: true})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := c.call("ADD", p, "s1", 300*time.Millisecond); err == nil || !strings.Contains(err.Error(), "waits for the weir agent") {
		t.Errorf("ADD without an agent: %v", err)
	}
	if _, err := c.call("DEL", p, "s1", 300*time.Millisecond); err != nil {
		t.Error(err)
	}
	shout(t, first, strangerIP+":9000")
	answer := make(chan error, 1)
	go func() {
		_, err := c.call("ADD", p, "s2", 20*time.Second)
		answer <- err
	}()
	time.Sleep(200 * time.Millisecond)
	c.startNode(0)
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	shout(t, p, strangerIP+":9000")
	shout(t, first, strangerIP+":9000") // its claim went with the agent before; the API has not caught up
	time.Sleep(50 * time.Millisecond)
	if n := near.Load(); n != 0 {
		t.Errorf("%d forbidden packets passed", n)
	}
}

// A pod that takes over the address of one that has ended inherits nothing, whether or not the API says already that the
// first one has ended.
func TestE2EAnAddressIsTakenOver(t *testing.T) {
	c := newCNIScene(t)
	server := c.pod(2, "server", serverIP)
	c.echo(server, 8080)
	c.start()
	c.apply("job.yaml", egress("job", "server", 8080))
	c.apply("locked.yaml", egress("locked", "", 0))
	job, _ := c.born(1, "job", clientIP, "job")
	c.want(job, serverIP+":8080", true)
	if err := c.lab.Describe(job); err != nil { // the API says that it runs, and goes on saying so
		t.Fatal(err)
	}
	c.ready()
	if _, err := c.call("DEL", job, fmt.Sprint("c", c.ids), time.Second); err != nil {
		t.Fatal(err)
	}
	if err := c.lab.Unplug(job); err != nil {
		t.Fatal(err)
	}
	locked, _ := c.born(1, "locked", clientIP, "locked")
	c.want(locked, serverIP+":8080", false)
	if err := c.lab.Manifests.Remove("pod-default-job.yaml"); err != nil {
		t.Fatal(err)
	}
	c.ready()
	c.want(locked, serverIP+":8080", false)
	again, _ := c.born(1, "again", strangerIP, "job")
	c.want(again, serverIP+":8080", true)
}

// A new sandbox of a pod has another address than the one that the API still says: what the plugin says is newer, until the
// API says something else than it did.
func TestE2EASandboxIsMadeAnew(t *testing.T) {
	c := newCNIScene(t)
	neighbour := c.pod(1, "neighbour", strangerIP)
	near := collect(t, neighbour, 9000)
	p := c.pod(1, "client", clientIP)
	c.start()
	c.apply("client.yaml", egress("client", "", 0))
	if err := c.lab.Unplug(p); err != nil {
		t.Fatal(err)
	}
	next, err := c.lab.AddPod(c.lab.Nodes[0], lab.PodSpec{Name: "client", UID: p.UID, Addr: netip.MustParseAddr("10.42.0.77"), Labels: p.Labels, Silent: true,
		Add: func(p *lab.Pod) error {
			_, err := c.call("ADD", p, "again", 10*time.Second)
			return err
		}})
	if err != nil {
		t.Fatal(err)
	}
	shout(t, next, strangerIP+":9000")
	if err := c.lab.Describe(next); err != nil {
		t.Fatal(err)
	}
	c.ready()
	shout(t, next, strangerIP+":9000")
	time.Sleep(50 * time.Millisecond)
	if n := near.Load(); n != 0 {
		t.Errorf("%d forbidden packets passed", n)
	}
}

// A claim about a pod whose interface is another than it says, or that nobody knows, is not answered with yes.
func TestE2EAddSaysWhatIsWrong(t *testing.T) {
	c := newCNIScene(t)
	p := c.pod(1, "client", clientIP)
	c.start()
	other := *p
	other.PodSpec.Addr = netip.MustParseAddr("10.42.0.99")
	if _, err := c.call("ADD", &other, "x1", 2*time.Second); err == nil || !strings.Contains(err.Error(), "10.42.0.10") {
		t.Errorf("ADD with another address: %v", err)
	}
	unknown := *p
	unknown.PodSpec.Name = "nobody"
	if _, err := c.call("ADD", &unknown, "x2", 2*time.Second); err == nil || !strings.Contains(err.Error(), "default/nobody") {
		t.Errorf("ADD of a pod that nobody knows: %v", err)
	}
	if _, err := c.call("CHECK", p, "x3", 2*time.Second); err != nil {
		t.Errorf("CHECK of a guarded pod: %v", err)
	}
	ctx, cancel := context.WithTimeout(context.Background(), time.Second)
	defer cancel()
	if _, err := c.lab.Nodes[0].Run(ctx, "test", "-S", c.sockets[0]); err != nil {
		t.Error(err)
	}
}
