// SPDX-License-Identifier: Apache-2.0

package status

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strconv"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/weirnet/weir/k8s"
)

// cluster is a stateful fake of what WeirNodes are written to.
type cluster struct {
	mu      sync.Mutex
	nodes   map[string]NodeStatus
	writes  []time.Time
	failing error
}

func newCluster() *cluster { return &cluster{nodes: map[string]NodeStatus{}} }

func (c *cluster) WriteNode(_ context.Context, name string, s NodeStatus) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.writes = append(c.writes, time.Now())
	if c.failing != nil {
		return c.failing
	}
	c.nodes[name] = s
	return nil
}

func (c *cluster) node(name string) NodeStatus {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.nodes[name]
}

func (c *cluster) count() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.writes)
}

func (c *cluster) fail(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.failing = err
}

// busiest is the most writes of any time as long as d.
func (c *cluster) busiest(d time.Duration) int {
	c.mu.Lock()
	defer c.mu.Unlock()
	most, first := 0, 0
	for i := range c.writes {
		for c.writes[i].Sub(c.writes[first]) >= d {
			first++
		}
		most = max(most, i-first+1)
	}
	return most
}

func quiet() *slog.Logger { return slog.New(slog.DiscardHandler) }

// fleet starts reporters; they end with the test.
func fleet(t *testing.T, ctx context.Context, c *cluster, size int) []*Reporter {
	t.Helper()
	reporters := make([]*Reporter, size)
	for i := range reporters {
		reporters[i] = NewReporter(ReporterConfig{Node: fmt.Sprintf("n%d", i), Version: "v1", BootID: "boot", Writer: c,
			Fleet: func() (int, int) { return i, size }, Log: quiet()})
		go reporters[i].Run(ctx)
	}
	return reporters
}

func refs(kind string, versions ...int) []k8s.PolicyRef {
	out := make([]k8s.PolicyRef, len(versions))
	for i, v := range versions {
		out[i] = k8s.PolicyRef{Kind: kind, Namespace: "shop", Name: fmt.Sprintf("p%d", i), UID: fmt.Sprintf("u%d", i), Generation: int64(v), ResourceVersion: strconv.Itoa(v)}
	}
	return out
}

// versions are refs of one generation.
func versions(kind string, versions ...int) []k8s.PolicyRef {
	out := refs(kind, versions...)
	for i := range out {
		out[i].Generation = 1
	}
	return out
}

func mark(s NodeStatus, kind string) string {
	for _, k := range s.Kinds {
		if k.Kind == kind {
			return k.ResourceVersion
		}
	}
	return ""
}

// bubble runs a test on a clock that moves only when everybody waits.
func bubble(t *testing.T, test func(t *testing.T, ctx context.Context)) {
	synctest.Test(t, func(t *testing.T) {
		ctx, cancel := context.WithCancel(context.Background())
		test(t, ctx)
		cancel()
		synctest.Wait()
	})
}

func TestSmallClusterIsToldWithinASecond(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		c := newCluster()
		for _, r := range fleet(t, ctx, c, 3) {
			r.Applied(refs("NetworkPolicy", 7, 12, 9), nil, time.Now())
		}
		time.Sleep(time.Second)
		for _, name := range []string{"n0", "n1", "n2"} {
			s := c.node(name)
			if mark(s, "NetworkPolicy") != "12" || s.Policies != 3 || s.Phase != PhaseEnforcing || s.AgentVersion != "v1" || s.BootID != "boot" {
				t.Errorf("%s: %+v", name, s)
			}
		}
		if n := c.count(); n != 3 {
			t.Errorf("%d writes, want 3", n)
		}
	})
}

func TestVersionsAreComparedAsNumbers(t *testing.T) {
	got := marks(append(refs("NetworkPolicy", 99, 100), refs("CiliumNetworkPolicy", 1000, 9)...))
	want := []KindMark{{"CiliumNetworkPolicy", "1000", 2}, {"NetworkPolicy", "100", 2}}
	if !slices.Equal(got, want) {
		t.Errorf("marks are %v, want %v", got, want)
	}
}

// A mark is never higher than what is enforced, also when the policy that made it so high has gone, or the cluster was
// restored from a backup with lower versions.
func TestMarkIsThatOfThePoliciesThatThereAre(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		c := newCluster()
		r := fleet(t, ctx, c, 1)[0]
		for _, versions := range [][]int{{5, 90}, {5}, {3}, {3, 4}} {
			r.Applied(refs("NetworkPolicy", versions...), nil, time.Now())
			time.Sleep(3 * time.Second)
			if got, want := mark(c.node("n0"), "NetworkPolicy"), strconv.Itoa(slices.Max(versions)); got != want {
				t.Errorf("with %v the mark is %s, want %s", versions, got, want)
			}
		}
	})
}

func TestWhatHasNotChangedIsNotWritten(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		c := newCluster()
		r := fleet(t, ctx, c, 1)[0]
		for range 1000 { // pods come and go
			r.Applied(refs("NetworkPolicy", 5), nil, time.Now())
			time.Sleep(20 * time.Millisecond)
		}
		if n := c.count(); n != 1 {
			t.Errorf("%d writes, want 1", n)
		}
		time.Sleep(2 * time.Hour)
		if n := c.count(); n < 8 || n > 130 {
			t.Errorf("%d writes in two hours of nothing", n)
		}
	})
}

func TestWhatSomebodyDeletedComesBack(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		c := newCluster()
		r := fleet(t, ctx, c, 1)[0]
		r.Applied(refs("NetworkPolicy", 5), nil, time.Now())
		time.Sleep(time.Second)
		c.mu.Lock()
		delete(c.nodes, "n0")
		c.mu.Unlock()
		time.Sleep(2 * maxRefresh)
		if mark(c.node("n0"), "NetworkPolicy") != "5" {
			t.Error("it did not")
		}
	})
}

// The operator writes a condition into a policy's status, and every node sees another version of it: that is told, but not at
// once, or each condition would be answered by the whole fleet.
func TestVersionsThatMoveAloneAreToldLater(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		c := newCluster()
		r := fleet(t, ctx, c, 1)[0]
		r.Applied(versions("CiliumNetworkPolicy", 5, 6), nil, time.Now())
		time.Sleep(2 * time.Second)
		for v := range 20 {
			r.Applied(versions("CiliumNetworkPolicy", 5, 10+v), nil, time.Now())
			time.Sleep(time.Second)
		}
		if n := c.count(); n != 1 {
			t.Errorf("%d writes, want 1", n)
		}
		audited := []k8s.Status{{Object: "CiliumNetworkPolicy shop/p0", Reason: k8s.ReasonAudited}}
		r.Applied(versions("CiliumNetworkPolicy", 40, 29), audited, time.Now()) // nothing but an annotation has changed
		time.Sleep(time.Second)
		if got := mark(c.node("n0"), "CiliumNetworkPolicy"); got != "40" {
			t.Errorf("when an audit begins the mark is %s", got)
		}
		r.Applied(versions("CiliumNetworkPolicy", 40, 50), audited, time.Now())
		time.Sleep(lazyTime + time.Second)
		if got := mark(c.node("n0"), "CiliumNetworkPolicy"); got != "50" {
			t.Errorf("in the end it is %s", got)
		}
		if n := c.count(); n != 3 {
			t.Errorf("%d writes in all, want 3", n)
		}
	})
}

func TestFailureKeepsTheMark(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		c := newCluster()
		r := fleet(t, ctx, c, 1)[0]
		r.Applied(refs("NetworkPolicy", 5), nil, time.Now())
		time.Sleep(time.Second)
		r.Failed(errors.New("no room"), time.Now())
		time.Sleep(2 * time.Second)
		if s := c.node("n0"); s.Phase != PhaseFailing || s.Failure != "no room" || mark(s, "NetworkPolicy") != "5" || s.Policies != 1 {
			t.Errorf("after a failure: %+v", s)
		}
		r.Applied(refs("NetworkPolicy", 5), nil, time.Now()) // the same as before
		time.Sleep(2 * time.Second)
		if s := c.node("n0"); s.Phase != PhaseEnforcing || s.Failure != "" {
			t.Errorf("after it is mended: %+v", s)
		}
	})
}

func TestOutageIsBackedOffAndOvercome(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		c := newCluster()
		r := fleet(t, ctx, c, 1)[0]
		c.fail(errors.New("no server"))
		r.Applied(refs("NetworkPolicy", 5), nil, time.Now())
		time.Sleep(10 * time.Minute)
		if n := c.count(); n < 7 || n > 25 {
			t.Errorf("%d attempts in 10 minutes", n)
		}
		r.Applied(refs("NetworkPolicy", 5, 6), nil, time.Now())
		c.fail(nil)
		time.Sleep(2 * time.Minute)
		if mark(c.node("n0"), "NetworkPolicy") != "6" {
			t.Error("it is not published afterwards")
		}
	})
}

func TestCleanedIsTheLastWord(t *testing.T) {
	bubble(t, func(t *testing.T, ctx context.Context) {
		c := newCluster()
		r := fleet(t, ctx, c, 1)[0]
		r.Applied(refs("NetworkPolicy", 5), nil, time.Now())
		time.Sleep(time.Second)
		c.fail(errors.New("no server"))
		time.AfterFunc(5*time.Second, func() { c.fail(nil) })
		if err := r.Cleaned(ctx); err != nil {
			t.Fatal(err)
		}
		if s := c.node("n0"); s.Phase != PhaseCleaned || len(s.Kinds) != 0 {
			t.Errorf("%+v", s)
		}
		r.Applied(refs("NetworkPolicy", 6), nil, time.Now())
		time.Sleep(time.Minute)
		if s := c.node("n0"); s.Phase != PhaseCleaned {
			t.Errorf("then %+v", s)
		}
		short, cancel := context.WithTimeout(ctx, time.Second)
		defer cancel()
		c.fail(errors.New("no server"))
		other := fleet(t, ctx, c, 1)[0]
		if err := other.Cleaned(short); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("without a server: %v", err)
		}
	})
}

func TestExceptionsAreBounded(t *testing.T) {
	var statuses []k8s.Status
	for i := range 3000 {
		statuses = append(statuses,
			k8s.Status{Object: fmt.Sprintf("CiliumNetworkPolicy shop/p%04d", i), Path: "spec.egress[0].toFQDNs", Reason: k8s.ReasonUnsupported, Message: strings.Repeat("é", 1000)},
			k8s.Status{Object: fmt.Sprintf("CiliumNetworkPolicy shop/p%04d", i), Path: "spec.egress[1].toFQDNs", Reason: k8s.ReasonUnsupported, Message: "why"})
	}
	list, omitted := exceptions(statuses, 77)
	size, detailed, named := 0, 0, map[string]bool{}
	for _, e := range list {
		size += len(e.Kind) + len(e.Name) + len(e.Field) + len(e.Message) + 80
		named[e.Name] = true
		if e.Message != "" {
			detailed++
		}
	}
	if len(list) > maxExceptions || detailed > maxDetails || size > 150_000 || len(named)+omitted != 3000 || omitted == 0 {
		t.Errorf("%d exceptions, %d with details, about %d bytes, of %d policies; %d omitted", len(list), detailed, size, len(named), omitted)
	}
	other, _ := exceptions(statuses, 500)
	detailedOf := func(list []Exception) (names []string) {
		for _, e := range list {
			if e.Message != "" {
				names = append(names, e.Name)
			}
		}
		return names
	}
	if slices.Equal(detailedOf(list), detailedOf(other)) {
		t.Error("two nodes tell the details of the same policies")
	}
}

func TestExceptionsAreOfPoliciesOnly(t *testing.T) {
	list, omitted := exceptions([]k8s.Status{
		{Object: "Node n1", Reason: k8s.ReasonDiffers, Message: "backend"},
		{Object: "CiliumNetworkPolicy shop/a", Reason: k8s.ReasonAudited, Message: "under audit"},
		{Object: "CiliumNetworkPolicy shop/b", Path: "spec.egress[0]", Reason: k8s.ReasonDiffers, Message: "is read so"},
		{Object: "ClusterNetworkPolicy all", Path: "spec.ingress[0]", Reason: k8s.ReasonUnsupported, Message: "cannot"},
	}, 0)
	want := []Exception{
		{"ClusterNetworkPolicy", "", "all", k8s.ReasonUnsupported, "spec.ingress[0]", "cannot"},
		{"CiliumNetworkPolicy", "shop", "b", k8s.ReasonDiffers, "spec.egress[0]", "is read so"},
	}
	if !slices.Equal(list, want) || omitted != 0 {
		t.Errorf("got %+v, %d omitted", list, omitted)
	}
}
