// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"time"

	corev1 "k8s.io/api/core/v1"
	networkingv1 "k8s.io/api/networking/v1"
	metav1 "k8s.io/apimachinery/pkg/apis/meta/v1"
	"k8s.io/apimachinery/pkg/types"

	"github.com/weirnet/weir/internal/fakeapi"
	"github.com/weirnet/weir/internal/lab"
	"github.com/weirnet/weir/k8s"
)

// clusterAgent is an agent whose policy comes from an API server that the test holds the strings of:
//
//	pods client and server ── cni0 of node1 ── the agent ── http://127.0.0.1 in node1's namespace: fakeapi
type clusterAgent struct {
	*oneAgent
	api            *fakeapi.Server
	addr           string
	kubeconfig     string
	client, server *lab.Pod
}

func newClusterAgent(t *testing.T) *clusterAgent {
	t.Helper()
	c := &clusterAgent{oneAgent: newOneAgent(t), api: fakeapi.New()}
	c.client, c.server = c.pod("client", "10.42.0.10"), c.pod("server", "10.42.0.11")
	c.listen("127.0.0.1:0")
	c.kubeconfig = filepath.Join(t.TempDir(), "kubeconfig")
	c.must(os.WriteFile(c.kubeconfig, []byte("apiVersion: v1\nkind: Config\nclusters: [{name: c, cluster: {server: 'http://"+c.addr+
		"'}}]\ncontexts: [{name: c, context: {cluster: c, user: u}}]\nusers: [{name: u, user: {}}]\ncurrent-context: c\n"), 0o600))
	for _, n := range c.lab.Nodes {
		c.api.Put("/api/v1/nodes", (&bigCluster{}).node(0, n))
	}
	for _, p := range []*lab.Pod{c.client, c.server} {
		object := &corev1.Pod{ObjectMeta: metav1.ObjectMeta{Namespace: p.Namespace, Name: p.PodSpec.Name, UID: types.UID(p.UID), Labels: map[string]string{"app": p.PodSpec.Name}}}
		object.Spec.NodeName, object.Status.Phase = c.node.NodeID, corev1.PodRunning
		object.Status.PodIP, object.Status.PodIPs = p.Addr.String(), []corev1.PodIP{{IP: p.Addr.String()}}
		c.api.Put(podsPath, object)
	}
	var listener net.Listener
	c.must(c.server.Do(func() (err error) { listener, err = net.Listen("tcp", "10.42.0.11:8080"); return err }))
	t.Cleanup(func() { listener.Close() })
	go func() {
		for {
			conn, err := listener.Accept()
			if err != nil {
				return
			}
			io.WriteString(conn, "hello")
			conn.Close()
		}
	}()
	return c
}

func (c *clusterAgent) listen(addr string) {
	c.Helper()
	var l net.Listener
	c.must(c.node.Do(func() (err error) { l, err = net.Listen("tcp", addr); return err }))
	c.addr = l.Addr().String()
	c.api.Serve(l)
	c.Cleanup(c.api.Stop)
}

func (c *clusterAgent) run(flags ...string) {
	c.Helper()
	a, err := startAgentOn(c.node, append([]string{"--kubeconfig", c.kubeconfig}, flags...)...)
	c.must(err)
	c.agent = a
}

// reaches says whether the client gets an answer.
func (c *clusterAgent) reaches() bool {
	c.Helper()
	var answer []byte
	c.must(c.client.Do(func() error {
		conn, err := net.DialTimeout("tcp", "10.42.0.11:8080", 400*time.Millisecond)
		if err != nil {
			return nil
		}
		defer conn.Close()
		answer, _ = io.ReadAll(conn)
		return nil
	}))
	return string(answer) == "hello"
}

func isolation(app string) *networkingv1.NetworkPolicy {
	p := &networkingv1.NetworkPolicy{ObjectMeta: metav1.ObjectMeta{Namespace: "default", Name: "isolate-" + app}}
	p.Spec.PodSelector.MatchLabels = map[string]string{"app": app}
	return p
}

// What the API server tells is enforced on packets; what it does not tell any more stays, also over restarts of the agent
// while it is away.
func TestE2EClusterAndItsOutage(t *testing.T) {
	c := newClusterAgent(t)
	c.run()
	c.must(c.agent.ready(context.Background()))
	if !c.reaches() {
		t.Fatal("no connection without a policy")
	}
	c.api.Put(policiesPath, isolation("server"))
	c.eventually("the policy to be enforced", func() bool { return !c.reaches() })
	body, err := c.agent.get(context.Background(), "/metrics")
	if err != nil || !strings.Contains(body, "weir_event_to_enforced_seconds_count") {
		t.Errorf("/metrics: %v, without the time from event to enforced", err)
	}

	c.api.Stop()
	c.readySays("ready\n", "the API server does not tell")
	if c.reaches() {
		t.Error("the API server is away, and with it the policy")
	}
	c.must(c.agent.stop(syscall.SIGKILL))
	if c.reaches() {
		t.Error("the agent is dead, and with it the policy")
	}
	c.run()
	c.readySays("503", "the API server has not told everything yet")
	if c.reaches() {
		t.Error("the agent is back, the API server is not, and the policy is gone")
	}
	c.listen(c.addr)
	c.must(c.agent.ready(context.Background()))
	if c.reaches() {
		t.Error("the API server is back, and the policy is gone")
	}
	c.api.Delete(policiesPath, "default/isolate-server", false)
	c.eventually("the policy to be gone", c.reaches)
}

// An agent whose DaemonSet is annotated leaves the node as it was, and stays away.
func TestE2EClusterUninstall(t *testing.T) {
	c := newClusterAgent(t)
	set := &metav1.PartialObjectMetadata{ObjectMeta: metav1.ObjectMeta{Namespace: "kube-system", Name: "weir"}}
	c.api.Put("/apis/apps/v1/daemonsets", set)
	c.api.Put(policiesPath, isolation("server"))
	c.run("--daemonset", "kube-system/weir")
	c.must(c.agent.ready(context.Background()))
	if c.reaches() {
		t.Fatal("the policy is not enforced")
	}
	marked := set.DeepCopy()
	marked.Annotations = map[string]string{k8s.UninstallAnnotation: "true"}
	c.api.Put("/apis/apps/v1/daemonsets", marked)
	c.eventually("weir to be gone", func() bool { return c.reaches() && !c.attached("flannel.1") && !c.attached(c.server.Veth) })
	c.readySays("503", "weir is uninstalled")
	if body, err := c.agent.get(context.Background(), "/healthz"); err != nil {
		t.Errorf("/healthz of an agent that has left: %v %s", err, body)
	}
	select {
	case <-c.agent.done:
		t.Error("the agent ended: it would be started again")
	default:
	}
}
