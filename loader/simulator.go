// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"time"

	"github.com/cilium/ebpf"
	"github.com/cilium/ebpf/ringbuf"
	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/policy"
	"github.com/weirnet/weir/tc"
	"github.com/weirnet/weir/xdp"
)

// Simulator runs packets through the real programs without attaching them (BPF_PROG_TEST_RUN), on tables of its own that
// Apply has filled. It is for one goroutine.
type Simulator struct {
	tables   *Tables
	programs map[bpf.Hook]*ebpf.Program
	closers  []io.Closer
	events   *ringbuf.Reader
	record   ringbuf.Record
	out      []byte
	passed   bool // a packet did, since the last reset: it may have left a flow
}

// Result is what became of a packet.
type Result struct {
	Action uint32      // XDP_* at underlay_rx, TC_ACT_* elsewhere
	Event  bpf.Event   // the verdict
	Events []bpf.Event // all of them: what observe mode found comes before the verdict; valid until the next Run
	Out    []byte      // the packet after the program; valid until the next Run
}

// loopback is the interface that a packet of BPF_PROG_TEST_RUN comes from, and so that of every pod.
const loopback = 1

// roomToGrow is for headers that a program adds, and the least buffer that the kernel wants.
const roomToGrow = 512

// NewSimulator compiles nothing and applies compiled as a first plan. Of knobs, FlowsPerPod and
// EventInterval are the simulator's own.
func NewSimulator(knobs bpf.Knobs, compiled *policy.Compiled) (*Simulator, error) {
	s, err := newSimulator(knobs, compiled)
	if err != nil {
		return nil, fmt.Errorf("make a simulator: %w", err)
	}
	return s, nil
}

func newSimulator(knobs bpf.Knobs, compiled *policy.Compiled) (_ *Simulator, err error) {
	size := uint32(1 << 18) // twice what it takes, for plans to come
	for int(size) < 2*len(compiled.Image.Bytes()) {
		size *= 2
	}
	entries, _ := newEntries(compiled.Addresses)
	tables, err := Open(Config{
		VXLANPort: knobs.VXLANPort,
		Sizes:     Sizes{ImageBytes: size, Addr4Blocks: blocksFor(entries), Flows: 8192, FlowsNew: 4096, Fragments: 256},
		Log:       slog.New(slog.DiscardHandler),
	})
	if err != nil {
		return nil, err
	}
	s := &Simulator{tables: tables, closers: []io.Closer{tables}}
	defer func() {
		if err != nil {
			err = errors.Join(err, s.Close())
		}
	}()
	knobs.FlowsPerPod, knobs.EventInterval = tables.FlowCapacity()/8, 0
	if err := s.Apply(&policy.Plan{Final: compiled, Swap: true}); err != nil {
		return nil, err
	}
	x, err := xdp.Load(knobs, tables.Maps())
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, x)
	c, err := tc.Load(knobs, tables.Maps())
	if err != nil {
		return nil, err
	}
	s.closers = append(s.closers, c)
	s.programs = map[bpf.Hook]*ebpf.Program{
		bpf.HookUnderlayRx: x.UnderlayRx, bpf.HookPodTx: c.PodTx, bpf.HookPodRx: c.PodRx, bpf.HookOverlayTx: c.OverlayTx,
	}
	if s.events, err = ringbuf.NewReader(tables.maps["events"]); err != nil {
		return nil, fmt.Errorf("read events: %w", err)
	}
	s.closers = append(s.closers, s.events)
	return s, nil
}

// blocksFor is how many trie blocks a set of prefixes takes, and some to spare for changes.
func blocksFor(s *prefixSet) uint32 {
	blocks := make(map[prefix4]bool)
	for p := range s.entries {
		for _, bits := range []int{16, 24} {
			if p.bits() > bits {
				blocks[newPrefix4(p.addr(), bits)] = true
			}
		}
	}
	return uint32(len(blocks) + 64)
}

// Apply writes a plan into the simulator's tables. All pods are behind the same interface, the packet's.
func (s *Simulator) Apply(plan *policy.Plan) error {
	if err := s.tables.Apply(context.Background(), plan); err != nil {
		return err
	}
	for i := range plan.Final.Endpoints {
		slot := plan.Final.Endpoints[i].Slot
		pod, host := PodMACs(slot)
		if err := s.tables.SetInterface(slot, Interface{Index: loopback, PodMAC: pod, HostMAC: host}); err != nil {
			return err
		}
	}
	return nil
}

// PodMACs are the addresses that a simulated pod's veth has.
func PodMACs(slot uint16) (pod, host [6]byte) {
	return [6]byte{2, 0, 0, 1, byte(slot >> 8), byte(slot)}, [6]byte{2, 0, 0, 2, byte(slot >> 8), byte(slot)}
}

// Bind makes slot the pod that is found by the packet's interface, where no address names one.
func (s *Simulator) Bind(slot uint16) error {
	pod, host := PodMACs(slot)
	return s.tables.SetInterface(slot, Interface{Index: loopback, PodMAC: pod, HostMAC: host})
}

// Run passes packet, from its Ethernet header on, through the program at hook.
func (s *Simulator) Run(hook bpf.Hook, packet []byte) (Result, error) {
	r, err := s.run(hook, packet)
	if err != nil {
		return r, fmt.Errorf("run a packet through %s: %w", bpf.HookName(hook), err)
	}
	return r, nil
}

func (s *Simulator) run(hook bpf.Hook, packet []byte) (r Result, err error) {
	program, ok := s.programs[hook]
	if !ok {
		return r, errors.New("there is no such hook")
	}
	if need := len(packet) + roomToGrow; cap(s.out) < need {
		s.out = make([]byte, need)
	}
	options := ebpf.RunOptions{Data: packet, DataOut: s.out[:cap(s.out)]}
	if r.Action, err = program.Run(&options); err != nil {
		return r, err
	}
	r.Out = options.DataOut
	for s.events.AvailableBytes() > 0 {
		s.events.SetDeadline(time.Now().Add(time.Second))
		if err := s.events.ReadInto(&s.record); err != nil {
			return r, fmt.Errorf("read its event: %w", err)
		}
		event, err := decodeEvent(s.record.RawSample)
		if err != nil {
			return r, err
		}
		r.Events = append(r.Events, event)
	}
	if len(r.Events) == 0 {
		return r, fmt.Errorf("it left no event: %w", os.ErrNotExist)
	}
	r.Event = r.Events[len(r.Events)-1]
	s.passed = s.passed || bpf.Verdict(r.Event.Verdict) != bpf.VerdictDrop
	return r, nil
}

// ResetFlows empties the flow tables: the next packet is the first of its connection.
func (s *Simulator) ResetFlows() error {
	// An insert leaves its mark in both halves.
	if s.passed && !s.tables.filterHalf(0).isEmpty() {
		s.tables.filterHalf(0).clear()
		s.tables.filterHalf(1).clear()
		clear(s.tables.memory["flow_counts"].word)
		if err := errors.Join(empty[bpf.FlowKey](s.tables.maps["flows"]), empty[bpf.FlowKey](s.tables.maps["flows_new"])); err != nil {
			return err
		}
	}
	s.passed = false
	return empty[bpf.FragmentKey](s.tables.maps["fragments"])
}

// empty deletes every entry of a hash.
func empty[K any](m *ebpf.Map) error {
	var key K
	for {
		err := m.NextKey(nil, &key)
		if errors.Is(err, ebpf.ErrKeyNotExist) {
			return nil
		}
		if err == nil {
			err = m.Delete(&key)
		}
		if err != nil {
			return fmt.Errorf("empty %s: %w", m, err)
		}
	}
}

// Counters is a snapshot, to say which counter moved.
func (s *Simulator) Counters() (map[CounterKey]Count, error) { return s.tables.Counters() }

// Tables are the simulator's tables.
func (s *Simulator) Tables() *Tables { return s.tables }

// Close unloads the programs.
func (s *Simulator) Close() error {
	var errs []error
	for i := len(s.closers) - 1; i >= 0; i-- {
		errs = append(errs, s.closers[i].Close())
	}
	s.closers = nil
	return errors.Join(errs...)
}
