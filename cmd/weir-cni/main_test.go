// SPDX-License-Identifier: Apache-2.0

package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net/netip"
	"os"
	"os/exec"
	"path/filepath"
	"reflect"
	"strings"
	"sync"
	"testing"
	"time"

	"github.com/weirnet/weir/internal/cni"
)

const runEnv = "WEIR_CNI_TEST_RUN" // the test binary is the plugin

func TestMain(m *testing.M) {
	if os.Getenv(runEnv) != "" {
		os.Exit(run())
	}
	os.Exit(m.Run())
}

// agent is a stateful fake of the agent's side.
type agent struct {
	mu    sync.Mutex
	err   error
	asked []cni.Pod
	gone  []string
}

func (a *agent) Add(_ context.Context, p cni.Pod, _ *os.File) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	a.asked = append(a.asked, p)
	return a.err
}

func (a *agent) Check(ctx context.Context, p cni.Pod, netns *os.File) error {
	return a.Add(ctx, p, netns)
}

func (a *agent) Release(gone func(string) bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, id := range []string{"c1", "c2", "c3"} {
		if gone(id) {
			a.gone = append(a.gone, id)
		}
	}
}

func start(t *testing.T, a *agent) (socket string) {
	t.Helper()
	socket = filepath.Join(t.TempDir(), "weir", "agent.sock")
	s, err := cni.Listen(socket, a, slog.New(slog.DiscardHandler))
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var served sync.WaitGroup
	served.Go(func() { s.Serve(ctx) })
	t.Cleanup(func() { cancel(); served.Wait() })
	return socket
}

// The way a result looks is the previous plugin's business, down to the blanks and to fields that nobody knows.
const previous = `{ "interfaces":[{"name":"cni0","mac":"00:00:5e:00:53:01"}, {"name":"veth7","mac":"00:00:5e:00:53:02"},
 {"name":"eth0","mac":"00:00:5e:00:53:03","sandbox":"/proc/self/ns/net"},{"name":"net1","sandbox":"/proc/self/ns/net"}],
 "ips":[{"address":"192.0.2.7/24","gateway":"192.0.2.1","interface":2},{"address":"2001:db8::7/64","interface":2},
 {"address":"198.51.100.7/24","interface":3}], "dns":{}, "of.the.future":[1,2.50] %s }`

func stdin(version, socket, more string) string {
	was := fmt.Sprintf(previous, `,"cniVersion":"`+version+`"`)
	return fmt.Sprintf(`{"cniVersion":%q,"name":"cbr0","type":"weir-cni","socket":%q,"timeout":"300ms"%s,"prevResult":%s}`, version, socket, more, was)
}

const podArgs = "IgnoreUnknown=1;K8S_POD_NAMESPACE=shop;K8S_POD_NAME=web-1;K8S_POD_INFRA_CONTAINER_ID=c1;K8S_POD_UID=5d6c"

// call runs the plugin as a runtime does.
func call(t *testing.T, command, args, stdin string) (stdout string, failed bool) {
	t.Helper()
	cmd := exec.Command(os.Args[0])
	cmd.Env = []string{runEnv + "=1", "CNI_COMMAND=" + command, "CNI_CONTAINERID=c1", "CNI_NETNS=/proc/self/ns/net", "CNI_IFNAME=eth0",
		"CNI_PATH=/nowhere", "CNI_ARGS=" + args, "CNI_NETNS_OVERRIDE=1"}
	cmd.Stdin = strings.NewReader(stdin)
	var out, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &stderr
	err := cmd.Run()
	var exit *exec.ExitError
	if err != nil && !errors.As(err, &exit) {
		t.Fatal(err)
	}
	return out.String(), err != nil
}

// code is the number of an error as CNI prints it.
func code(t *testing.T, stdout string) int {
	t.Helper()
	var e struct{ Code int }
	if err := json.Unmarshal([]byte(stdout), &e); err != nil {
		t.Fatalf("no CNI error: %q: %v", stdout, err)
	}
	return e.Code
}

func TestAddPassesThePreviousResultThrough(t *testing.T) {
	for _, version := range []string{"0.3.1", "0.4.0", "1.0.0", "1.1.0"} {
		a := &agent{}
		in := stdin(version, start(t, a), "")
		out, failed := call(t, "ADD", podArgs, in)
		_, want, _ := strings.Cut(in, `"prevResult":`)
		if failed || strings.TrimSpace(out) != strings.TrimSuffix(want, "}") {
			t.Errorf("%s: result %s, want it as it was: %s", version, out, want)
		}
		pod := cni.Pod{Namespace: "shop", Name: "web-1", UID: "5d6c", ContainerID: "c1", NetNS: "/proc/self/ns/net", Interface: "eth0",
			Addrs: []netip.Addr{netip.MustParseAddr("192.0.2.7"), netip.MustParseAddr("2001:db8::7")}}
		if !reflect.DeepEqual(a.asked, []cni.Pod{pod}) {
			t.Errorf("%s: the agent was asked about %+v, want %+v", version, a.asked, pod)
		}
	}
}

func TestAddFailsUntilPolicyIsEnforced(t *testing.T) {
	out, failed := call(t, "ADD", podArgs, stdin("1.0.0", start(t, &agent{err: errors.New("the planner is busy")}), ""))
	if !failed || code(t, out) != 11 || !strings.Contains(out, "the planner is busy") || !strings.Contains(out, "shop/web-1") {
		t.Errorf("ADD that the agent refuses: %s", out)
	}
}

func TestWithoutAgent(t *testing.T) {
	nobody := filepath.Join(t.TempDir(), "agent.sock")
	deny, allow := stdin("1.1.0", nobody, ""), stdin("1.1.0", nobody, `,"onAgentMissing":"allow"`)
	begun := time.Now()
	if out, failed := call(t, "ADD", podArgs, deny); !failed || code(t, out) != 11 || !strings.Contains(out, "agent") {
		t.Errorf("ADD with deny: %s", out)
	}
	if took := time.Since(begun); took < 300*time.Millisecond {
		t.Errorf("ADD waited %s for the agent, want its timeout", took)
	}
	if out, failed := call(t, "ADD", podArgs, allow); failed || !strings.Contains(out, "of.the.future") {
		t.Errorf("ADD with allow: %s", out)
	}
	for _, command := range []string{"DEL", "GC"} {
		if out, failed := call(t, command, podArgs, deny); failed {
			t.Errorf("%s: %s", command, out)
		}
	}
	if out, failed := call(t, "CHECK", podArgs, deny); !failed {
		t.Errorf("CHECK: %s", out)
	}
	if out, failed := call(t, "STATUS", podArgs, allow); failed {
		t.Errorf("STATUS with allow: %s", out)
	}
	if out, failed := call(t, "STATUS", podArgs, deny); !failed || code(t, out) != 50 {
		t.Errorf("STATUS with deny: %s", out)
	}
}

func TestTheOtherCommands(t *testing.T) {
	a := &agent{}
	socket := start(t, a)
	more := `,"cni.dev/valid-attachments":[{"containerID":"c2","ifname":"eth0"}]`
	for _, command := range []string{"CHECK", "STATUS", "DEL", "GC"} {
		if out, failed := call(t, command, podArgs, stdin("1.1.0", socket, more)); failed || out != "" {
			t.Errorf("%s: %q", command, out)
		}
	}
	if want := []string{"c1", "c1", "c3"}; !reflect.DeepEqual(a.gone, want) || len(a.asked) != 1 {
		t.Errorf("gone %v, want %v; asked about %v", a.gone, want, a.asked)
	}
	out, failed := call(t, "VERSION", "", "")
	if failed || !strings.Contains(out, `"supportedVersions":["0.3.1","0.4.0","1.0.0","1.1.0"]`) {
		t.Errorf("VERSION: %s", out)
	}
}

func TestWhatIsNoPodPasses(t *testing.T) {
	a := &agent{err: errors.New("asked")}
	if out, failed := call(t, "ADD", "IgnoreUnknown=1", stdin("1.0.0", start(t, a), "")); failed || !strings.Contains(out, "of.the.future") {
		t.Errorf("ADD of a container that is no pod: %s", out)
	}
}

func TestConfigurationIsChecked(t *testing.T) {
	for name, c := range map[string]struct {
		in   string
		code int
	}{
		"no previous result": {`{"cniVersion":"1.0.0","name":"n","type":"weir-cni"}`, 7},
		"mode":               {stdin("1.0.0", "/nowhere", `,"onAgentMissing":"maybe"`), 7},
		"timeout":            {stdin("1.0.0", "/nowhere", `,"timeout":"soon"`), 7},
		"socket":             {stdin("1.0.0", "nowhere", ""), 7},
		"old version":        {stdin("0.2.0", "/nowhere", ""), 1},
		"address":            {strings.Replace(stdin("1.0.0", "/nowhere", ""), "192.0.2.7/24", "here", 1), 6},
	} {
		if out, failed := call(t, "ADD", podArgs, c.in); !failed || code(t, out) != c.code {
			t.Errorf("%s: %s, want code %d", name, out, c.code)
		}
	}
}
