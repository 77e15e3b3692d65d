// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"os"
	"sync/atomic"
	"syscall"
	"unsafe"

	"github.com/cilium/ebpf"
)

// writes is passed through before each store or system call that changes what the programs can see. A test cuts the
// sequence there, as kill -9 would.
type writes struct{ before func() }

func (w *writes) point() {
	if w != nil && w.before != nil {
		w.before()
	}
}

// words is the memory of an mmap-able array map as 64-bit words. The programs read it while it is written, so that
// what they can reach is only ever stored whole words at a time.
type words struct {
	mem    []byte
	word   []uint64
	writes *writes
}

// mapWords maps m into memory. An array's elements lie a multiple of 8 bytes apart, whatever their size.
func mapWords(m *ebpf.Map, w *writes) (*words, error) {
	size := int(m.MaxEntries()) * int((m.ValueSize()+7)&^7)
	page := os.Getpagesize()
	mem, err := syscall.Mmap(m.FD(), 0, (size+page-1)&^(page-1), syscall.PROT_READ|syscall.PROT_WRITE, syscall.MAP_SHARED)
	if err != nil {
		return nil, fmt.Errorf("mmap %s: %w", m, err)
	}
	return &words{mem, unsafe.Slice((*uint64)(unsafe.Pointer(&mem[0])), size/8), w}, nil
}

func (w *words) close() error {
	if w == nil || w.mem == nil {
		return nil
	}
	mem := w.mem
	w.mem, w.word = nil, nil
	return syscall.Munmap(mem)
}

func (w *words) load(i uint32) uint64 { return atomic.LoadUint64(&w.word[i]) }

func (w *words) store(i uint32, v uint64) {
	w.writes.point()
	atomic.StoreUint64(&w.word[i], v)
}

// change stores v unless it is there already: what is equal costs no cache line of the programs'.
func (w *words) change(i uint32, v uint64) {
	if w.load(i) != v {
		w.store(i, v)
	}
}

// fill writes n words that no program can reach yet. The store that publishes them is the barrier.
func (w *words) fill(first, n uint32, v uint64) {
	for i := range w.word[first : first+n] {
		w.word[int(first)+i] = v
	}
}

// half points at a 32-bit field: the low or the high half of word i.
func (w *words) half(i uint32, high bool) *uint32 {
	p := unsafe.Pointer(&w.word[i])
	if high {
		p = unsafe.Add(p, 4)
	}
	return (*uint32)(p)
}

// monotonic reads the clock that the programs stamp with (bpf_ktime_get_coarse_ns): a finer one would run up to a tick
// ahead of theirs, and "now - then" would wrap.
func monotonic() uint64 {
	const clockMonotonicCoarse = 6
	var now syscall.Timespec
	// It cannot fail: the clock exists since Linux 2.6.32 and the pointer is good.
	_, _, _ = syscall.RawSyscall(syscall.SYS_CLOCK_GETTIME, clockMonotonicCoarse, uintptr(unsafe.Pointer(&now)), 0)
	return uint64(now.Nano())
}
