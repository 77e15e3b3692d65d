// SPDX-License-Identifier: Apache-2.0

// Package bench measures what the datapath costs: CPU time per packet, beside an empty program, in one interleaved run.
package bench

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math"
	"net/netip"
	"runtime"
	"slices"
	"text/tabwriter"

	"github.com/cilium/ebpf"

	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/internal/packet"
	"github.com/weirnet/weir/loader"
	"github.com/weirnet/weir/policy"
	"github.com/weirnet/weir/xdp"
)

// Figure is what one workload cost.
type Figure struct {
	Name      string   `json:"name"`
	Policies  int      `json:"policies"`
	MinNs     float64  `json:"min_ns"`    // CPU ns per packet, minimum of all rounds, the driver's own cost included
	MedianNs  float64  `json:"median_ns"` // the same, median
	OverEmpty float64  `json:"over_empty_ns"`
	Coverage  coverage `json:"coverage"`
}

// Report is a whole run.
type Report struct {
	Rounds  int      `json:"rounds"`
	Packets uint32   `json:"packets_per_round"`
	Figures []Figure `json:"figures"` // the first is the empty program
	Images  []int    `json:"image_bytes"`
}

// XDP actions.
const (
	xdpDrop = 1
	xdpPass = 2
)

// Options size a run. The zero value takes the defaults.
type Options struct {
	Rounds  int    // default 100
	Packets uint32 // per round and workload, default 65,536
}

type contender struct {
	driver *driver
	figure Figure
	action uint32
	ns     []float64
}

// Quick measures underlay_rx on a dropped SYN, a dropped segment that misses the flow tables, and an allowed SYN that is
// handed up, with one policy and with a thousand. Every run's verdict is checked.
func Quick(o Options) (_ *Report, err error) {
	if o.Rounds == 0 {
		o.Rounds = 100
	}
	if o.Packets == 0 {
		o.Packets = 8 * steps
	}
	runtime.LockOSThread() // CPU time is read per thread
	defer runtime.UnlockOSThread()

	var closers []io.Closer
	defer func() {
		for i := len(closers) - 1; i >= 0; i-- {
			err = errors.Join(err, closers[i].Close())
		}
	}()
	report := &Report{Rounds: o.Rounds, Packets: o.Packets}
	var contenders []*contender
	add := func(f Figure, model *policy.Model, workload []driverStep, target *ebpf.Program, action uint32) error {
		d, err := newDriver(frame(), senders(model), workload, target)
		if err != nil {
			return err
		}
		closers = append(closers, d)
		contenders = append(contenders, &contender{driver: d, figure: f, action: action})
		return nil
	}
	for _, policies := range []int{1, 1000} {
		model := cluster(policies)
		compiled, err := policy.Build(model)
		if err != nil {
			return nil, fmt.Errorf("compile %d policies: %w", policies, err)
		}
		report.Images = append(report.Images, compiled.Image.Size())
		program, opened, err := load(compiled, model.Node)
		closers = append(closers, opened...)
		if err != nil {
			return nil, err
		}
		for _, w := range []struct {
			name   string
			allow  bool
			flags  uint8
			action uint32
		}{
			{"dropped SYN", false, packet.SYN, xdpDrop},
			{"dropped segment, no flow", false, packet.ACK, xdpDrop},
			{"allowed SYN, handed up", true, packet.SYN, xdpPass},
		} {
			packets, covered, err := workload(model, compiled, w.allow, w.flags)
			if err != nil {
				return nil, err
			}
			if len(contenders) == 0 {
				if err := add(Figure{Name: "empty program", Coverage: covered}, model, packets, nil, xdpDrop); err != nil {
					return nil, err
				}
			}
			if err := add(Figure{Name: w.name, Policies: policies, Coverage: covered}, model, packets, program, w.action); err != nil {
				return nil, err
			}
		}
	}
	for round := range o.Rounds + 1 {
		for _, c := range contenders {
			ns, action, err := c.driver.run(o.Packets)
			if err != nil {
				return nil, err
			}
			if action != c.action {
				return nil, fmt.Errorf("%s with %d policies ended in XDP action %d, not %d", c.figure.Name, c.figure.Policies, action, c.action)
			}
			if round > 0 { // the first warms caches
				c.ns = append(c.ns, ns)
			}
		}
	}
	empty := slices.Min(contenders[0].ns)
	for _, c := range contenders {
		slices.Sort(c.ns)
		c.figure.MinNs, c.figure.MedianNs = round1(c.ns[0]), round1(c.ns[len(c.ns)/2])
		c.figure.OverEmpty = round1(c.ns[0] - empty)
		report.Figures = append(report.Figures, c.figure)
	}
	return report, nil
}

func round1(x float64) float64 { return math.Round(x*10) / 10 }

// load fills tables of its own and loads the NIC's program on them; what it opened is returned even after an error.
func load(compiled *policy.Compiled, node string) (*ebpf.Program, []io.Closer, error) {
	knobs := bpf.DefaultKnobs()
	tables, err := loader.Open(loader.Config{VXLANPort: knobs.VXLANPort, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, nil, err
	}
	if err := tables.Apply(context.Background(), &policy.Plan{Final: compiled, Swap: true}); err != nil {
		return nil, []io.Closer{tables}, err
	}
	programs, err := xdp.Load(knobs, tables.Maps())
	if err != nil {
		return nil, []io.Closer{tables}, err
	}
	return programs.UnderlayRx, []io.Closer{tables, programs}, nil
}

// frame is what the driver rewrites: a TCP segment in VXLAN, headers without options.
func frame() []byte {
	a, b := netip.MustParseAddrPort("10.42.4.2:40000"), netip.MustParseAddrPort("10.42.0.2:8000")
	inner := packet.TCP(a, b, packet.SYN).Via(vtepMAC(1), vtepMAC(0)).Bytes()
	outer := packet.Underlay(netip.MustParseAddr("192.0.2.2"), netip.MustParseAddr("192.0.2.1"))
	return packet.VXLAN(outer, 1, inner)
}

// WriteText prints the report as a table.
func (r *Report) WriteText(w io.Writer) error {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', tabwriter.AlignRight)
	fmt.Fprintf(tw, "policies\tpacket\tmin ns\tmedian ns\tover empty ns\tsources\tports\tpods\t\n")
	for i, f := range r.Figures {
		policies := fmt.Sprint(f.Policies)
		if i == 0 {
			policies = "-"
		}
		fmt.Fprintf(tw, "%s\t%s\t%.1f\t%.1f\t%.1f\t%d\t%d\t%d\t\n", policies, f.Name, f.MinNs, f.MedianNs, f.OverEmpty,
			f.Coverage.Sources, f.Coverage.Ports, f.Coverage.Pods)
	}
	if err := tw.Flush(); err != nil {
		return err
	}
	half := (len(r.Figures) - 1) / 2
	for i := 1; i <= half; i++ {
		one, many := r.Figures[i], r.Figures[i+half]
		fmt.Fprintf(w, "%s: 1,000 policies cost %.2f times what one does over the empty program\n", one.Name, many.OverEmpty/one.OverEmpty)
	}
	_, err := fmt.Fprintf(w, "CPU ns per packet of BPF_PROG_TEST_RUN, the driver's own cost included; %d identities, %d local pods; minimum and median of %d interleaved rounds of %d packets; images %v bytes\n",
		identities, localPods, r.Rounds, r.Packets, r.Images)
	return err
}
