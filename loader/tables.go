// SPDX-License-Identifier: Apache-2.0

// Package loader is the hands of weir: the only package that owns descriptors of maps, programs and links.
//
// Tables are the maps that the programs read. They outlive the process when they are pinned; what they hold can be read
// back, so that a restarted agent goes on where a killed one stopped.
package loader

import (
	"errors"
	"fmt"
	"log/slog"
	"maps"
	"math/bits"
	"sync"
	"time"

	"github.com/cilium/ebpf"
	"github.com/weirnet/weir/bpf"
	"github.com/weirnet/weir/policy"
)

// ErrTooLarge is a plan that does not fit into the tables. Nothing of it has been applied.
var ErrTooLarge = errors.New("too large for the tables")

// Config says where the tables are and how large.
type Config struct {
	PinPath   string // directory for the pins; empty: nothing is pinned
	Sizes     Sizes
	VXLANPort uint16           // UDP port of the overlay; 0: 8472
	Log       *slog.Logger     // nil: slog.Default()
	Now       func() time.Time // clock of the grace periods; nil: time.Now
}

// Sizes are those of the maps whose size is chosen at start. Zero stands for the default.
type Sizes struct {
	ImageBytes  uint32 // of each of the two policy images, a power of two; 16 MiB
	Addr4Blocks uint32 // blocks of 2 KiB for address prefixes longer than /16, rounded up to a power of two; 8192
	Flows       uint32 // assured flows; 262144
	FlowsNew    uint32 // flows that nobody has answered yet; 65536
	Fragments   uint32 // packets whose later fragments are awaited; 8192
}

const defaultAddr4Blocks = 8192

// Tables are the maps that the agent and the programs share. The methods may be called concurrently.
type Tables struct {
	log       *slog.Logger
	now       func() time.Time
	monotonic func() uint64
	vxlanPort uint16
	maps      map[string]*ebpf.Map
	barrier   *barrier
	writes    *writes

	mu        sync.Mutex // guards all below, and all writes
	memory    map[string]*words
	shared    *sharedState
	image     *imageSlot
	addresses *addressTable
	nodes     *nodeTable
	endpoints *endpointTable
	services  *serviceTable
	lingering map[prefix4]linger
	flowStats FlowStats
	step      *policy.Step // of the plan that the tables hold; nil: not known
	retireDue bool         // nodes may have lost their last address since the last Apply
	bumpDue   bool         // addresses may have changed without the second bump of their generation
}

// Open creates the tables, or opens them if they are pinned already. Pins of another ABI, or of other sizes, are refused.
// The tables of an agent that was killed are taken as they are; the next Apply completes what it left undone.
func Open(cfg Config) (*Tables, error) {
	specs, err := mapSpecs(cfg.Sizes)
	if err != nil {
		return nil, err
	}
	t := &Tables{
		log: cfg.Log, now: cfg.Now, monotonic: monotonic, vxlanPort: cfg.VXLANPort,
		memory: make(map[string]*words), writes: &writes{},
		lingering: make(map[prefix4]linger), bumpDue: true,
	}
	if t.log == nil {
		t.log = slog.Default()
	}
	if t.now == nil {
		t.now = time.Now
	}
	if t.vxlanPort == 0 {
		t.vxlanPort = bpf.DefaultKnobs().VXLANPort
	}
	if cfg.PinPath != "" {
		t.maps, err = openPinned(cfg.PinPath, specs)
	} else {
		t.maps, err = createMaps(specs)
	}
	if err != nil {
		return nil, fmt.Errorf("open tables: %w", err)
	}
	if err := t.open(); err != nil {
		return nil, fmt.Errorf("open tables: %w", errors.Join(err, t.Close()))
	}
	return t, nil
}

// SetOverlayPort tells that the overlay's UDP port is another now. Service addresses that lead to it are written by the next
// Apply of a plan that is no step from the last one.
func (t *Tables) SetOverlayPort(port uint16) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.vxlanPort, t.step = port, nil
}

// open reads what the maps hold.
func (t *Tables) open() (err error) {
	for _, name := range []string{"addr4", "addr4_blocks", "policy", "endpoints", "nodes", "state", "flow_filter", "flow_summary", "flow_counts"} {
		if t.memory[name], err = mapWords(t.maps[name], t.writes); err != nil {
			return err
		}
	}
	if t.barrier, err = newBarrier(); err != nil {
		return err
	}
	t.shared = &sharedState{t.memory["state"]}
	if t.image, err = newImageSlot(t.memory["policy"], t.shared, t.barrier.wait); err != nil {
		return err
	}
	trie, err := newTrie(t.memory["addr4"], t.memory["addr4_blocks"], t.barrier.wait)
	if err != nil {
		return err
	}
	if t.addresses, err = newAddressTable(trie, t.maps["cidr4"], t.shared, t.writes); err != nil {
		return err
	}
	t.nodes = newNodeTable(t.memory["nodes"], t.now())
	if t.endpoints, err = newEndpointTable(t.memory["endpoints"], t.maps["interfaces"], t.writes); err != nil {
		return err
	}
	t.services, err = newServiceTable(t.maps["services"], t.shared, t.writes)
	return err
}

// mapSpecs returns the maps to create, by name, at the sizes asked for.
func mapSpecs(sizes Sizes) (map[string]*ebpf.MapSpec, error) {
	spec, err := bpf.Spec()
	if err != nil {
		return nil, err
	}
	specs := spec.Maps
	set := func(name string, n uint32) {
		if n != 0 {
			specs[name].MaxEntries = n
		}
	}
	if sizes.Addr4Blocks == 0 {
		sizes.Addr4Blocks = defaultAddr4Blocks
	}
	blocks := uint32(1) << bits.Len32(sizes.Addr4Blocks-1) // the programs mask an offset into the pool
	specs["addr4_blocks"].ValueSize = blocks * bpf.Addr4Block * 8
	set("flows", sizes.Flows)
	set("flows_new", sizes.FlowsNew)
	set("fragments", sizes.Fragments)
	images := specs["policy"]
	if sizes.ImageBytes != 0 {
		images.ValueSize = 2 * sizes.ImageBytes
	}
	if n := images.ValueSize / 2; n&(n-1) != 0 || n < 1<<12 || n > 64<<20 {
		return nil, fmt.Errorf("size the policy image: %d is not a power of two from 4 KiB to 64 MiB", n)
	}
	return specs, nil
}

// Close gives the descriptors and the memory up. Pinned maps stay, and programs go on.
func (t *Tables) Close() error {
	t.mu.Lock()
	defer t.mu.Unlock()
	var errs []error
	for _, w := range t.memory {
		errs = append(errs, w.close())
	}
	if t.barrier != nil {
		errs = append(errs, t.barrier.close())
		t.barrier = nil
	}
	for _, m := range t.maps {
		errs = append(errs, m.Close())
	}
	return errors.Join(errs...)
}

// Maps returns the maps by the names that programs know them by, to load programs with. They belong to t.
func (t *Tables) Maps() map[string]*ebpf.Map {
	return maps.Clone(t.maps)
}

// FlowCapacity is how many assured flows there can be, for bpf.Knobs: a pod may own an eighth.
func (t *Tables) FlowCapacity() uint32 { return t.maps["flows"].MaxEntries() }

// LiveImage is the image that the programs see; nil if there is none yet.
func (t *Tables) LiveImage() *policy.Image {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.image.live
}
