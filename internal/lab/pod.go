// SPDX-License-Identifier: Apache-2.0

package lab

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"github.com/vishvananda/netlink"
)

// PodSpec says what a pod is to be.
type PodSpec struct {
	Namespace string // default: default
	Name      string
	UID       string // default: made from the name
	Addr      netip.Addr
	Labels    map[string]string
	Ports     []int // container ports, TCP
	// Silent leaves out the pod's manifest: it runs, and policy has not heard of it.
	Silent bool
	// Unaddressed leaves out the pod's address: as the API has it until a while after the pod's start.
	Unaddressed bool
	// Add is called when the pod's interface is there, before anything runs behind it: a chained CNI plugin's ADD.
	Add func(*Pod) error
}

// Pod is a running pod: a namespace behind a veth on its node's bridge.
type Pod struct {
	*Space
	PodSpec
	Node *Node
	Veth string // the host side
	lab  *Lab
}

// Key is "namespace/name".
func (p *Pod) Key() string { return p.Namespace + "/" + p.PodSpec.Name }

// AddPod starts a pod on a node. Its manifest is written before its interface exists.
func (l *Lab) AddPod(n *Node, spec PodSpec) (*Pod, error) {
	if spec.Namespace == "" {
		spec.Namespace = "default"
	}
	if spec.UID == "" {
		sum := sha256.Sum256([]byte(spec.Namespace + "/" + spec.Name))
		spec.UID = fmt.Sprintf("%x-%x-%x-%x-%x", sum[:4], sum[4:6], sum[6:8], sum[8:10], sum[10:16])
	}
	p := &Pod{PodSpec: spec, Node: n, lab: l}
	sum := sha256.Sum256([]byte(spec.UID))
	p.Veth = fmt.Sprintf("veth%x", sum[:4])
	var err error
	if p.Space, err = NewSpace(fmt.Sprintf("%s-%s-%s", l.Name, spec.Namespace, spec.Name), func() error { return nil }); err != nil {
		return nil, err
	}
	if !spec.Silent {
		err = l.describePod(p)
	}
	if err == nil {
		err = p.pause()
	}
	if err == nil {
		err = p.connect()
	}
	if err == nil && spec.Add != nil {
		err = spec.Add(p)
	}
	if err != nil {
		p.Close()
		return nil, fmt.Errorf("add pod %s: %w", p.Key(), err)
	}
	l.Pods = append(l.Pods, p)
	return p, nil
}

// pause starts what every Kubernetes pod has: a process that does nothing, by which others find the namespace.
func (p *Pod) pause() error {
	cmd := exec.Command("sleep", "infinity")
	if err := p.Start(cmd); err != nil {
		return err
	}
	go cmd.Wait() // it is killed when the pod's namespace is closed
	return nil
}

func (p *Pod) connect() error {
	settings := map[string]string{"net/ipv4/conf/default/arp_notify": "1"} // for announce
	if !p.lab.config.IPv6 {
		settings["net/ipv6/conf/default/disable_ipv6"] = "1"
	}
	for name, value := range settings {
		if err := p.Sysctl(name, value); err != nil {
			return err
		}
	}
	if err := p.Node.Do(func() error {
		host := attrs(p.Veth)
		host.MTU = p.lab.overlayMTU()
		veth := &netlink.Veth{LinkAttrs: host, PeerName: "eth0", PeerMTU: uint32(host.MTU), PeerNamespace: netlink.NsFd(p.file.Fd())}
		if err := add(veth); err != nil {
			return err
		}
		if err := enslave(p.Veth, "cni0"); err != nil {
			return err
		}
		return netlink.LinkSetHairpin(veth, true)
	}); err != nil {
		return err
	}
	if err := p.Do(func() error {
		if err := address("eth0", netip.PrefixFrom(p.Addr, 24)); err != nil {
			return err
		}
		if err := up("eth0"); err != nil {
			return err
		}
		gateway := p.Node.Gateway()
		if err := netlink.RouteAdd(&netlink.Route{Gw: gateway.AsSlice()}); err != nil {
			return fmt.Errorf("set default route: %w", err)
		}
		return nil
	}); err != nil {
		return err
	}
	return p.announce()
}

// announce tells the bridge's neighbours, as a CNI does, who has the address now: once the bridge forwards what the pod
// sends, which it begins to do a moment after the pod's interface is up.
func (p *Pod) announce() error {
	const forwarding = "3" // BR_STATE_FORWARDING of linux/if_bridge.h
	path := "/sys/class/net/" + p.Veth + "/brport/state"
	deadline := time.Now().Add(5 * time.Second)
	for {
		state, err := p.Node.Run(context.Background(), "cat", path)
		if err != nil {
			return err
		}
		if strings.TrimSpace(state) == forwarding {
			break
		}
		if time.Now().After(deadline) {
			return fmt.Errorf("the bridge does not forward what %s sends: port state %s", p.Veth, state)
		}
		time.Sleep(time.Millisecond)
	}
	return p.Do(func() error {
		link, err := netlink.LinkByName("eth0")
		if err != nil {
			return fmt.Errorf("find eth0: %w", err)
		}
		// With arp_notify, an interface that is given an Ethernet address announces its IP addresses.
		if err := netlink.LinkSetHardwareAddr(link, link.Attrs().HardwareAddr); err != nil {
			return fmt.Errorf("announce %s: %w", p.Addr, err)
		}
		return nil
	})
}

// NetNS is a path of the pod's network namespace, for this process and its children.
func (p *Pod) NetNS() string { return fmt.Sprintf("/proc/%d/fd/%d", os.Getpid(), p.file.Fd()) }

// Describe writes the pod's manifest as the API has it once the pod runs.
func (l *Lab) Describe(p *Pod) error {
	p.Silent, p.Unaddressed = false, false
	return l.describePod(p)
}

// RemovePod stops a pod: its manifest goes, then its interface. Sockets in it stay open and silent.
func (l *Lab) RemovePod(p *Pod) error {
	l.Pods = slices.DeleteFunc(l.Pods, func(other *Pod) bool { return other == p })
	var errs []error
	if !p.Silent {
		errs = append(errs, l.Manifests.Remove(p.manifest()))
	}
	errs = append(errs, l.Unplug(p))
	p.Close()
	return errors.Join(errs...)
}

// Unplug takes a pod's interface away, and nothing else.
func (l *Lab) Unplug(p *Pod) error {
	return p.Node.Do(func() error {
		link, err := netlink.LinkByName(p.Veth)
		if err == nil {
			err = netlink.LinkDel(link)
		}
		if err != nil {
			return fmt.Errorf("unplug pod %s: %w", p.Key(), err)
		}
		return nil
	})
}
