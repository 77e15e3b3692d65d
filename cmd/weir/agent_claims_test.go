// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"github.com/weirnet/weir/internal/cni"
	"github.com/weirnet/weir/loader"
)

func TestClaimsAreRememberedUntilTheirContainerIsGone(t *testing.T) {
	s := newClaimStore(filepath.Join(t.TempDir(), "agent.sock"))
	for _, id := range []string{"a", "b", "a"} {
		if err := s.save(cni.Pod{Namespace: "n", Name: "p" + id, ContainerID: id}, loader.PodInterface{Ifindex: 7, Name: "veth" + id}); err != nil {
			t.Fatal(err)
		}
	}
	if got := s.load(); len(got) != 2 || got[0].Pod.Name != "pa" || got[0].Ifindex != 7 || got[0].Host != "vetha" {
		t.Errorf("remembered %+v", got)
	}
	s.forget(func(id string) bool { return id == "a" })
	if got := s.load(); len(got) != 1 || got[0].Pod.ContainerID != "b" {
		t.Errorf("after a has gone: %+v", got)
	}
}

// What is half a file, or was written by somebody else, is no claim and stays no longer; no id leads out of the directory.
func TestClaimsThatCannotBeReadAreDropped(t *testing.T) {
	dir := t.TempDir()
	s := newClaimStore(filepath.Join(dir, "weir", "agent.sock"))
	if err := os.MkdirAll(s.dir, 0o700); err != nil {
		t.Fatal(err)
	}
	for name, content := range map[string]string{"x.json": `{"pod":{"name"`, "y.json": `{"pod":{"containerID":"z"}}`} {
		if err := os.WriteFile(filepath.Join(s.dir, name), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
	}
	if err := s.save(cni.Pod{ContainerID: "../../out"}, loader.PodInterface{}); err != nil {
		t.Fatal(err)
	}
	s.load()
	var names []string
	filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err == nil && !d.IsDir() {
			names = append(names, path)
		}
		return err
	})
	if want := []string{filepath.Join(s.dir, "out.json")}; !reflect.DeepEqual(names, want) {
		t.Errorf("left: %v, want %v", names, want)
	}
}
