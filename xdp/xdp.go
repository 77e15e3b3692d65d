// SPDX-License-Identifier: Apache-2.0

// Package xdp holds underlay_rx, the program on the underlay NICs, and loads it.
package xdp

import (
	"fmt"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
)

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package xdp -no-global-types underlay underlay_rx.c -- -O2 -g -mcpu=v3 -Wall -Wextra -Werror -nostdinc -I../bpf -I../bpf/include -fno-ident -fdebug-prefix-map=/proc/self/cwd=.

// Programs are the loaded programs of this package.
type Programs struct {
	UnderlayRx *ebpf.Program `ebpf:"underlay_rx"`
}

// Close releases the programs; links that hold them keep them alive.
func (p *Programs) Close() error { return p.UnderlayRx.Close() }

// Load loads the programs with knobs as their constants and maps, by name, as their tables. The given maps' sizes win over
// those in the object.
func Load(knobs bpf.Knobs, maps map[string]*ebpf.Map) (*Programs, error) {
	spec, err := loadUnderlay()
	if err != nil {
		return nil, fmt.Errorf("read the embedded XDP object: %w", err)
	}
	programs := new(Programs)
	if err := bpf.Load(spec, knobs, maps, programs); err != nil {
		return nil, err
	}
	return programs, nil
}
