// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/tc"
	"github.com/weirnet/weir/xdp"
)

// Programs are the loaded programs, by the hook that they serve.
type Programs map[bpf.Hook]*ebpf.Program

// LoadPrograms loads all programs on top of these tables. The knobs that follow from the tables are set here.
func (t *Tables) LoadPrograms(knobs bpf.Knobs) (Programs, error) {
	knobs.FlowsPerPod = t.FlowCapacity() / 8
	x, err := xdp.Load(knobs, t.Maps())
	if err != nil {
		return nil, err
	}
	pod, err := tc.Load(knobs, t.Maps())
	if err != nil {
		return nil, errors.Join(err, x.Close())
	}
	return Programs{
		bpf.HookUnderlayRx: x.UnderlayRx, bpf.HookPodTx: pod.PodTx, bpf.HookPodRx: pod.PodRx, bpf.HookOverlayTx: pod.OverlayTx,
	}, nil
}

// Close releases the programs; what is attached stays.
func (p Programs) Close() error {
	var errs []error
	for _, program := range p {
		errs = append(errs, program.Close())
	}
	return errors.Join(errs...)
}
