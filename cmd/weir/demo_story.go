// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"embed"
	"errors"
	"fmt"
	"net"
	"net/http"
	"net/netip"
	"strconv"

	appsv1 "k8s.io/api/apps/v1"
	"sigs.k8s.io/yaml"

	"github.com/weirnet/weir/internal/lab"
)

// The story's three manifests, and the policy that the story means.
//
//go:embed demo/*.yaml
var demoManifests embed.FS

const (
	asWritten  = "frontend-to-backend-policy.yaml"
	asIntended = "backend-from-frontend-policy.yaml"
)

// The connections that every phase tries.
func demoAttempts() []connection {
	return []connection{
		{From: "frontend", To: "backend", Port: 8080},
		{From: "frontend", To: "backend", Port: 80},
		{From: "backend", To: "frontend", Port: 8080},
		{From: "backend", To: "frontend", Port: 80},
		{From: "visitor", To: "frontend", Port: 8080}, // on the same node: never sees the NIC
		{From: "visitor", To: "backend", Port: 8080},
	}
}

func (d *demo) run(ctx context.Context) error {
	if err := d.build(ctx); err != nil {
		return err
	}
	p := d.page
	p.title("weir: network policy in XDP, on the inner packets of a VXLAN overlay")
	p.drawing(d)

	p.chapter("1. Before: no policy", "Kubernetes lets all pods talk to each other.")
	if err := d.phase(ctx, "before", "", nil); err != nil {
		return err
	}

	p.chapter("2. The policy as written: frontend-to-backend",
		"It selects app=frontend and admits app=backend on TCP 8080: so it guards frontend, not backend.",
		"The story expects frontend's curl to fail now. That does not follow: nothing isolates backend's ingress or",
		"frontend's egress, and the replies belong to a connection that was admitted. What it does is the other way round.")
	if err := d.apply(asWritten, ""); err != nil {
		return err
	}
	if err := d.phase(ctx, "as written", asWritten, map[string]string{
		"backend → frontend:80":   "underlay_rx",
		"visitor → frontend:8080": "pod_tx",
	}); err != nil {
		return err
	}

	p.chapter("3. The policy as intended: backend-from-frontend",
		"It selects app=backend and admits app=frontend on TCP 8080, in place of the policy above.")
	if err := d.apply(asIntended, asWritten); err != nil {
		return err
	}
	if err := d.phase(ctx, "as intended", asIntended, map[string]string{
		"frontend → backend:80":  "underlay_rx",
		"visitor → backend:8080": "underlay_rx",
	}); err != nil {
		return err
	}
	p.say("", "Every packet dropped by underlay_rx was dropped by XDP on the NIC: its counter moved, and flannel.1, the",
		"overlay device behind it, received nothing. Agents run with --decap inspect here, so that what is admitted",
		"does show on flannel.1.")
	return nil
}

// build sets the scene: lab, pods, servers, agents.
func (d *demo) build(ctx context.Context) (err error) {
	if d.lab, err = lab.New(lab.Config{}); err != nil {
		return err
	}
	d.pods = map[string]*lab.Pod{}
	for _, actor := range []struct {
		name, manifest, addr string
		node                 int
	}{
		{"frontend", "frontend-deployment.yaml", "10.42.0.10", 0},
		{"visitor", "", "10.42.0.20", 0},
		{"backend", "backend-deployment.yaml", "10.42.1.10", 1},
	} {
		spec := lab.PodSpec{Name: actor.name, Addr: netip.MustParseAddr(actor.addr), Labels: map[string]string{"app": actor.name}}
		if actor.manifest != "" {
			if spec.Labels, spec.Ports, err = podOf(actor.manifest); err != nil {
				return err
			}
		}
		pod, err := d.lab.AddPod(d.lab.Nodes[actor.node], spec)
		if err != nil {
			return err
		}
		d.pods[actor.name] = pod
		if actor.name == "visitor" {
			continue
		}
		for _, port := range []int{80, 8080} {
			if err := serveHTTP(pod, port, fmt.Sprintf("%s:%d", actor.name, port)); err != nil {
				return err
			}
		}
	}
	for _, n := range d.lab.Nodes {
		a, err := startAgent(d.lab, n, "--underlay", "eth0", "--decap", "inspect")
		if err != nil {
			return err
		}
		d.agents = append(d.agents, a)
	}
	return d.ready(ctx)
}

func (d *demo) ready(ctx context.Context) error {
	for _, a := range d.agents {
		if err := a.ready(ctx); err != nil {
			return err
		}
	}
	return nil
}

// podOf reads what a Deployment says about its pods.
func podOf(manifest string) (labels map[string]string, ports []int, err error) {
	data, err := demoManifests.ReadFile("demo/" + manifest)
	if err != nil {
		return nil, nil, err
	}
	var deployment appsv1.Deployment
	if err := yaml.UnmarshalStrict(data, &deployment); err != nil {
		return nil, nil, fmt.Errorf("read %s: %w", manifest, err)
	}
	for _, c := range deployment.Spec.Template.Spec.Containers {
		for _, port := range c.Ports {
			ports = append(ports, int(port.ContainerPort))
		}
	}
	return deployment.Spec.Template.Labels, ports, nil
}

// serveHTTP answers every request on a port of a pod with body.
func serveHTTP(pod *lab.Pod, port int, body string) error {
	listener, err := pod.Listen(":" + strconv.Itoa(port))
	if err != nil {
		return fmt.Errorf("serve %s: %w", body, err)
	}
	server := &http.Server{Handler: http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, body) })}
	go server.Serve(listener) // until the lab ends
	return nil
}

// apply puts one policy into the agents' directory, in place of another.
func (d *demo) apply(manifest, instead string) error {
	data, err := demoManifests.ReadFile("demo/" + manifest)
	if err != nil {
		return err
	}
	if err := d.lab.Manifests.Write(manifest, string(data)); err != nil {
		return err
	}
	if instead != "" {
		return d.lab.Manifests.Remove(instead)
	}
	return nil
}

// phase tries all connections. dropped names those that must fail, and the hook that must drop them.
func (d *demo) phase(ctx context.Context, name, manifest string, dropped map[string]string) error {
	if err := d.ready(ctx); err != nil {
		return err
	}
	d.story.Phases = append(d.story.Phases, phase{Name: name, Policy: manifest})
	current := &d.story.Phases[len(d.story.Phases)-1]
	var errs []error
	for _, c := range demoAttempts() {
		c.WantHook = dropped[c.String()]
		if err := d.try(ctx, &c); err != nil {
			return err
		}
		current.Connections = append(current.Connections, c)
		if err := c.check(); err != nil {
			errs = append(errs, fmt.Errorf("%s: %s: %w", name, c, err))
		}
	}
	d.page.table(current.Connections)
	return errors.Join(errs...)
}

// isTimeout says whether nobody answered, as opposed to a refusal.
func isTimeout(err error) bool {
	var timeout net.Error
	return errors.As(err, &timeout) && timeout.Timeout()
}
