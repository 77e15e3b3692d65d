// SPDX-License-Identifier: Apache-2.0

package bench

import (
	"errors"
	"fmt"
	"net/netip"
	"time"

	"github.com/cilium/ebpf"
	"golang.org/x/sys/unix"
)

//go:generate go tool bpf2go -cc clang-19 -strip llvm-strip-19 -target bpfel -go-package bench -no-global-types -type step -type sender driver driver.c -- -O2 -g -mcpu=v3 -Wall -Wextra -Werror -nostdinc -I../bpf/include -fno-ident -fdebug-prefix-map=/proc/self/cwd=.

// steps is how many different packets a workload cycles over.
const steps = 8192

// driver runs a workload through one program.
type driver struct {
	objects driverObjects
	frame   []byte
}

// newDriver loads the driver in front of target; nil stands for the empty program.
func newDriver(frame []byte, senders []driverSender, workload []driverStep, target *ebpf.Program) (*driver, error) {
	spec, err := loadDriver()
	if err != nil {
		return nil, fmt.Errorf("read the embedded driver: %w", err)
	}
	d := &driver{frame: frame}
	if err := spec.LoadAndAssign(&d.objects, nil); err != nil {
		return nil, fmt.Errorf("load the driver: %w", err)
	}
	if target == nil {
		target = d.objects.Empty
	}
	err = d.objects.Target.Put(uint32(0), target)
	for i := range senders {
		err = errors.Join(err, d.objects.Senders.Put(uint32(i), &senders[i]))
	}
	for i := range workload {
		err = errors.Join(err, d.objects.Steps.Put(uint32(i), &workload[i]))
	}
	if err != nil {
		return nil, errors.Join(fmt.Errorf("fill the driver's tables: %w", err), d.Close())
	}
	return d, nil
}

// run passes n packets and returns the CPU time of one, in ns, and the action of the last.
func (d *driver) run(n uint32) (ns float64, action uint32, err error) {
	before, err := threadTime()
	if err != nil {
		return 0, 0, err
	}
	action, err = d.objects.Drive.Run(&ebpf.RunOptions{Data: d.frame, Repeat: n})
	if err != nil {
		return 0, 0, fmt.Errorf("run %d packets: %w", n, err)
	}
	after, err := threadTime()
	if err != nil {
		return 0, 0, err
	}
	return float64(after-before) / float64(n), action, nil
}

// Close unloads the driver; the target stays.
func (d *driver) Close() error { return d.objects.Close() }

// threadTime is the CPU time of this thread: what others take from the CPU meanwhile does not count.
func threadTime() (time.Duration, error) {
	var t unix.Timespec
	if err := unix.ClockGettime(unix.CLOCK_THREAD_CPUTIME_ID, &t); err != nil {
		return 0, fmt.Errorf("read the thread's CPU clock: %w", err)
	}
	return time.Duration(t.Nano()), nil
}

// step is one packet of a workload; sender is a node's number.
func step(sender int, src, dst netip.Addr, port uint16, flags uint8) driverStep {
	return driverStep{Sender: uint8(sender), InnerSaddr: src.As4(), InnerDaddr: dst.As4(),
		InnerDport: [2]uint8{uint8(port >> 8), uint8(port)}, Flags: flags}
}

// sender is what all packets from a node have in common.
func sender(outer netip.Addr, mac [6]byte) driverSender {
	return driverSender{OuterSaddr: outer.As4(), InnerSmac: [8]uint8{mac[0], mac[1], mac[2], mac[3], mac[4], mac[5], 0x08, 0x00}}
}
