// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"errors"
	"fmt"
	"net/netip"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"testing"
	"time"
)

// addressed remembers the addresses of each set's pods.
type addressed struct {
	mu   sync.Mutex
	pods map[string]string
}

func (a *addressed) note(o *Objects) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.pods = map[string]string{}
	for _, p := range o.Pods {
		a.pods[p.Name] = fmt.Sprint(podAddrs(p))
	}
	return nil
}

func (a *addressed) is(name, want string) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.pods[name] == want
}

func TestDirectoryClaims(t *testing.T) {
	dir, seen := t.TempDir(), &addressed{}
	write := func(name, ip string) {
		t.Helper()
		status := "phase: Pending"
		if ip != "" {
			status = "phase: Running, podIPs: [{ip: " + ip + "}]"
		}
		text := fmt.Sprintf("apiVersion: v1\nkind: Pod\nmetadata: {name: %s, namespace: default, uid: u-%[1]s}\nspec: {nodeName: n0, containers: [{name: c, image: i}]}\nstatus: {%s}\n", name, status)
		if err := os.WriteFile(filepath.Join(dir, name+".yaml"), []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	write("old", "10.1.0.1")
	w := watch(t, dir, seen.note)
	w.next("old")
	claim := func(name, container, ip string) error {
		ctx, cancel := context.WithTimeout(context.Background(), 5*time.Second)
		defer cancel()
		return w.Claim(ctx, PodClaim{Namespace: "default", Name: name, UID: "u-" + name, ContainerID: container, Addrs: []netip.Addr{netip.MustParseAddr(ip)}})
	}
	has := func(what, name, want string) {
		t.Helper()
		w.until(what, func(State) bool { return seen.is(name, want) })
	}
	// The pod has no manifest yet, and its address is another's as far as anybody has heard.
	answer := make(chan error, 1)
	go func() { answer <- claim("new", "c1", "10.1.0.1") }()
	time.Sleep(50 * time.Millisecond)
	write("new", "")
	if err := <-answer; err != nil {
		t.Fatal(err)
	}
	if !seen.is("new", "[10.1.0.1]") || !seen.is("old", "[]") {
		t.Errorf("the claim is answered, and the pods have %v", seen.pods)
	}
	if err := claim("new", "c1", "10.1.0.1"); err != nil {
		t.Errorf("asked again: %v", err)
	}
	write("new", "10.1.0.9")
	has("overtaken by the manifest", "new", "[10.1.0.9]")
	has("given back", "old", "[10.1.0.1]")
	if err := claim("new", "c2", "10.1.0.5"); err != nil || !seen.is("new", "[10.1.0.5]") {
		t.Errorf("a new sandbox: %v, pods have %v", err, seen.pods)
	}
	w.Release(func(id string) bool { return slices.Contains([]string{"c1", "c2"}, id) })
	has("released", "new", "[10.1.0.9]")

	go func() { answer <- claim("never", "c3", "10.1.0.7") }()
	time.Sleep(50 * time.Millisecond)
	w.Release(func(id string) bool { return id == "c3" })
	if err := <-answer; !errors.Is(err, ErrPodGone) {
		t.Errorf("a claim that is released: %v, want %v", err, ErrPodGone)
	}
}
