// SPDX-License-Identifier: Apache-2.0

// Package tc holds pod_tx, pod_rx and overlay_tx, the programs for tcx and clsact, and loads them.
package tc

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
)

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package tc -no-global-types pod pod.c -- -O2 -g -mcpu=v3 -Wall -Wextra -Werror -nostdinc -I../bpf -I../bpf/include -fno-ident -fdebug-prefix-map=/proc/self/cwd=.

// Programs are the loaded programs of this package.
type Programs struct {
	PodTx     *ebpf.Program `ebpf:"pod_tx"`
	PodRx     *ebpf.Program `ebpf:"pod_rx"`
	OverlayTx *ebpf.Program `ebpf:"overlay_tx"`
}

// Close releases the programs; links that hold them keep them alive.
func (p *Programs) Close() error {
	return errors.Join(p.PodTx.Close(), p.PodRx.Close(), p.OverlayTx.Close())
}

// Load loads the programs with knobs as their constants and maps, by name, as their tables. The given maps' sizes win over
// those in the object.
func Load(knobs bpf.Knobs, maps map[string]*ebpf.Map) (*Programs, error) {
	spec, err := loadPod()
	if err != nil {
		return nil, fmt.Errorf("read the embedded tc object: %w", err)
	}
	programs := new(Programs)
	if err := bpf.Load(spec, knobs, maps, programs); err != nil {
		return nil, err
	}
	return programs, nil
}
