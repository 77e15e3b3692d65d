// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Manifests is the directory of Kubernetes objects that describes the lab to the agents.
type Manifests struct {
	Dir     string
	staging string // on the same file system: a file appears whole or not at all
}

func newManifests(parent string) (Manifests, error) {
	m := Manifests{Dir: filepath.Join(parent, "manifests"), staging: filepath.Join(parent, "staging")}
	for _, dir := range []string{m.Dir, m.staging} {
		if err := os.Mkdir(dir, 0o755); err != nil {
			return m, fmt.Errorf("make manifests directory: %w", err)
		}
	}
	return m, m.Write("namespaces.yaml", namespace("default"))
}

// Write puts a file into the directory, or replaces it, in one step.
func (m Manifests) Write(name, content string) error {
	staged := filepath.Join(m.staging, name)
	if err := os.WriteFile(staged, []byte(content), 0o644); err != nil {
		return fmt.Errorf("write manifest: %w", err)
	}
	if err := os.Rename(staged, filepath.Join(m.Dir, name)); err != nil {
		return fmt.Errorf("publish manifest: %w", err)
	}
	return nil
}

// Remove takes a file out of the directory.
func (m Manifests) Remove(name string) error {
	if err := os.Remove(filepath.Join(m.Dir, name)); err != nil {
		return fmt.Errorf("remove manifest: %w", err)
	}
	return nil
}

func namespace(name string) string {
	return fmt.Sprintf(`apiVersion: v1
kind: Namespace
metadata:
  name: %s
  labels:
    kubernetes.io/metadata.name: %[1]s
`, name)
}

// AddNamespace adds a Namespace object besides default.
func (l *Lab) AddNamespace(name string) error {
	return l.Manifests.Write("namespace-"+name+".yaml", namespace(name))
}

// DescribeNode writes the Node object of a node; it need not be one of the lab's own.
func (l *Lab) DescribeNode(n *Node) error {
	return l.Manifests.Write(n.NodeID+".yaml", fmt.Sprintf(`apiVersion: v1
kind: Node
metadata:
  name: %s
  labels:
    kubernetes.io/hostname: %[1]s
  annotations:
    flannel.alpha.coreos.com/backend-data: '{"VNI":%d,"VtepMAC":"%s"}'
    flannel.alpha.coreos.com/backend-type: vxlan
    flannel.alpha.coreos.com/kube-subnet-manager: "true"
    flannel.alpha.coreos.com/public-ip: %s
spec:
  podCIDR: %s
  podCIDRs:
  - %[5]s
status:
  addresses:
  - type: InternalIP
    address: %[4]s
  - type: Hostname
    address: %[1]s
`, n.NodeID, VNI, net.HardwareAddr(n.VTEPMAC[:]), n.IP, n.PodCIDR))
}

func (p *Pod) manifest() string { return fmt.Sprintf("pod-%s-%s.yaml", p.Namespace, p.PodSpec.Name) }

func (l *Lab) describePod(p *Pod) error {
	var b strings.Builder
	fmt.Fprintf(&b, `apiVersion: v1
kind: Pod
metadata:
  name: %s
  namespace: %s
  uid: %s
`, p.PodSpec.Name, p.Namespace, p.UID)
	if len(p.Labels) > 0 {
		b.WriteString("  labels:\n")
		keys := make([]string, 0, len(p.Labels))
		for key := range p.Labels {
			keys = append(keys, key)
		}
		slices.Sort(keys)
		for _, key := range keys {
			fmt.Fprintf(&b, "    %s: %q\n", key, p.Labels[key])
		}
	}
	fmt.Fprintf(&b, "spec:\n  nodeName: %s\n  containers:\n  - name: main\n    image: weir.invalid/main\n", p.Node.NodeID)
	if len(p.Ports) > 0 {
		b.WriteString("    ports:\n")
		for _, port := range p.Ports {
			fmt.Fprintf(&b, "    - containerPort: %d\n      protocol: TCP\n", port)
		}
	}
	if p.Unaddressed {
		b.WriteString("status:\n  phase: Pending\n")
		return l.Manifests.Write(p.manifest(), b.String())
	}
	fmt.Fprintf(&b, "status:\n  phase: Running\n  podIP: %s\n  podIPs:\n  - ip: %[1]s\n", p.Addr)
	return l.Manifests.Write(p.manifest(), b.String())
}
