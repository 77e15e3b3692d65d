// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"fmt"
	"net/netip"
)

// AddService puts a TCP Service at ServiceIP in front of one pod: its manifests, and what kube-proxy would do on both
// nodes. A lab has one Service.
func (l *Lab) AddService(name string, port int, backend *Pod, targetPort int) error {
	if err := l.Manifests.Write("service-"+name+".yaml", fmt.Sprintf(`apiVersion: v1
kind: Service
metadata:
  name: %s
  namespace: %s
spec:
  clusterIP: %s
  clusterIPs:
  - %[3]s
  ports:
  - name: main
    protocol: TCP
    port: %d
    targetPort: %d
---
apiVersion: discovery.k8s.io/v1
kind: EndpointSlice
metadata:
  name: %[1]s-1
  namespace: %[2]s
  labels:
    kubernetes.io/service-name: %[1]s
addressType: IPv4
ports:
- name: main
  protocol: TCP
  port: %[5]d
endpoints:
- addresses:
  - %[6]s
  nodeName: %[7]s
  conditions:
    ready: true
  targetRef:
    kind: Pod
    name: %[8]s
    namespace: %[2]s
`, name, backend.Namespace, ServiceIP, port, targetPort, backend.Addr, backend.Node.NodeID, backend.PodSpec.Name)); err != nil {
		return err
	}
	from := netip.AddrPortFrom(netip.MustParseAddr(ServiceIP), uint16(port))
	to := netip.AddrPortFrom(backend.Addr, uint16(targetPort))
	for _, n := range l.Nodes {
		if err := n.Do(func() error { return translate(from, to) }); err != nil {
			return fmt.Errorf("add service %s on %s: %w", name, n.NodeID, err)
		}
	}
	return nil
}
