// SPDX-License-Identifier: Apache-2.0

package main

import (
	"context"
	"encoding/json"
	"flag"
	"fmt"
	"io"

	"github.com/weirnet/weir/bench"
)

// runBench measures the datapath's CPU time per packet and prints it.
func runBench(_ context.Context, args []string, _ io.Reader, stdout, stderr io.Writer) int {
	flags := flag.NewFlagSet("weir bench", flag.ContinueOnError)
	flags.SetOutput(stderr)
	var o bench.Options
	var packets uint
	flags.IntVar(&o.Rounds, "rounds", 100, "interleaved rounds; the minimum of them counts")
	flags.UintVar(&packets, "packets", 65536, "packets of a round, for each figure")
	asJSON := flags.Bool("json", false, "print JSON")
	usage := func(w io.Writer) {
		fmt.Fprint(w, "weir bench measures what the program on the NIC costs: CPU ns per packet under BPF_PROG_TEST_RUN, beside an\n"+
			"empty program in the same interleaved run, with one policy and with 1,000. Needs root.\n\nUsage: weir bench [flags]\n\n")
		flags.SetOutput(w)
		flags.PrintDefaults()
		flags.SetOutput(stderr)
	}
	flags.Usage = func() {}
	switch err := flags.Parse(args); {
	case err == flag.ErrHelp:
		usage(stdout)
		return exitFine
	case err != nil, flags.NArg() > 0, o.Rounds < 1, packets < 1, packets > 1<<30:
		if err == nil {
			fmt.Fprintln(stderr, "weir bench: takes flags only; --rounds and --packets are from 1 up")
		}
		usage(stderr)
		return exitUsage
	}
	o.Packets = uint32(packets)
	report, err := bench.Quick(o)
	if err == nil {
		if *asJSON {
			encoder := json.NewEncoder(stdout)
			encoder.SetIndent("", "  ")
			err = encoder.Encode(report)
		} else {
			err = report.WriteText(stdout)
		}
	}
	if err != nil {
		fmt.Fprintln(stderr, "weir bench:", err)
		return exitFailed
	}
	return exitFine
}
