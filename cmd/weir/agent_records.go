// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"path/filepath"
	"time"

	"github.com/fsnotify/fsnotify"

	"github.com/weirnet/weir/internal/cni"
	"github.com/weirnet/weir/loader"
)

const (
	recordPoll  = 5 * time.Second       // what nobody announced
	recordAgain = 10 * time.Millisecond // until what was half there is looked at again
	recordTries = 100
	podIfName   = "eth0" // what runtimes call a pod's own interface; further ones are others' business
)

// records follows what the container runtime writes down about each pod it has connected (libcni's cache): who it is, its
// addresses and its interface, some time before the pod's first instruction, and long before the API knows. Where the plugin
// is not installed, or no agent answered it, this is how a pod that starts is met.
type records struct {
	dir   string // of the results
	guard *podGuard
	log   *slog.Logger
	read  map[string]record // by path
}

type record struct {
	at        time.Time // of its last change
	container string    // empty: it is of no pod
	tries     int       // in vain
	met       bool
}

// runtimeRecord is the part of a record that names the pod.
type runtimeRecord struct {
	ContainerID string      `json:"containerId"`
	IfName      string      `json:"ifName"`
	Args        [][2]string `json:"cniArgs"`
	Result      struct {
		Interfaces []struct {
			Name    string `json:"name"`
			Sandbox string `json:"sandbox"`
		} `json:"interfaces"`
		IPs []struct {
			Address   string `json:"address"`
			Interface *int   `json:"interface"`
		} `json:"ips"`
	} `json:"result"`
}

func newRecords(cacheDir string, g *podGuard, log *slog.Logger) *records {
	return &records{dir: filepath.Join(cacheDir, "results"), guard: g, log: log, read: map[string]record{}}
}

// follow works until ctx ends. A directory that is not there yet is waited for.
func (r *records) follow(ctx context.Context) {
	watcher, err := fsnotify.NewWatcher()
	if err != nil {
		r.log.Warn("records of the container runtime are polled only", "path", r.dir, "error", err)
		watcher = &fsnotify.Watcher{}
	} else {
		defer watcher.Close()
		watcher.Add(r.dir)
	}
	poll, again := time.NewTicker(recordPoll), time.NewTimer(time.Hour)
	defer poll.Stop()
	defer again.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-watcher.Events:
		case <-watcher.Errors: // events may be lost
		case <-again.C:
		case <-poll.C:
			if err == nil {
				watcher.Add(r.dir)
			}
		}
		if r.scan() {
			again.Reset(recordAgain)
		}
	}
}

// scan reads the records that have changed, and claims for the pods that they name; it lets go of those whose record is gone.
// again says that something is half written, or could not be looked at while interfaces come and go.
func (r *records) scan() (again bool) {
	entries, err := os.ReadDir(r.dir)
	if err != nil && !errors.Is(err, os.ErrNotExist) {
		return false // nothing is concluded from what cannot be read
	}
	there := map[string]bool{}
	var network *loader.Network
	for _, e := range entries {
		path := filepath.Join(r.dir, e.Name())
		there[path] = true
		info, err := e.Info()
		if err != nil {
			continue
		}
		old := r.read[path]
		if !old.at.Equal(info.ModTime()) {
			old = record{at: info.ModTime()}
		}
		if old.met || old.tries >= recordTries {
			continue
		}
		p, hosts, err := readRecord(path)
		if err == nil && p != nil && network == nil {
			network, err = loader.Observe()
		}
		switch {
		case err != nil:
		case p == nil:
			old.met = true
		default:
			old.container = p.ContainerID
			err = r.guard.heard(network, p, hosts)
			old.met = err == nil
		}
		if !old.met {
			old.tries++
			again = true
			r.log.Debug("a record of the container runtime is of no use yet", "record", path, "because", err)
		}
		r.read[path] = old
	}
	for path, old := range r.read {
		if !there[path] {
			delete(r.read, path)
			if old.container != "" {
				r.guard.Release(func(id string) bool { return id == old.container })
			}
		}
	}
	return again
}

// readRecord is the pod that a record is of, and the interfaces of the host that it names; no pod if it is of none.
func readRecord(path string) (p *cni.Pod, hosts []string, err error) {
	data, err := os.ReadFile(path)
	if err != nil {
		return nil, nil, err
	}
	var r runtimeRecord
	if err := json.Unmarshal(data, &r); err != nil {
		return nil, nil, fmt.Errorf("read record %s: %w", path, err)
	}
	p = &cni.Pod{ContainerID: r.ContainerID, Interface: r.IfName}
	for _, pair := range r.Args {
		switch pair[0] {
		case "K8S_POD_NAMESPACE":
			p.Namespace = pair[1]
		case "K8S_POD_NAME":
			p.Name = pair[1]
		case "K8S_POD_UID":
			p.UID = pair[1]
		}
	}
	for _, i := range r.Result.Interfaces {
		if i.Sandbox == "" {
			hosts = append(hosts, i.Name)
		} else if i.Name == r.IfName {
			p.NetNS = i.Sandbox
		}
	}
	for _, ip := range r.Result.IPs {
		prefix, err := netip.ParsePrefix(ip.Address)
		if i := ip.Interface; err != nil || i != nil && (*i < 0 || *i >= len(r.Result.Interfaces) || r.Result.Interfaces[*i].Name != r.IfName) {
			continue
		}
		p.Addrs = append(p.Addrs, prefix.Addr().Unmap())
	}
	if r.IfName != podIfName || p.Namespace == "" || p.Name == "" || p.ContainerID == "" || len(p.Addrs) == 0 {
		return nil, nil, nil
	}
	return p, hosts, nil
}

// heard claims for a pod what somebody else than the plugin says of it, if its interface bears it out.
func (g *podGuard) heard(n *loader.Network, p *cni.Pod, hosts []string) (err error) {
	var at loader.PodInterface
	err = loader.ErrNoInterface
	for _, host := range hosts {
		if at, err = n.BehindName(host, p.Addrs); err == nil {
			break
		}
	}
	if err != nil {
		return err
	}
	if g.isGuarded(p, at.Ifindex) {
		return nil
	}
	g.log.Info("pod starts, by the container runtime's record", "pod", p.String(), "addresses", p.Addrs, "interface", at.Name)
	g.leave(p, at, n)
	over, cancel := context.WithCancel(context.Background())
	cancel() // nobody waits
	if err := g.claim(over, p, at); err != nil && !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}
