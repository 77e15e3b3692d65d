// SPDX-License-Identifier: Apache-2.0

package loadertest_test

import (
	"fmt"
	"log/slog"
	"os"
	"strings"
	"testing"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/loader"
	"github.com/weirnet/weir/tc"
	"github.com/weirnet/weir/xdp"
)

// Below the licence and the kernel's version, one line a program: its name and how many instructions the verifier walked.
const budgetFile = "../../bpf/verified_insns.txt"

const licence = "# SPDX-License-Identifier: Apache-2.0\n"

// The verifier gives up at a million instructions, and every load of a program takes as long as it walks. A jump is seldom
// meant. WEIR_UPDATE_BUDGET=1 writes the file anew.
func TestVerifierBudget(t *testing.T) {
	tables, err := loader.Open(loader.Config{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	defer tables.Close()
	x, err := xdp.Load(bpf.DefaultKnobs(), tables.Maps())
	if err != nil {
		t.Fatal(err)
	}
	defer x.Close()
	c, err := tc.Load(bpf.DefaultKnobs(), tables.Maps())
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()

	now := licence + kernel(t) + "\n"
	walked := make(map[string]uint32)
	for _, p := range []struct {
		name    string
		program *ebpf.Program
	}{{"underlay_rx", x.UnderlayRx}, {"pod_tx", c.PodTx}, {"pod_rx", c.PodRx}, {"overlay_tx", c.OverlayTx}} {
		info, err := p.program.Info()
		if err != nil {
			t.Fatal(err)
		}
		n, ok := info.VerifiedInstructions()
		if !ok {
			t.Fatal("this kernel does not say how much it verified")
		}
		walked[p.name] = n
		now += fmt.Sprintf("%s %d\n", p.name, n)
	}
	if os.Getenv("WEIR_UPDATE_BUDGET") != "" {
		if err := os.WriteFile(budgetFile, []byte(now), 0o644); err != nil {
			t.Fatal(err)
		}
	}

	file, err := os.ReadFile(budgetFile)
	if err != nil {
		t.Fatal(err)
	}
	lines := strings.Split(strings.TrimSpace(strings.TrimPrefix(string(file), licence)), "\n")
	if lines[0] != kernel(t) {
		t.Skipf("the budget is for %s, this is %s: another verifier walks other ways", lines[0], kernel(t))
	}
	for _, line := range lines[1:] {
		var name string
		var budget uint32
		if _, err := fmt.Sscan(line, &name, &budget); err != nil {
			t.Fatalf("read %q in %s: %v", line, budgetFile, err)
		}
		n, ok := walked[name]
		delete(walked, name)
		switch {
		case !ok:
			t.Errorf("%s names %s, which there is not", budgetFile, name)
		case uint64(n)*10 > uint64(budget)*11:
			t.Errorf("%s: the verifier walks %d instructions, %d before. If that is meant, run this test with WEIR_UPDATE_BUDGET=1", name, n, budget)
		default:
			t.Logf("%s: %d instructions of %d", name, n, budget)
		}
	}
	for name, n := range walked {
		t.Errorf("%s: %d instructions, and no budget. Run this test with WEIR_UPDATE_BUDGET=1", name, n)
	}
}

// kernel is the running kernel's version without its patch level.
func kernel(t *testing.T) string {
	t.Helper()
	var u unix.Utsname
	if err := unix.Uname(&u); err != nil {
		t.Fatal(err)
	}
	parts := strings.SplitN(unix.ByteSliceToString(u.Release[:]), ".", 3)
	if len(parts) < 2 {
		t.Fatalf("a kernel of release %q", u.Release)
	}
	return fmt.Sprintf("kernel %s.%s", parts[0], strings.SplitN(parts[1], "-", 2)[0])
}
