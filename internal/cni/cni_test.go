// SPDX-License-Identifier: Apache-2.0

package cni

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/netip"
	"os"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// fakeGuard remembers what it was asked.
type fakeGuard struct {
	mu       sync.Mutex
	add      func(ctx context.Context, p Pod, netns *os.File) error
	released []string
}

func (g *fakeGuard) Add(ctx context.Context, p Pod, netns *os.File) error {
	return g.add(ctx, p, netns)
}
func (g *fakeGuard) Check(ctx context.Context, p Pod, netns *os.File) error {
	return g.add(ctx, p, netns)
}

func (g *fakeGuard) Release(gone func(string) bool) {
	g.mu.Lock()
	defer g.mu.Unlock()
	for _, id := range []string{"a", "b", "c"} {
		if gone(id) {
			g.released = append(g.released, id)
		}
	}
}

// serve runs a server until the returned function is called.
func serve(t *testing.T, path string, g Guard) (s *Server, stop func()) {
	t.Helper()
	s, err := Listen(path, g, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- s.Serve(ctx) }()
	stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(stop)
	return s, stop
}

func socket(t *testing.T) string { return filepath.Join(t.TempDir(), "weir", "agent.sock") }

func testPod() Pod {
	return Pod{Namespace: "shop", Name: "web", UID: "u1", ContainerID: "c1", NetNS: "/proc/self/ns/net", Interface: "eth0",
		Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}}
}

func inode(t *testing.T, f *os.File) uint64 {
	t.Helper()
	var st syscall.Stat_t
	if err := syscall.Fstat(int(f.Fd()), &st); err != nil {
		t.Fatal(err)
	}
	return st.Ino
}

func TestAddBringsThePodAndItsNamespace(t *testing.T) {
	path, got := socket(t), Pod{}
	var seen uint64
	var patience time.Duration
	serve(t, path, &fakeGuard{add: func(ctx context.Context, p Pod, netns *os.File) error {
		got, seen = p, inode(t, netns)
		deadline, _ := ctx.Deadline()
		patience = time.Until(deadline)
		return nil
	}})
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	if err := (Client{path}).Add(ctx, testPod()); err != nil {
		t.Fatal(err)
	}
	self, err := os.Open("/proc/self/ns/net")
	if err != nil {
		t.Fatal(err)
	}
	defer self.Close()
	if !reflect.DeepEqual(got, testPod()) || seen != inode(t, self) {
		t.Errorf("guard was asked about %+v in namespace %d, want %+v in %d", got, seen, testPod(), inode(t, self))
	}
	if patience <= 5*time.Second || patience > 10*time.Second-margin {
		t.Errorf("guard has %s, want less than the asker's ten seconds by %s", patience, margin)
	}
}

func TestRefusalCarriesItsReason(t *testing.T) {
	path := socket(t)
	serve(t, path, &fakeGuard{add: func(context.Context, Pod, *os.File) error { return errors.New("no such pod") }})
	err := Client{path}.Check(context.Background(), testPod())
	var refusal *Refusal
	if !errors.As(err, &refusal) || refusal.Reason != "no such pod" {
		t.Errorf("Check = %v, want the guard's reason", err)
	}
}

func TestGuardGivesUpWithItsAsker(t *testing.T) {
	path, ended := socket(t), make(chan struct{})
	serve(t, path, &fakeGuard{add: func(ctx context.Context, _ Pod, _ *os.File) error {
		<-ctx.Done()
		close(ended)
		return ctx.Err()
	}})
	ctx, cancel := context.WithTimeout(context.Background(), 50*time.Millisecond)
	defer cancel()
	if err := (Client{path}).Add(ctx, testPod()); err == nil {
		t.Error("Add succeeded without a guard's word")
	}
	select {
	case <-ended:
	case <-time.After(5 * time.Second):
		t.Error("the guard still works for an asker who has gone")
	}
}

func TestAskerMeetsTheNextAgent(t *testing.T) {
	path, asked := socket(t), make(chan struct{})
	_, stop := serve(t, path, &fakeGuard{add: func(ctx context.Context, _ Pod, _ *os.File) error {
		close(asked)
		<-ctx.Done()
		return ctx.Err()
	}})
	answer := make(chan error, 1)
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	go func() { answer <- Client{path}.Add(ctx, testPod()) }()
	<-asked
	stop()
	if _, err := os.Lstat(path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a stopped agent leaves its socket behind: %v", err)
	}
	time.Sleep(3 * dialAgain)
	serve(t, path, &fakeGuard{add: func(context.Context, Pod, *os.File) error { return nil }})
	if err := <-answer; err != nil {
		t.Errorf("Add over a restart = %v", err)
	}
}

func TestNobodyThereIsErrAway(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), 3*dialAgain)
	defer cancel()
	if err := (Client{socket(t)}).Status(ctx); !errors.Is(err, ErrAway) {
		t.Errorf("Status without an agent = %v, want ErrAway", err)
	}
	if err := (Client{socket(t)}).Release(context.Background(), "a"); !errors.Is(err, ErrAway) {
		t.Errorf("Release without an agent = %v, want ErrAway", err)
	}
}

func TestReleaseAndKeep(t *testing.T) {
	path, g := socket(t), &fakeGuard{}
	serve(t, path, g)
	c := Client{path}
	if err := errors.Join(c.Status(context.Background()), c.Release(context.Background(), "b"), c.Keep(context.Background(), []string{"c"})); err != nil {
		t.Fatal(err)
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if want := []string{"b", "a", "b"}; !reflect.DeepEqual(g.released, want) {
		t.Errorf("released %v, want %v", g.released, want)
	}
}

func TestSocketIsRootsAlone(t *testing.T) {
	path := socket(t)
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	s, _ := serve(t, path, &fakeGuard{})
	for name, want := range map[string]os.FileMode{path: 0o600, filepath.Dir(path): 0o700} {
		if info, err := os.Stat(name); err != nil || info.Mode().Perm() != want {
			t.Errorf("mode of %s: %v, %v; want %v", name, info.Mode(), err, want)
		}
	}
	s.allowed = 4711 // as if we were somebody else
	var refusal *Refusal
	if err := (Client{path}).Status(context.Background()); !errors.As(err, &refusal) || !strings.Contains(refusal.Reason, ErrForbidden.Error()) {
		t.Errorf("Status by another user = %v, want %v", err, ErrForbidden)
	}
}

func TestSocketOfTheNextAgentStays(t *testing.T) {
	path := socket(t)
	_, stopFirst := serve(t, path, &fakeGuard{})
	serve(t, path, &fakeGuard{})
	stopFirst()
	if err := (Client{path}).Status(context.Background()); err != nil {
		t.Errorf("the first agent took the second one's socket along: %v", err)
	}
}

func TestSocketInNobodysDirectoryIsRefused(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(t.TempDir(), filepath.Join(dir, "weir")); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(filepath.Join(dir, "weir", "agent.sock"), &fakeGuard{}, slog.New(slog.DiscardHandler)); err == nil {
		t.Error("a socket behind somebody's link was made")
	}
}

// TestMalformedQuestions: each gets an answer that refuses it, no guard is asked, and no descriptor stays open.
func TestMalformedQuestions(t *testing.T) {
	path := socket(t)
	serve(t, path, &fakeGuard{add: func(context.Context, Pod, *os.File) error {
		t.Error("the guard was asked")
		return nil
	}})
	pod := `{"namespace":"a","name":"b","containerID":"c","interface":"eth0"}`
	for name, q := range map[string]string{
		"not JSON":           "hello",
		"another protocol":   `{"protocol":2,"verb":"status"}`,
		"unknown verb":       `{"protocol":1,"verb":"reboot"}`,
		"add without pod":    `{"protocol":1,"verb":"add"}`,
		"release of two":     `{"protocol":1,"verb":"release","containers":["a","b"]}`,
		"pod without name":   `{"protocol":1,"verb":"add","pod":{"namespace":"a"}}`,
		"address that is no": `{"protocol":1,"verb":"add","pod":{"addresses":["x"]}}`,
		"far too long":       `{"protocol":1,"verb":"status","pod":{"name":"` + strings.Repeat("x", maxQuestion) + `"}}`,
	} {
		if back := exchange(t, path, q+"\n", nil); !strings.HasPrefix(back, `{"ok":false`) {
			t.Errorf("%s: answer %q, want a refusal", name, back)
		}
	}
	if back := exchange(t, path, `{"protocol":1,"verb":"add","pod":`+pod+"}\n", nil); !strings.Contains(back, "without its network namespace") {
		t.Errorf("add without namespace: answer %q", back)
	}
	before := descriptors(t)
	two := syscall.UnixRights(0, 1)
	for range 20 {
		exchange(t, path, "{}\n", two)
	}
	if after := descriptors(t); after > before+5 {
		t.Errorf("%d descriptors before, %d after: those that were sent stay open", before, after)
	}
}

func exchange(t *testing.T, path, q string, rights []byte) string {
	t.Helper()
	conn, err := net.DialUnix("unix", nil, &net.UnixAddr{Name: path, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	if _, _, err := conn.WriteMsgUnix([]byte(q), rights, nil); err != nil && !errors.Is(err, syscall.EPIPE) {
		t.Fatal(err)
	}
	back, _ := io.ReadAll(conn)
	return string(back)
}

func descriptors(t *testing.T) int {
	t.Helper()
	entries, err := os.ReadDir(fmt.Sprintf("/proc/%d/fd", os.Getpid()))
	if err != nil {
		t.Fatal(err)
	}
	return len(entries)
}
