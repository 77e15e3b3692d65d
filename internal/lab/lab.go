// SPDX-License-Identifier: Apache-2.0

// Package lab builds two Kubernetes-like nodes with a VXLAN overlay out of network namespaces, for the demo, the
// end-to-end tests and the bench. All of it is the kernel's own: veth, bridge, vxlan, routing, netfilter.
//
//	 pod ns   pod ns                                          pod ns   pod ns
//	 eth0     eth0        10.42.0.N/24      10.42.1.N/24       eth0     eth0
//	  |        |                                                |        |
//	veth...  veth...                                          veth...  veth...
//	  +--cni0--+  10.42.0.1                        10.42.1.1    +--cni0--+
//	     |                                                          |
//	 flannel.1    10.42.0.0, VNI 1, UDP 8472       10.42.1.0    flannel.1
//	     |                                                          |
//	   eth0       192.0.2.11  "the NIC": XDP      192.0.2.12      eth0
//	node1 ns                                                     node2 ns
//	     |                                                          |
//	     +--------------------- switch ns: br0 ---------------------+
//	                               |
//	                             eth0     192.0.2.100
//	                             lan ns   a machine that belongs to nobody
package lab

import (
	"cmp"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/vishvananda/netlink"
)

// Addresses of the Service that Lab.AddService sets up, and of the lan host.
const (
	ServiceIP = "10.43.0.10"
	LANIP     = "192.0.2.100"
)

// Config chooses what differs between labs. The zero value is good.
type Config struct {
	RPFilter int  // net.ipv4.conf.*.rp_filter of the nodes
	IPv6     bool // leave IPv6 on: then links speak of themselves, which moves counters
	MTU      int  // of the underlay; 0: 1500. The overlay's is what fits.
}

// Lab is a running lab.
type Lab struct {
	Name      string // weir-PID
	Dir       string // private to this lab, removed with it
	Manifests Manifests
	Nodes     [2]*Node
	LAN       *Space
	Pods      []*Pod // present ones, oldest first

	config    Config
	fabric    *Space // the switch
	published []string
}

// Node is one of the two machines.
type Node struct {
	*Space
	Number  int    // 1 or 2
	NodeID  string // name of the Node object: node1 or node2
	IP      netip.Addr
	PodCIDR netip.Prefix
	VTEPMAC [6]byte
}

// New builds a lab without pods. It must be closed; if the process dies before that, the kernel takes everything back
// except the directory.
func New(config Config) (*Lab, error) {
	l := &Lab{Name: fmt.Sprintf("weir-%d", os.Getpid()), config: config}
	if err := l.build(); err != nil {
		return nil, errors.Join(fmt.Errorf("build lab: %w", err), l.Close())
	}
	return l, nil
}

func (l *Lab) build() (err error) {
	if l.Dir, err = os.MkdirTemp("", l.Name+"-"); err != nil {
		return err
	}
	if l.Manifests, err = newManifests(l.Dir); err != nil {
		return err
	}
	if l.fabric, err = NewSpace(l.Name+"-switch", func() error { return nil }); err != nil {
		return err
	}
	if err = l.fabric.Do(func() error {
		no := false
		bridge := attrs("br0")
		bridge.MTU = l.underlayMTU()
		return add(&netlink.Bridge{LinkAttrs: bridge, MulticastSnooping: &no})
	}); err != nil {
		return err
	}
	if l.LAN, err = NewSpace(l.Name+"-lan", func() error { return nil }); err != nil {
		return err
	}
	if err = l.plug(l.LAN, netip.MustParseAddr(LANIP)); err != nil {
		return err
	}
	for i := range l.Nodes {
		if l.Nodes[i], err = l.newNode(i + 1); err != nil {
			return err
		}
	}
	for i, n := range l.Nodes {
		if err = n.overlay(l.Nodes[1-i]); err != nil {
			return err
		}
	}
	return nil
}

// plug joins a namespace to the switch by an eth0 with an underlay address.
func (l *Lab) plug(s *Space, ip netip.Addr) error {
	if !l.config.IPv6 {
		if err := s.Sysctl("net/ipv6/conf/all/disable_ipv6", "1"); err != nil {
			return err
		}
		if err := s.Sysctl("net/ipv6/conf/default/disable_ipv6", "1"); err != nil {
			return err
		}
	}
	port := s.Name[len(l.Name)+1:]
	if err := l.fabric.Do(func() error {
		nic := attrs(port)
		nic.MTU = l.underlayMTU()
		if err := add(&netlink.Veth{LinkAttrs: nic, PeerName: "eth0", PeerMTU: uint32(nic.MTU), PeerNamespace: netlink.NsFd(s.file.Fd())}); err != nil {
			return err
		}
		return enslave(port, "br0")
	}); err != nil {
		return fmt.Errorf("plug %s into the switch: %w", s.Name, err)
	}
	return s.Do(func() error {
		if err := up("eth0"); err != nil {
			return err
		}
		return address("eth0", netip.PrefixFrom(ip, 24))
	})
}

func (l *Lab) underlayMTU() int { return cmp.Or(l.config.MTU, 1500) }

// overlayMTU is what is left for inner packets.
func (l *Lab) overlayMTU() int { return l.underlayMTU() - 50 }

// Publish gives the namespaces names for "ip netns exec", until Close; it forgets names whose lab is dead.
func (l *Lab) Publish() error {
	const dir = "/run/netns"
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return fmt.Errorf("publish namespaces: %w", err)
	}
	spaces := []*Space{l.Nodes[0].Space, l.Nodes[1].Space, l.LAN}
	for _, p := range l.Pods {
		spaces = append(spaces, p.Space)
	}
	for _, s := range spaces {
		path := filepath.Join(dir, s.Name)
		if err := publish(s.file, path); err != nil {
			return fmt.Errorf("publish namespace %s: %w", s.Name, err)
		}
		l.published = append(l.published, path)
	}
	return nil
}

// Close ends the lab: processes in it are killed, namespaces and files go. Calling it again does nothing.
func (l *Lab) Close() error {
	var errs []error
	for _, path := range l.published {
		errs = append(errs, unpublish(path))
	}
	l.published = nil
	for _, p := range slices.Clone(l.Pods) {
		p.Close()
	}
	l.Pods = nil
	for i, n := range l.Nodes {
		if n != nil {
			n.Close()
		}
		l.Nodes[i] = nil
	}
	for _, s := range []**Space{&l.LAN, &l.fabric} {
		if *s != nil {
			(*s).Close()
		}
		*s = nil
	}
	if l.Dir != "" {
		errs = append(errs, os.RemoveAll(l.Dir))
	}
	return errors.Join(errs...)
}
