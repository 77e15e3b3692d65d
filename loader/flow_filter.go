// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"slices"
	"sync/atomic"

	"github.com/weirnet/weir/bpf"
)

// filterHalf is one half of flow_filter, and of flow_summary. The programs set bits in both halves meanwhile.
type filterHalf struct{ words, summary []uint64 }

func (t *Tables) filterHalf(half uint32) filterHalf {
	return filterHalf{
		words:   t.memory["flow_filter"].word[half*bpf.FlowFilterWords:][:bpf.FlowFilterWords],
		summary: t.memory["flow_summary"].word[half*bpf.FlowSummaryWords:][:bpf.FlowSummaryWords],
	}
}

func (f filterHalf) clear() {
	for _, words := range [][]uint64{f.words, f.summary} {
		for i := range words {
			atomic.StoreUint64(&words[i], 0)
		}
	}
}

func (f filterHalf) set(hash uint64) {
	word, bit := filterPlace(hash)
	atomic.OrUint64(&f.words[word], 1<<bit)
	atomic.OrUint64(&f.summary[word/64], 1<<(word%64))
}

// filterPlace is where the bit of a hash is, as flow_filter_word and flow_filter_bit of bpf/flow.h have it.
func filterPlace(hash uint64) (word, bit uint64) {
	return hash >> (64 - bpf.FlowFilterBits), hash >> (58 - bpf.FlowFilterBits) % 64
}

func (f filterHalf) isEmpty() bool {
	return !slices.ContainsFunc(f.summary, func(w uint64) bool { return w != 0 })
}

// has says what flow_filter_hit of bpf/conntrack.h does.
func (f filterHalf) has(hash uint64) bool {
	word, bit := filterPlace(hash)
	return f.summary[word/64]>>(word%64)&1 != 0 && f.words[word]>>bit&1 != 0
}

// flowHash is flow_hash of bpf/flow.h; a test runs the programs against it.
func flowHash(k *bpf.FlowKey) uint64 {
	return (uint64(k.Daddr)<<32|uint64(k.Saddr))*0x9E3779B97F4A7C15 ^
		(uint64(k.Dport)<<16|uint64(k.Sport))*0xC2B2AE3D27D4EB4F
}
