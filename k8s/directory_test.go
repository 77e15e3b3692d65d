// SPDX-License-Identifier: Apache-2.0

package k8s

import (
	"context"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// watched is a Directory under test and what it has applied.
type watched struct {
	*Directory
	t       *testing.T
	path    string
	applies chan string // names of the pods of each set, or "refused" if apply said no
	log     *strings.Builder
}

func watch(t *testing.T, path string, refuse func(*Objects) error) *watched {
	t.Helper()
	w := &watched{t: t, path: path, applies: make(chan string, 100), log: &strings.Builder{}}
	timing := Timing{Quiet: 20 * time.Millisecond, Patience: 200 * time.Millisecond, Poll: 150 * time.Millisecond, Retry: 20 * time.Millisecond, Backoff: 100 * time.Millisecond}
	w.Directory = NewDirectory(path, slog.New(slog.NewTextHandler(w.log, nil)), timing)
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error)
	go func() {
		done <- w.Run(ctx, func(o *Objects) error {
			if refuse != nil {
				if err := refuse(o); err != nil {
					return err
				}
			}
			var names []string
			for _, p := range o.Pods {
				names = append(names, p.Name)
			}
			w.applies <- strings.Join(names, " ")
			return nil
		})
	}()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
	return w
}

// next waits for the next apply and for the state to say so.
func (w *watched) next(want string) {
	w.t.Helper()
	select {
	case got := <-w.applies:
		if got != want {
			w.t.Fatalf("applied %q, want %q", got, want)
		}
	case <-time.After(10 * time.Second):
		w.t.Fatalf("nothing applied, want %q; state %+v", want, w.State())
	}
	w.until("applied", func(s State) bool { return s.Applied && s.Err == nil })
}

func (w *watched) until(what string, is func(State) bool) {
	w.t.Helper()
	for deadline := time.Now().Add(10 * time.Second); !is(w.State()); time.Sleep(5 * time.Millisecond) {
		if time.Now().After(deadline) {
			w.t.Fatalf("never %s; state %+v", what, w.State())
		}
	}
}

// refused waits until the directory is refused for a reason that contains want, and makes sure that nothing was applied.
func (w *watched) refused(want string) {
	w.t.Helper()
	w.until("refused for "+want, func(s State) bool { return !s.Applied && s.Err != nil && strings.Contains(s.Err.Error(), want) })
	select {
	case got := <-w.applies:
		w.t.Fatalf("applied %q", got)
	default:
	}
}

func put(t *testing.T, path, text string) {
	t.Helper()
	if err := os.WriteFile(path, []byte(text), 0o644); err != nil {
		t.Fatal(err)
	}
}

func TestDirectoryFollowsChanges(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/a.yaml", podDoc("a", ""))
	w := watch(t, dir, nil)
	w.next("a")

	put(t, dir+"/b.yaml", podDoc("b", ""))
	if w.State().Applied {
		t.Error("a change counts as applied before it is")
	}
	w.next("a b")
	if err := os.Rename(dir+"/a.yaml", dir+"/c.yaml"); err != nil {
		t.Fatal(err)
	}
	w.next("b a")
	if err := os.Remove(dir + "/c.yaml"); err != nil {
		t.Fatal(err)
	}
	w.next("b")
	if got := w.Current().Pods; len(got) != 1 || got[0].Name != "b" {
		t.Errorf("current %v", got)
	}
}

func TestDirectoryKeepsTheLastGoodSet(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "manifests")
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, dir+"/a.yaml", podDoc("a", ""))
	w := watch(t, dir, nil)
	w.next("a")

	put(t, dir+"/a.yaml", podDoc("a", "spec: {hostNetwrk: true}"))
	w.refused("spec.hostNetwrk: unknown field, did you mean hostNetwork?")
	put(t, dir+"/a.yaml", podDoc("a2", ""))
	w.next("a2")

	if err := os.Chmod(dir, 0o777); err != nil {
		t.Fatal(err)
	}
	w.refused("others may write to it")
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	w.next("a2")

	if err := os.Rename(dir, dir+".away"); err != nil {
		t.Fatal(err)
	}
	w.refused("no such file or directory")
	if got := w.Current().Pods[0].Name; got != "a2" {
		t.Errorf("current %s", got)
	}
	if err := os.Mkdir(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, dir+"/a.yaml", podDoc("a3", ""))
	// An empty directory is a valid set, so the new one may be seen before its file is.
	w.until("applied again", func(s State) bool { return s.Applied })
	for w.Current() == nil || len(w.Current().Pods) == 0 {
		time.Sleep(5 * time.Millisecond)
	}
	if got := w.Current().Pods[0].Name; got != "a3" {
		t.Errorf("current %s", got)
	}
}

func TestDirectoryWaitsForHalfAFile(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/a.yaml", podDoc("a", ""))
	w := watch(t, dir, nil)
	w.next("a")

	// Open for writing, and every byte of it valid YAML so far.
	f, err := os.Create(dir + "/b.yaml")
	if err != nil {
		t.Fatal(err)
	}
	if _, err := f.WriteString(podDoc("b", "")); err != nil {
		t.Fatal(err)
	}
	w.refused("some process has it open for writing")
	if _, err := f.WriteString("---\n" + podDoc("c", "")); err != nil {
		t.Fatal(err)
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	w.next("a b c")

	// Nobody has it open. Cut between lines it does not parse, cut in the middle of a word it would.
	put(t, dir+"/b.yaml", podDoc("b", "spec: {hostNetwork:"))
	w.refused("b.yaml document 1: not valid YAML")
	put(t, dir+"/b.yaml", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: ba")
	w.refused("ends in the middle of a line")
	put(t, dir+"/b.yaml", "apiVersion: v1\nkind: Pod\nmetadata:\n  name: bar\n")
	w.next("a bar")
}

func TestDirectoryWithoutFinalNewlineIsReadWhenItHasSettled(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/a.yaml", strings.TrimSpace(podDoc("a", "")))
	w := watch(t, dir, nil)
	w.refused("ends in the middle of a line")
	w.next("a")
}

func TestDirectoryOfAConfigMap(t *testing.T) {
	dir := t.TempDir()
	for _, version := range []string{"1", "2"} {
		if err := os.Mkdir(dir+"/..v"+version, 0o755); err != nil {
			t.Fatal(err)
		}
		put(t, dir+"/..v"+version+"/a.yaml", podDoc("a"+version, ""))
	}
	swap := func(version string) {
		t.Helper()
		if err := os.Symlink("..v"+version, dir+"/..data_tmp"); err != nil {
			t.Fatal(err)
		}
		if err := os.Rename(dir+"/..data_tmp", dir+"/..data"); err != nil {
			t.Fatal(err)
		}
	}
	swap("1")
	if err := os.Symlink("..data/a.yaml", dir+"/a.yaml"); err != nil {
		t.Fatal(err)
	}
	w := watch(t, dir, nil)
	w.next("a1")
	swap("2")
	w.next("a2")
}

func TestDirectoryBehindASwappedLink(t *testing.T) {
	base := t.TempDir()
	for _, version := range []string{"1", "2"} {
		if err := os.Mkdir(base+"/v"+version, 0o755); err != nil {
			t.Fatal(err)
		}
		put(t, base+"/v"+version+"/a.yaml", podDoc("a"+version, ""))
	}
	if err := os.Symlink("v1", base+"/current"); err != nil {
		t.Fatal(err)
	}
	w := watch(t, base+"/current", nil)
	w.next("a1")
	if err := os.Symlink("v2", base+"/tmp"); err != nil {
		t.Fatal(err)
	}
	if err := os.Rename(base+"/tmp", base+"/current"); err != nil {
		t.Fatal(err)
	}
	w.next("a2")
	put(t, base+"/v2/a.yaml", podDoc("a3", ""))
	w.next("a3")
}

func TestDirectoryTriesAgainWhenApplyFails(t *testing.T) {
	dir := t.TempDir()
	put(t, dir+"/a.yaml", podDoc("a", ""))
	failures := 3
	w := watch(t, dir, func(*Objects) error {
		if failures--; failures >= 0 {
			return errors.New("no room")
		}
		return nil
	})
	w.next("a")
	if n := strings.Count(w.log.String(), "no room"); n != 1 {
		t.Errorf("the same failure was logged %d times", n)
	}
}

func TestDirectoryThatDoesNotExistYet(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "late")
	w := watch(t, dir, nil)
	w.refused("no such file or directory")
	if w.Current() != nil {
		t.Error("there is a current set")
	}
	tmp := dir + ".tmp"
	if err := os.Mkdir(tmp, 0o755); err != nil {
		t.Fatal(err)
	}
	put(t, tmp+"/a.yaml", podDoc("a", ""))
	if err := os.Rename(tmp, dir); err != nil {
		t.Fatal(err)
	}
	w.next("a")
}

func TestDirectoryReadsABurstAsOne(t *testing.T) {
	dir := t.TempDir()
	w := watch(t, dir, nil)
	w.next("")
	for i := range 10 {
		put(t, filepath.Join(dir, string(rune('a'+i))+".yaml"), podDoc("p"+string(rune('a'+i)), ""))
	}
	for applies := 1; ; applies++ {
		got := <-w.applies
		if got == "pa pb pc pd pe pf pg ph pi pj" {
			return
		}
		if applies > 3 {
			t.Fatalf("ten files at once took more than %d sets, at last %s", applies, got)
		}
	}
}
