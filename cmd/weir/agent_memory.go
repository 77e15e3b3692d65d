// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// An agent is one of thousands, each on a node whose memory is somebody else's. Go lets a heap grow to twice of what is in
// use before it collects, and keeps what it has collected for a while; the agent lets the heap grow by a quarter, and
// bounds all that it holds by what is in use, a third of that, and memorySlack. What that costs is little, for what is in
// use hardly changes: tens of milliseconds of CPU for every so many megabytes of news. While the first state is read, nearly
// all that is allocated is thrown away; then it collects half as often.
const (
	syncPercent   = 50
	steadyPercent = 25
	memorySlack   = 16 << 20        // bytes
	settleMemory  = 2 * time.Second // until nobody works at the first state any more
)

// frugal sets how the heap may grow until steady is called. Whoever sets GOGC or GOMEMLIMIT knows better.
func frugal() {
	if !told() {
		debug.SetGCPercent(syncPercent)
	}
}

func told() bool { return os.Getenv("GOGC")+os.Getenv("GOMEMLIMIT") != "" }

// steady gives back what the first state took to read, and sets how the heap may grow from now on.
func steady() {
	if !told() {
		debug.SetGCPercent(steadyPercent)
	}
	debug.FreeOSMemory()
	bound()
}

// bound adapts the bound to what is in use. The runtime breaks it rather than to collect all the time.
func bound() {
	if told() {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	use := int64(live[0].Value.Uint64())
	debug.SetMemoryLimit(use + use/3 + memorySlack)
}
