// SPDX-License-Identifier: Apache-2.0

//go:build cluster

package clustertest

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/netip"
	"os"
	"runtime"
	"strings"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/internal/cluster"
)

// Services of these tests. The real kube-proxy translates their addresses.
const (
	goodVIP    = "10.96.1.1" // both endpoints are admitted
	badVIP     = "10.96.1.2" // none is
	mixedVIP   = "10.96.1.3" // near and far ones of both kinds
	localVIP   = "10.96.1.4" // internalTrafficPolicy: Local, both kinds, near a good one
	hostVIP    = "10.96.1.5" // a pod on the other node's network
	nearVIP    = "10.96.1.6" // a pod on the own node's network
	emptyVIP   = "10.96.1.7" // nothing
	unreadyVIP = "10.96.1.8" // publishNotReadyAddresses
	namedVIP   = "10.96.1.9" // a port by name, another number in each slice
	stickyVIP  = "10.96.1.10"
	leavingVIP = "10.96.1.11"
	outerVIP   = "10.96.1.12" // externalTrafficPolicy: Local
	dnsVIP     = "10.96.1.53"

	balancerVIP   = "198.51.100.10" // ipMode VIP: kube-proxy has the address
	balancerProxy = "198.51.100.11" // ipMode Proxy: the load balancer has

	goodNodePort, outerNodePort = 30081, 30082
)

// With kube-proxy in front, a pod's egress policy is about the backend that was chosen: nothing less passes, nothing else.
func TestServices(t *testing.T) {
	c := installed(t)
	t.Cleanup(func() {
		if t.Failed() {
			t.Log(state(c))
		}
		for _, n := range c.Nodes { // as it was
			if err := errors.Join(n.StopKubeProxy(context.Background()), n.StartKubeProxy(nodesStage.config.KubeProxy)); err != nil {
				t.Error(err)
			}
		}
	})
	s := newServices(t, c)
	for _, mode := range []string{"iptables", "nftables"} {
		t.Run(mode, func(t *testing.T) {
			for _, n := range c.Nodes {
				if err := errors.Join(n.StopKubeProxy(t.Context()), n.StartKubeProxy(mode)); err != nil {
					t.Fatal(err)
				}
			}
			within(t, 30*time.Second, func(context.Context) error { // it has begun
				for _, n := range []string{"n1", "n2"} {
					if _, err := s.ask(s.free[n], "tcp", goodVIP+":80"); err != nil {
						return err
					}
				}
				return nil
			})
			s.all(t)
		})
	}
}

// services is the scene: pods of both kinds on both nodes.
type services struct {
	c       *cluster.Cluster
	ns      string
	client  *pod            // on n1, may reach app=good and the DNS, and nothing else
	free    map[string]*pod // no policy; one a node
	good    map[string]*pod
	bad     map[string]*pod
	host    map[string]*pod // on the nodes' network
	outside interface {
		DialFrom(ctx context.Context, local netip.AddrPort, address string) (net.Conn, error)
	}
}

const outsideIP = "192.0.2.50"

func newServices(t *testing.T, c *cluster.Cluster) *services {
	ns := namespace(t, c, "services")
	s := &services{c: c, ns: ns, free: map[string]*pod{}, good: map[string]*pod{}, bad: map[string]*pod{}, host: map[string]*pod{}}
	s.client = &pod{Namespace: ns, Name: "client", Node: "n1"}
	dns := &pod{Namespace: "kube-system", Name: "dns", Node: "n2", Labels: map[string]string{"k8s-app": "kube-dns"}}
	pods := []*pod{s.client, dns}
	for _, node := range []string{"n1", "n2"} {
		label := func(kind string) map[string]string { return map[string]string{"kind": kind, "any": "yes"} }
		s.free[node] = &pod{Namespace: ns, Name: "free-" + node, Node: node}
		s.good[node] = &pod{Namespace: ns, Name: "good-" + node, Node: node, Labels: label("good")}
		s.bad[node] = &pod{Namespace: ns, Name: "bad-" + node, Node: node, Labels: label("bad")}
		s.host[node] = &pod{Namespace: ns, Name: "host-" + node, Node: node, HostNetwork: true}
		pods = append(pods, s.free[node], s.good[node], s.bad[node], s.host[node])
	}
	t.Cleanup(func() {
		for _, p := range append(pods[1:2:2], s.host["n1"], s.host["n2"]) { // in the way of others
			c.Kubectl(context.Background(), "--namespace="+p.Namespace, "delete", "pod", p.Name, "--wait=false")
		}
	})
	start(t, c, pods...)
	lan, err := c.Plug("outside", netip.MustParseAddr(outsideIP))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(lan.Close)
	s.outside = lan
	s.objects(t)
	s.enforced(t)
	return s
}

// objects makes Services and policies.
func (s *services) objects(t *testing.T) {
	service := func(name, vip, spec string) string {
		return fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: %s, namespace: %s}\nspec: {clusterIP: %s, %s}\n---\n", name, s.ns, vip, spec)
	}
	slice := func(name, suffix, port, addresses string) string {
		return fmt.Sprintf("apiVersion: discovery.k8s.io/v1\nkind: EndpointSlice\nmetadata: {name: %s-%s, namespace: %s, labels: {kubernetes.io/service-name: %s}}\n"+
			"addressType: IPv4\nports: [{name: http, port: %s}]\nendpoints: [%s]\n---\n", name, suffix, s.ns, name, port, addresses)
	}
	const http = "ports: [{name: http, port: 80, targetPort: 8080}]"
	manifest := service("good", goodVIP, "type: NodePort, selector: {kind: good}, ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30081}]") +
		service("bad", badVIP, "selector: {kind: bad}, "+http) +
		service("mixed", mixedVIP, "selector: {any: 'yes'}, "+http) +
		service("local", localVIP, "internalTrafficPolicy: Local, "+http) +
		slice("local", "a", "8080", fmt.Sprintf("{addresses: [%s], nodeName: n1}, {addresses: [%s], nodeName: n2}", s.good["n1"].IP, s.bad["n2"].IP)) +
		service("hostfar", hostVIP, http) + slice("hostfar", "a", "8080", fmt.Sprintf("{addresses: [%s], nodeName: n2}", s.host["n2"].IP)) +
		service("hostnear", nearVIP, http) + slice("hostnear", "a", "8080", fmt.Sprintf("{addresses: [%s], nodeName: n1}", s.host["n1"].IP)) +
		service("empty", emptyVIP, "selector: {kind: nobody}, "+http) +
		service("unready", unreadyVIP, "publishNotReadyAddresses: true, selector: {kind: unready}, "+http) +
		service("named", namedVIP, "ports: [{name: http, port: 80, targetPort: http}]") +
		slice("named", "a", "8080", fmt.Sprintf("{addresses: [%s], nodeName: n2}", s.good["n2"].IP)) +
		slice("named", "b", "8081", fmt.Sprintf("{addresses: [%s], nodeName: n1}", s.good["n1"].IP)) +
		service("sticky", stickyVIP, "sessionAffinity: ClientIP, selector: {any: 'yes'}, "+http) +
		service("leaving", leavingVIP, "selector: {kind: leaving}, "+http) +
		service("outer", outerVIP, "type: NodePort, externalTrafficPolicy: Local, selector: {app: good-n1}, ports: [{name: http, port: 80, targetPort: 8080, nodePort: 30082}]") +
		fmt.Sprintf("apiVersion: v1\nkind: Service\nmetadata: {name: dns, namespace: kube-system}\nspec: {clusterIP: %s, selector: {k8s-app: kube-dns}, ports: [{name: dns, protocol: UDP, port: 53, targetPort: 8080}]}\n---\n", dnsVIP) +
		service("balanced", "10.96.1.13", "type: LoadBalancer, allocateLoadBalancerNodePorts: false, selector: {kind: good}, "+http) +
		service("proxied", "10.96.1.14", "type: LoadBalancer, allocateLoadBalancerNodePorts: false, selector: {kind: good}, "+http) +
		fmt.Sprintf(`apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: client, namespace: %[1]s}
spec:
  podSelector: {matchLabels: {app: client}}
  policyTypes: [Egress, Ingress]
  egress:
  - to: [{podSelector: {matchLabels: {kind: good}}}]
    ports: [{port: 8080}]
  - to: [{podSelector: {matchLabels: {kind: unready}}}, {podSelector: {matchLabels: {kind: leaving}}}]
    ports: [{port: 8080}]
  - to: [{namespaceSelector: {matchLabels: {kubernetes.io/metadata.name: kube-system}}, podSelector: {matchLabels: {k8s-app: kube-dns}}}]
    ports: [{port: 8080, protocol: UDP}]
---
apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: good, namespace: %[1]s}
spec:
  podSelector: {matchLabels: {app: good-n1}}
  policyTypes: [Ingress]
  ingress: [{from: [{podSelector: {}}, {ipBlock: {cidr: %[2]s/32}}]}]
`, s.ns, outsideIP)
	apply(t, s.c, manifest)
	t.Cleanup(func() {
		s.c.Kubectl(context.Background(), "--namespace=kube-system", "delete", "service", "dns", "--wait=false")
	})
	for name, ingress := range map[string]string{"balanced": `{"ip":"` + balancerVIP + `","ipMode":"VIP"}`, "proxied": `{"ip":"` + balancerProxy + `","ipMode":"Proxy"}`} {
		kubectl(t, s.c, "--namespace="+s.ns, "patch", "service", name, "--subresource=status", "--type=merge", "--patch", `{"status":{"loadBalancer":{"ingress":[`+ingress+`]}}}`)
	}
}

// enforced waits until the policies are.
func (s *services) enforced(t *testing.T) {
	within(t, 60*time.Second, func(context.Context) error {
		if _, err := s.ask(s.client, "tcp", s.bad["n2"].IP+":8080"); err == nil {
			return errors.New("nothing is enforced yet")
		}
		_, err := s.ask(s.client, "tcp", s.good["n2"].IP+":8080")
		return err
	})
}

// all is everything that is asked of one mode of kube-proxy.
func (s *services) all(t *testing.T) {
	t.Run("all backends admitted", func(t *testing.T) { s.reaches(t, s.client, goodVIP+":80", "good-n1", "good-n2") })
	t.Run("none admitted", func(t *testing.T) { s.reaches(t, s.client, badVIP+":80") })
	t.Run("some admitted", func(t *testing.T) {
		if failed := s.reaches(t, s.client, mixedVIP+":80", "good-n1", "good-n2"); failed == 0 {
			t.Error("the others were never chosen")
		}
	})
	t.Run("no policy", func(t *testing.T) {
		s.reaches(t, s.free["n1"], mixedVIP+":80", "good-n1", "good-n2", "bad-n1", "bad-n2")
	})
	t.Run("DNS", func(t *testing.T) {
		for range 5 {
			if _, err := s.ask(s.client, "udp", dnsVIP+":53"); err != nil {
				t.Error(err)
			}
		}
	})
	t.Run("internalTrafficPolicy Local", func(t *testing.T) {
		if failed := s.reaches(t, s.client, localVIP+":80", "good-n1"); failed > 0 {
			t.Errorf("%d failed: the far backend is none here", failed)
		}
		s.reaches(t, s.free["n2"], localVIP+":80", "bad-n2")
	})
	t.Run("sessionAffinity", func(t *testing.T) { s.sticks(t, s.free["n1"], stickyVIP+":80") })
	t.Run("nodePort of both nodes", func(t *testing.T) {
		s.reaches(t, s.client, fmt.Sprintf("%s:%d", s.c.Nodes[0].IP, goodNodePort), "good-n1", "good-n2")
		// The other node sends it on in its own name, whom good-n1's ingress policy does not admit.
		s.reaches(t, s.client, fmt.Sprintf("%s:%d", s.c.Nodes[1].IP, goodNodePort), "good-n2")
	})
	t.Run("externalTrafficPolicy Local", s.outer)
	t.Run("hairpin", func(t *testing.T) { s.reaches(t, s.good["n1"], outerVIP+":80", "good-n1") })
	t.Run("backends on the nodes' network", func(t *testing.T) {
		s.reaches(t, s.client, hostVIP+":80")
		s.reaches(t, s.client, nearVIP+":80")
		s.reaches(t, s.free["n1"], hostVIP+":80", "n2")
		s.reaches(t, s.free["n1"], nearVIP+":80", "n1")
		s.withHosts(t, func() {
			s.reaches(t, s.client, hostVIP+":80", "n2")
			s.reaches(t, s.client, nearVIP+":80", "n1")
		})
	})
	t.Run("no endpoints", func(t *testing.T) {
		s.reaches(t, s.client, emptyVIP+":80")
		s.reaches(t, s.free["n1"], emptyVIP+":80")
	})
	t.Run("a port by name", func(t *testing.T) {
		if failed := s.reaches(t, s.client, namedVIP+":80", "good-n2"); failed == 0 {
			t.Error("the other number is not admitted, and was never chosen")
		}
	})
	t.Run("publishNotReadyAddresses", s.unready)
	t.Run("terminating", s.leaving)
	t.Run("load balancers", func(t *testing.T) {
		s.reaches(t, s.client, balancerVIP+":80", "good-n1", "good-n2")
		s.reaches(t, s.client, balancerProxy+":80") // an address outside, which no rule admits
	})
}

// outer: kube-proxy keeps the sender's address, so that an ingress policy knows who comes.
func (s *services) outer(t *testing.T) {
	ask := func(local string) error {
		ctx, cancel := context.WithTimeout(t.Context(), 700*time.Millisecond)
		defer cancel()
		conn, err := s.outside.DialFrom(ctx, netip.AddrPortFrom(netip.MustParseAddr(local), 0), fmt.Sprintf("%s:%d", s.c.Nodes[0].IP, outerNodePort))
		if err != nil {
			return err
		}
		defer conn.Close()
		text, err := exchange(conn)
		if err == nil && !strings.Contains(text, "from="+local+":") {
			return fmt.Errorf("the server saw %q", text)
		}
		return err
	}
	within(t, 10*time.Second, func(context.Context) error { return ask(outsideIP) })
	// A pod's own connections to it are about the backend, too.
	s.reaches(t, s.client, fmt.Sprintf("%s:%d", s.c.Nodes[0].IP, outerNodePort), "good-n1")
}

func (s *services) withHosts(t *testing.T, f func()) {
	t.Helper()
	apply(t, s.c, fmt.Sprintf(`apiVersion: networking.k8s.io/v1
kind: NetworkPolicy
metadata: {name: hosts, namespace: %s}
spec: {podSelector: {matchLabels: {app: client}}, policyTypes: [Egress], egress: [{to: [{ipBlock: {cidr: %s/32}}, {ipBlock: {cidr: %s/32}}], ports: [{port: 8080}]}]}
`, s.ns, s.c.Nodes[0].IP, s.c.Nodes[1].IP))
	within(t, 15*time.Second, func(context.Context) error {
		_, err := s.ask(s.client, "tcp", s.c.Nodes[1].IP.String()+":8080")
		return err
	})
	f()
	kubectl(t, s.c, "--namespace="+s.ns, "delete", "networkpolicy", "hosts")
	within(t, 15*time.Second, func(context.Context) error {
		if _, err := s.ask(s.client, "tcp", s.c.Nodes[1].IP.String()+":8080"); err == nil {
			return errors.New("the nodes are still admitted")
		}
		return nil
	})
}

// unready: a pod that never is ready, behind a Service that does not mind.
func (s *services) unready(t *testing.T) {
	s.extra(t, "unready", `"readinessProbe": {"exec": {"command": ["/nothing"]}}`, 1)
	within(t, 30*time.Second, func(context.Context) error {
		_, err := s.ask(s.free["n1"], "tcp", unreadyVIP+":80")
		return err
	})
	s.reaches(t, s.client, unreadyVIP+":80", "unready")
	kubectl(t, s.c, "--namespace="+s.ns, "delete", "pod", "unready")
}

// leaving: the last backend serves on while it terminates, and new connections still reach it.
func (s *services) leaving(t *testing.T) {
	s.extra(t, "leaving", `"lifecycle": {"preStop": {"sleep": {"seconds": 60}}}`, 90)
	within(t, 30*time.Second, func(context.Context) error {
		_, err := s.ask(s.client, "tcp", leavingVIP+":80")
		return err
	})
	kubectl(t, s.c, "--namespace="+s.ns, "delete", "pod", "leaving", "--wait=false")
	within(t, 15*time.Second, func(ctx context.Context) error {
		out, err := s.c.Kubectl(ctx, "--namespace="+s.ns, "get", "endpointslices", "-l", "kubernetes.io/service-name=leaving", "-o", "jsonpath={.items[*].endpoints[*].conditions.terminating}")
		if err != nil || out != "true" {
			return fmt.Errorf("terminating: %q, %v", out, err)
		}
		return nil
	})
	if failed := s.reaches(t, s.client, leavingVIP+":80", "leaving"); failed > 0 {
		t.Errorf("%d connections failed", failed)
	}
	kubectl(t, s.c, "--namespace="+s.ns, "delete", "pod", "leaving", "--force", "--grace-period=0")
}

// extra starts a pod on n2 with something more to its container, and waits until it runs.
func (s *services) extra(t *testing.T, name, more string, grace int) {
	t.Helper()
	apply(t, s.c, fmt.Sprintf(`{"apiVersion": "v1", "kind": "Pod", "metadata": {"name": %q, "namespace": %q, "labels": {"kind": %[1]q}},
"spec": {"nodeSelector": {"kubernetes.io/hostname": "n2"}, "terminationGracePeriodSeconds": %[3]d, "automountServiceAccountToken": false, "dnsPolicy": "Default",
"containers": [{"name": "app", "image": %[4]q, "imagePullPolicy": "Never", "args": ["serve"], %[5]s}]}}`, name, s.ns, grace, cluster.AppImage, more))
	kubectl(t, s.c, "--namespace="+s.ns, "wait", "--for=jsonpath={.status.phase}=Running", "pod/"+name, "--timeout=90s")
}

// reaches asks a Service's address again and again: whoever answers must be among want, and each of them does. It returns how
// often nobody answered. Without want, nobody may answer.
func (s *services) reaches(t *testing.T, from *pod, address string, want ...string) (failed int) {
	t.Helper()
	met := map[string]int{}
	deadline := time.Now().Add(20 * time.Second)
	const tries = 12
	for i := 0; i < tries || len(want) > 0 && len(met) < len(want) && time.Now().Before(deadline); i++ {
		text, err := s.ask(from, "tcp", address)
		if err != nil {
			failed++
			if len(want) == 0 && i >= 2 {
				break
			}
			continue
		}
		name, _, _ := strings.Cut(strings.TrimPrefix(text, "host="), " ")
		met[name]++
	}
	for name, n := range met {
		if !strings.Contains(" "+strings.Join(want, " ")+" ", " "+name+" ") {
			t.Errorf("%s → %s: %s answered %d times", from.Name, address, name, n)
		}
	}
	for _, name := range want {
		if met[name] == 0 {
			t.Errorf("%s → %s: %s never answered; others: %v, nobody: %d", from.Name, address, name, met, failed)
		}
	}
	return failed
}

func (s *services) sticks(t *testing.T, from *pod, address string) {
	t.Helper()
	first := ""
	for range 10 {
		text, err := s.ask(from, "tcp", address)
		name, _, _ := strings.Cut(text, " ")
		if err != nil || first != "" && name != first {
			t.Errorf("%s → %s: %s answered, then %q, %v", from.Name, address, first, name, err)
		}
		first = name
	}
}

// ask connects from a pod, once, and returns what the server says.
func (s *services) ask(from *pod, network, address string) (text string, err error) {
	err = s.inside(from, func() error {
		conn, err := net.DialTimeout(network, address, 700*time.Millisecond)
		if err != nil {
			return err
		}
		defer conn.Close()
		text, err = exchange(conn)
		return err
	})
	return text, err
}

// exchange asks whoever is at the other end: a web server, or an echo of datagrams.
func exchange(conn net.Conn) (string, error) {
	conn.SetDeadline(time.Now().Add(700 * time.Millisecond))
	if _, err := io.WriteString(conn, "GET / HTTP/1.0\r\n\r\n"); err != nil {
		return "", err
	}
	if conn.LocalAddr().Network() == "udp" {
		buffer := make([]byte, 100)
		n, err := conn.Read(buffer)
		return string(buffer[:n]), err
	}
	answer, err := io.ReadAll(conn)
	if err != nil {
		return "", err
	}
	_, body, _ := strings.Cut(string(answer), "\r\n\r\n")
	return strings.TrimSpace(body), nil
}

// inside calls f in a pod's network namespace. Which one that is, its address tells.
func (s *services) inside(p *pod, f func() error) error {
	file, err := s.netns(p)
	if err != nil {
		return err
	}
	done := make(chan error, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with the goroutine
		fd, err := unix.Open(file, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- fmt.Errorf("open namespace of %s: %w", p.Name, err)
			return
		}
		defer unix.Close(fd)
		if err := unix.Setns(fd, unix.CLONE_NEWNET); err != nil {
			done <- fmt.Errorf("enter namespace of %s: %w", p.Name, err)
			return
		}
		done <- f()
	}()
	return <-done
}

func (s *services) netns(p *pod) (string, error) {
	if p.netns != "" {
		return p.netns, nil
	}
	node := s.c.Node(p.Node)
	names, err := os.ReadDir(node.Path("/run/netns"))
	if err != nil {
		return "", fmt.Errorf("find namespace of %s: %w", p.Name, err)
	}
	for _, name := range names {
		out, err := node.Exec(context.Background(), "nsenter", "--net=/run/netns/"+name.Name(), "ip", "-4", "-brief", "address", "show", "dev", "eth0")
		if err == nil && strings.Contains(out, " "+p.IP+"/") {
			p.netns = node.Path("/run/netns/" + name.Name())
			return p.netns, nil
		}
	}
	return "", fmt.Errorf("find namespace of %s: none of %d has %s", p.Name, len(names), p.IP)
}
