// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/policy"
)

func openPins(t *testing.T, path string, sizes Sizes) (*Tables, error) {
	t.Helper()
	cfg := testConfig(newClock())
	cfg.PinPath = path
	if sizes != (Sizes{}) {
		cfg.Sizes = sizes
	}
	return Open(cfg)
}

// What was applied is there when the pins are opened again, image and all; a set of pins that was being made is made
// anew; removing the pins twice is no error, and then nothing is left.
func TestPinsOutliveTheProcess(t *testing.T) {
	if !isolate(t) {
		return
	}
	pins := mountBPFFS(t)
	half := filepath.Join(pins, fmt.Sprint(pinPrefix, bpf.ABI, "_new"))
	if err := os.Mkdir(half, 0o700); err != nil {
		t.Fatal(err)
	}
	first, err := openPins(t, pins, Sizes{})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(half); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("half-made pins stayed: %v", err)
	}
	if first.LiveImage() != nil {
		t.Error("an image is live in new tables")
	}
	p := policy.NewPlanner()
	plan := apply(t, first, p, randomModel(newRand(t)))
	slot := plan.Final.Endpoints[0].Slot
	if err := first.SetInterface(slot, Interface{Index: 7, PodMAC: [6]byte{2, 0, 0, 0, 0, 1}}); err != nil {
		t.Fatal(err)
	}
	endpoint := first.Endpoint(slot)
	closeTables(t, first)

	second, err := openPins(t, pins, Sizes{})
	if err != nil {
		t.Fatal(err)
	}
	if img := second.LiveImage(); img == nil || !bytes.Equal(img.Bytes(), plan.Final.Image.Bytes()) {
		t.Error("the live image is not the one that was applied")
	}
	if e := second.Endpoint(slot); e != endpoint || e.Ifindex != 7 {
		t.Errorf("the endpoint is %+v, was %+v", e, endpoint)
	}
	checkTables(t, second, plan.Final)
	closeTables(t, second)

	for range 2 {
		if err := Remove(pins); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := os.Lstat(pins); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the pin path is still there: %v", err)
	}
}

// Pins that this program did not make, or made otherwise, are refused and left alone.
func TestPinsThatDoNotFitAreRefused(t *testing.T) {
	if !isolate(t) {
		return
	}
	pins := mountBPFFS(t)
	tables, err := openPins(t, pins, Sizes{})
	if err != nil {
		t.Fatal(err)
	}
	closeTables(t, tables)
	ours := filepath.Join(pins, fmt.Sprint(pinPrefix, bpf.ABI))
	other := testConfig(newClock()).Sizes
	other.Flows = 2048
	if _, err := openPins(t, pins, other); !errors.Is(err, ErrPinSet) {
		t.Errorf("other sizes: %v, want %v", err, ErrPinSet)
	}
	if err := os.Mkdir(filepath.Join(pins, fmt.Sprint(pinPrefix, bpf.ABI+1)), 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := openPins(t, pins, Sizes{}); !errors.Is(err, ErrPinABI) {
		t.Errorf("another ABI: %v, want %v", err, ErrPinABI)
	}
	if err := os.Remove(filepath.Join(pins, fmt.Sprint(pinPrefix, bpf.ABI+1))); err != nil {
		t.Fatal(err)
	}
	if err := os.Remove(filepath.Join(ours, "flows")); err != nil {
		t.Fatal(err)
	}
	if _, err := openPins(t, pins, Sizes{}); !errors.Is(err, ErrPinSet) {
		t.Errorf("a missing pin: %v, want %v", err, ErrPinSet)
	}
	if _, err := os.Stat(filepath.Join(ours, "addr4")); err != nil {
		t.Errorf("what was refused is gone: %v", err)
	}
}

func TestPinPathMustBeTrusted(t *testing.T) {
	if !isolate(t) {
		return
	}
	good := mountBPFFS(t)
	parent := filepath.Dir(good)
	at := func(name string) string { return filepath.Join(parent, name) }
	for name, path := range map[string]string{
		"mode":            at("open"),
		"owner":           at("foreign"),
		"symbolic link":   at("link"),
		"below a link":    filepath.Join(at("link"), "below"),
		"below a foreign": filepath.Join(at("foreign"), "below"),
		"no bpffs":        t.TempDir(),
		"relative":        "weir",
	} {
		switch name {
		case "mode":
			must(t, os.Mkdir(path, 0o755))
			must(t, os.Chmod(path, 0o755))
		case "owner":
			must(t, os.Mkdir(path, 0o700))
			must(t, os.Chown(path, 1000, 1000))
		case "symbolic link":
			must(t, os.Symlink(good, path))
		}
	}
	must(t, os.MkdirAll(filepath.Join(at("foreign"), "below"), 0o700))
	must(t, os.Mkdir(filepath.Join(good, "below"), 0o700))
	for name, path := range map[string]string{
		"mode": at("open"), "owner": at("foreign"), "symbolic link": at("link"), "below a link": filepath.Join(at("link"), "below"),
		"below a foreign": filepath.Join(at("foreign"), "below"), "no bpffs": t.TempDir(), "relative": "weir",
	} {
		if _, err := openPins(t, path, Sizes{}); !errors.Is(err, ErrPinPath) {
			t.Errorf("open, %s: %v, want %v", name, err, ErrPinPath)
		}
		if err := Remove(path); name != "relative" && !errors.Is(err, ErrPinPath) {
			t.Errorf("remove, %s: %v, want %v", name, err, ErrPinPath)
		}
	}
	if _, err := openPins(t, at("new"), Sizes{}); err != nil {
		t.Errorf("a path that is to be made: %v", err)
	}
}

func must(t testing.TB, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
