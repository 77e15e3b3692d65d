// SPDX-License-Identifier: Apache-2.0

package main

import (
	"os"
	"runtime/debug"
	"runtime/metrics"
	"time"
)

// An agent is one of thousands, each on a node whose memory is somebody else's. Go lets a heap grow to twice of what is in
// use before it collects, and keeps what it has collected for a while; once the first state is enforced, the agent lets the
// heap grow by a quarter, and bounds all that it holds by what is in use, a third of that, and memorySlack. What that costs
// is little, for what is in use hardly changes: tens of milliseconds of CPU for every so many megabytes of news.
const (
	steadyPercent = 25
	memorySlack   = 20 << 20        // bytes
	settleMemory  = 2 * time.Second // until nobody works at the first state any more
)

// memory is how much of it the agent may hold.
type memory struct {
	limit int64 // by GOMEMLIMIT
	fixed bool  // GOGC is set: whoever sets it knows better
}

// newMemory is what the environment says.
func newMemory() memory {
	return memory{limit: debug.SetMemoryLimit(-1), fixed: os.Getenv("GOGC") != ""}
}

// steady gives back what the first state took to read, and sets how the heap may grow from now on.
func (m memory) steady() {
	if !m.fixed {
		debug.SetGCPercent(steadyPercent)
	}
	debug.FreeOSMemory()
	m.bound()
}

// bound adapts the bound to what is in use. The runtime breaks it rather than to collect all the time.
func (m memory) bound() {
	if m.fixed {
		return
	}
	live := []metrics.Sample{{Name: "/gc/heap/live:bytes"}}
	metrics.Read(live)
	use := int64(live[0].Value.Uint64())
	debug.SetMemoryLimit(min(m.limit, use+use/3+memorySlack))
}
