// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/weirnet/weir/policy"
)

// imageSlot is the policy image that the programs see: one of two inner maps, the one whose id is in the slot. An image
// is written into the other, and replacing the id publishes it whole.
type imageSlot struct {
	outer  *ebpf.Map
	inner  [2]*ebpf.Map
	ids    [2]ebpf.MapID
	memory [2]*words
	writes *writes
	live   *policy.Image // nil: none yet
}

func newImageSlot(outer, a, b *ebpf.Map, w *writes) (*imageSlot, error) {
	s := &imageSlot{outer: outer, inner: [2]*ebpf.Map{a, b}, writes: w}
	for i, m := range s.inner {
		info, err := m.Info()
		if err != nil {
			return nil, fmt.Errorf("read the id of %s: %w", m, err)
		}
		id, ok := info.ID()
		if !ok {
			return nil, fmt.Errorf("read the id of %s: the kernel does not tell", m)
		}
		s.ids[i] = id
		if s.memory[i], err = mapWords(m, w); err != nil {
			return nil, errors.Join(err, s.close())
		}
	}
	var err error
	if s.live, err = s.decode(); err != nil {
		return nil, errors.Join(err, s.close())
	}
	return s, nil
}

func (s *imageSlot) close() error { return errors.Join(s.memory[0].close(), s.memory[1].close()) }

// liveIndex says which inner map the programs see; false if none. The kernel is asked each time: it is the only one who
// cannot be wrong about it.
func (s *imageSlot) liveIndex() (int, bool, error) {
	var id uint32
	err := s.outer.Lookup(uint32(0), &id)
	if errors.Is(err, ebpf.ErrKeyNotExist) {
		return 0, false, nil
	}
	if err != nil {
		return 0, false, fmt.Errorf("read the policy slot: %w", err)
	}
	for i, known := range s.ids {
		if uint32(known) == id {
			return i, true, nil
		}
	}
	return 0, false, fmt.Errorf("read the policy slot: map %d in it is not one of ours", id)
}

// decode reads the live image; nil if there is none.
func (s *imageSlot) decode() (*policy.Image, error) {
	live, ok, err := s.liveIndex()
	if !ok || err != nil {
		return nil, err
	}
	img, err := policy.Decode(s.memory[live].mem)
	if err != nil {
		return nil, fmt.Errorf("decode the live image: %w", err)
	}
	return img, nil
}

// fits says whether img can enter the slot.
func (s *imageSlot) fits(img *policy.Image) error {
	if limit := int(s.inner[0].ValueSize()); len(img.Bytes()) > limit {
		return fmt.Errorf("place the policy image: %w: it has %d bytes, its map %d", ErrTooLarge, len(img.Bytes()), limit)
	}
	return nil
}

// swap publishes img: a packet sees the old image or img. It returns when no program runs that saw the old one.
func (s *imageSlot) swap(img *policy.Image) error {
	if err := s.fits(img); err != nil {
		return err
	}
	spare, ok, err := s.liveIndex()
	if err != nil {
		return err
	}
	if ok {
		spare = 1 - spare
	}
	s.writes.point()
	copy(s.memory[spare].mem, img.Bytes())
	s.writes.point()
	// The update of a map in a map waits for running programs (Linux 5.0, 1ae80cf31938).
	if err := s.outer.Put(uint32(0), s.inner[spare]); err != nil {
		return fmt.Errorf("swap in image generation %d: %w", img.Generation(), err)
	}
	s.live = img
	return nil
}

// barrier waits for running programs: the update of any map in a map does, so it has one of its own that nobody reads.
type barrier struct{ outer, inner *ebpf.Map }

func newBarrier() (*barrier, error) {
	inner := &ebpf.MapSpec{Name: "barrier_inner", Type: ebpf.Array, KeySize: 4, ValueSize: 4, MaxEntries: 1}
	i, err := ebpf.NewMap(inner)
	if err != nil {
		return nil, fmt.Errorf("create the barrier: %w", err)
	}
	outer := &ebpf.MapSpec{Name: "barrier", Type: ebpf.ArrayOfMaps, KeySize: 4, ValueSize: 4, MaxEntries: 1, InnerMap: inner}
	o, err := ebpf.NewMap(outer)
	if err != nil {
		return nil, fmt.Errorf("create the barrier: %w", errors.Join(err, i.Close()))
	}
	return &barrier{o, i}, nil
}

func (b *barrier) wait() error {
	if err := b.outer.Put(uint32(0), b.inner); err != nil {
		return fmt.Errorf("wait for running programs: %w", err)
	}
	return nil
}

func (b *barrier) close() error { return errors.Join(b.outer.Close(), b.inner.Close()) }
