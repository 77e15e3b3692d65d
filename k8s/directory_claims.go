// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"fmt"
	"net/netip"
	"slices"

	corev1 "k8s.io/api/core/v1"
)

// directoryClaim is a claim until the manifests say another address than they did when it was made.
type directoryClaim struct {
	PodClaim
	seen    bool
	was     []netip.Addr // what the manifests said when the claim was first held against them
	waiters []chan error
}

// Claim lets a pod have addresses before its manifest says so, and returns once that is enforced. A pod without a manifest
// is waited for. It holds until the manifest names other addresses than now, the pod is gone, or Release.
func (d *Directory) Claim(ctx context.Context, p PodClaim) error {
	answer := make(chan error, 1)
	d.mu.Lock()
	c := d.claims[p.PodKey()]
	if c == nil || c.ContainerID != p.ContainerID || c.UID != p.UID || !slices.Equal(c.Addrs, p.Addrs) {
		next := &directoryClaim{PodClaim: p}
		if c != nil {
			next.waiters = c.waiters
		}
		c = next
		d.claims[p.PodKey()] = c
	}
	c.waiters = append(c.waiters, answer)
	d.mu.Unlock()
	d.claim()
	select {
	case err := <-answer:
		return err
	case <-ctx.Done():
		return fmt.Errorf("claim addresses for pod %s: %w: its manifest is not enforced yet", p.PodKey(), ctx.Err())
	}
}

// Release forgets the claims of the containers that are gone.
func (d *Directory) Release(gone func(containerID string) bool) {
	d.mu.Lock()
	for key, c := range d.claims {
		if gone(c.ContainerID) {
			c.end(fmt.Errorf("container %s of pod %s: %w", c.ContainerID, key, ErrPodGone))
			delete(d.claims, key)
		}
	}
	d.mu.Unlock()
	d.claim()
}

// claim says that claims have changed.
func (d *Directory) claim() {
	select {
	case d.claimed <- struct{}{}:
	default:
	}
}

func (c *directoryClaim) end(err error) {
	for _, w := range c.waiters {
		w <- err
	}
	c.waiters = nil
}

// fill gives pods the addresses that are claimed for them, and takes these from others whose manifests are behind. It
// returns who waits for that.
func (d *Directory) fill(o *Objects) (waiters []chan error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	for _, p := range o.Pods {
		key := p.Namespace + "/" + p.Name
		c := d.claims[key]
		if c == nil || c.UID != "" && p.UID != "" && c.UID != string(p.UID) {
			continue
		}
		if !ownsAddress(p) {
			c.end(fmt.Errorf("pod %s: %w", key, ErrPodGone))
			delete(d.claims, key)
			continue
		}
		said := podAddrs(p)
		if !c.seen {
			c.seen, c.was = true, said
		}
		waiters = append(waiters, c.waiters...)
		c.waiters = nil
		if !slices.Equal(said, c.was) {
			delete(d.claims, key)
			continue
		}
		setAddrs(p, c.Addrs)
		for _, other := range o.Pods {
			if other != p && ownsAddress(other) {
				left := slices.DeleteFunc(podAddrs(other), func(a netip.Addr) bool { return slices.Contains(c.Addrs, a) })
				if len(left) != len(podAddrs(other)) {
					setAddrs(other, left)
				}
			}
		}
	}
	return waiters
}

func setAddrs(p *corev1.Pod, addrs []netip.Addr) {
	p.Status.PodIP, p.Status.PodIPs = "", nil
	for _, a := range addrs {
		p.Status.PodIPs = append(p.Status.PodIPs, corev1.PodIP{IP: a.String()})
	}
}
