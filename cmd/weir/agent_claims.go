// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"net/netip"
	"os"
	"path/filepath"
	"slices"

	"github.com/weirnet/weir/internal/cni"
	"github.com/weirnet/weir/k8s"
	"github.com/weirnet/weir/loader"
)

// claimStore remembers what the CNI plugin told about pods, beside the socket, for an agent that starts again before the
// API has caught up: without it, such a pod would be a stranger for that long. It is a file for each sandbox, in memory:
// what no interface bears out is not believed, and a reboot ends it as it ends the pods.
type claimStore struct{ dir string }

// storedClaim is a pod and the host side of its interface.
type storedClaim struct {
	Pod     cni.Pod `json:"pod"`
	Ifindex int     `json:"ifindex"`
	Host    string  `json:"host"`
}

// newClaimStore: without a socket nothing is told, and there is nothing to remember.
func newClaimStore(socket string) claimStore {
	if socket == "" {
		return claimStore{}
	}
	return claimStore{filepath.Join(filepath.Dir(socket), "pods")}
}

func (s claimStore) save(p cni.Pod, at loader.PodInterface) error {
	data, err := json.Marshal(storedClaim{p, at.Ifindex, at.Name})
	if err == nil {
		err = os.Mkdir(s.dir, 0o700)
	}
	if err == nil || errors.Is(err, fs.ErrExist) {
		path := s.path(p.ContainerID)
		if err = os.WriteFile(path+".new", data, 0o600); err == nil {
			err = os.Rename(path+".new", path)
		}
	}
	if err != nil {
		return fmt.Errorf("remember pod %s: %w", &p, err)
	}
	return nil
}

// path keeps a container's id from being a way to another directory.
func (s claimStore) path(containerID string) string {
	return filepath.Join(s.dir, filepath.Base(containerID)+".json")
}

func (s claimStore) load() (all []storedClaim) {
	if s.dir == "" {
		return nil
	}
	paths, _ := filepath.Glob(filepath.Join(s.dir, "*.json"))
	for _, path := range paths {
		var c storedClaim
		data, err := os.ReadFile(path)
		if err != nil || json.Unmarshal(data, &c) != nil || s.path(c.Pod.ContainerID) != path {
			os.Remove(path)
			continue
		}
		all = append(all, c)
	}
	return all
}

// remove removes all of it.
func (s claimStore) remove() error {
	if s.dir == "" {
		return nil
	}
	return os.RemoveAll(s.dir)
}

// forget removes the claims of containers that are gone.
func (s claimStore) forget(gone func(containerID string) bool) {
	for _, c := range s.load() {
		if gone(c.Pod.ContainerID) {
			os.Remove(s.path(c.Pod.ContainerID))
		}
	}
}

// recall claims again what an earlier agent was told and is still true, and what the container runtime has written down. It
// is to be called before the source runs.
func (g *podGuard) recall() {
	if g.records != nil {
		defer g.records.scan()
	}
	stored := g.store.load()
	if len(stored) == 0 {
		return
	}
	n, err := loader.Observe()
	if err != nil {
		g.log.Warn("pods that have just started may be strangers for a moment", "error", err)
		return
	}
	over, cancel := context.WithCancel(context.Background())
	cancel() // nobody waits
	var lapsed []string
	for _, c := range stored {
		at, err := n.Behind(c.Ifindex, c.Host, c.Pod.Addrs)
		if err != nil {
			g.log.Debug("a claim has lapsed", "pod", c.Pod.String(), "because", err)
			lapsed = append(lapsed, c.Pod.ContainerID)
			continue
		}
		g.leave(&c.Pod, at, n)
		if err := g.claim(over, &c.Pod, at); err != nil && !errors.Is(err, context.Canceled) {
			g.log.Debug("a claim has lapsed", "pod", c.Pod.String(), "because", err)
		}
	}
	g.store.forget(func(id string) bool { return slices.Contains(lapsed, id) })
}

func (g *podGuard) claim(ctx context.Context, p *cni.Pod, at loader.PodInterface) error {
	return g.claims.Claim(ctx, k8s.PodClaim{Namespace: p.Namespace, Name: p.Name, UID: p.UID, ContainerID: p.ContainerID,
		Addrs: p.Addrs, Interface: at.Name, NetNS: p.NetNS})
}

// leave leaves word to the loop of where a pod is.
func (g *podGuard) leave(p *cni.Pod, at loader.PodInterface, n *loader.Network) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.told = append(g.told, toldPod{p.String(), slices.Clone(p.Addrs), at, n})
}

// toldPod is a pod's interface as the plugin showed it.
type toldPod struct {
	pod     string
	addrs   []netip.Addr
	at      loader.PodInterface
	network *loader.Network // in which it was seen
}
