// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"encoding/binary"
	"errors"
	"fmt"

	"github.com/cilium/ebpf"
	"github.com/weirnet/weir/policy"
)

// imageSlot is the policy image that the programs see: one of the two halves of the map `policy`, the one that the shared
// state names. An image is written into the other half, and naming that publishes it whole.
type imageSlot struct {
	halves [2][]byte
	shared *sharedState
	wait   func() error // for running programs
	writes *writes
	live   *policy.Image // nil: none yet
}

func newImageSlot(w *words, shared *sharedState, wait func() error) (*imageSlot, error) {
	size := len(w.word) * 8 / 2
	s := &imageSlot{halves: [2][]byte{w.mem[:size:size], w.mem[size : 2*size : 2*size]}, shared: shared, wait: wait, writes: w.writes}
	var err error
	if s.live, err = s.decode(); err != nil {
		return nil, err
	}
	return s, nil
}

// decode reads the live image; nil if there never was one: then the half is as the kernel made it.
func (s *imageSlot) decode() (*policy.Image, error) {
	half := s.halves[s.shared.imageHalf()]
	if binary.NativeEndian.Uint32(half) == 0 {
		return nil, nil
	}
	img, err := policy.Decode(half)
	if err != nil {
		return nil, fmt.Errorf("decode the live image: %w", err)
	}
	return img, nil
}

// fits says whether img can enter the slot.
func (s *imageSlot) fits(img *policy.Image) error {
	if limit := len(s.halves[0]); len(img.Bytes()) > limit {
		return fmt.Errorf("place the policy image: %w: it has %d bytes, its map %d", ErrTooLarge, len(img.Bytes()), limit)
	}
	return nil
}

// swap publishes img: a packet sees the old image or img. It returns when no program runs that saw the old one.
func (s *imageSlot) swap(img *policy.Image) error {
	if err := s.fits(img); err != nil {
		return err
	}
	spare := 1 - s.shared.imageHalf()
	s.writes.point()
	copy(s.halves[spare], img.Bytes())
	s.shared.setImageHalf(spare)
	if err := s.wait(); err != nil {
		return fmt.Errorf("swap in image generation %d: %w", img.Generation(), err)
	}
	s.live = img
	return nil
}

// barrier waits for running programs: the update of a map in a map does (Linux 5.0, 1ae80cf31938), so it has one of its own
// that nobody reads.
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
