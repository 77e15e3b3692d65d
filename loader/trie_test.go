// SPDX-License-Identifier: Apache-2.0

package loader

import (
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/weirnet/weir/bpf"
)

// oracle4 is the longest prefix match that cannot be wrong.
type oracle4 map[prefix4]addressEntry

func (o oracle4) lookup(addr uint32) (best addressEntry) {
	longest := -1
	for p, e := range o {
		if addr&mask4(p.bits()) == p.addr() && p.bits() > longest {
			longest, best = p.bits(), e
		}
	}
	return best
}

func plainWords(n int) *words { return &words{word: make([]uint64, n), writes: &writes{}} }

func plainTrie(t testing.TB, blocks int, wait func() error) *trie {
	t.Helper()
	trie, err := newTrie(plainWords(bpf.Addr4Root), plainWords(blocks*bpf.Addr4Block), wait)
	if err != nil {
		t.Fatal(err)
	}
	return trie
}

func noWait() error { return nil }

func newRand(t testing.TB) *rand.Rand {
	t.Helper()
	seed := uint64(time.Now().UnixNano())
	if given := os.Getenv("WEIR_TEST_SEED"); given != "" {
		var err error
		if seed, err = strconv.ParseUint(given, 10, 64); err != nil {
			t.Fatal(err)
		}
	}
	t.Logf("seed %d; WEIR_TEST_SEED repeats it", seed)
	return rand.New(rand.NewPCG(seed, 0))
}

// randomPrefix draws from few networks, so that prefixes cover each other and share blocks.
func randomPrefix(r *rand.Rand) prefix4 {
	bits := []int{0, 8, 12, 15, 16, 17, 20, 23, 24, 25, 28, 31, 32, 32, 32}[r.IntN(15)]
	return newPrefix4(randomAddr(r), bits)
}

func randomAddr(r *rand.Rand) uint32 {
	return 10<<24 | uint32(r.IntN(3))<<16 | uint32(r.IntN(4))<<8 | uint32(r.IntN(24))
}

func randomEntry(r *rand.Rand, p prefix4) addressEntry {
	return addressEntry(r.Uint32()&0xfffffff|1) | addressEntry(p.bits())<<56
}

// probes are addresses at and around what randomPrefix draws.
func probes(r *rand.Rand) []uint32 {
	addrs := []uint32{0, 1, 0xffffffff, 11 << 24, 9<<24 | 0xffffff, 10<<24 | 3<<16}
	for range 120 {
		addrs = append(addrs, randomAddr(r), randomAddr(r)|uint32(r.IntN(256)))
	}
	return addrs
}

// watcher reads addresses like a program does, while somebody writes, and holds each answer against the two that are right
// at that moment.
type watcher struct {
	addrs    []uint32
	old, new []atomic.Uint64
	turn     atomic.Uint64 // odd while the right answers change
	reading  sync.RWMutex  // held for the time of a look-up
	stop     chan struct{}
	done     sync.WaitGroup
	reads    atomic.Int64
	wrong    atomic.Pointer[string]
}

func watch(addrs []uint32, lookup func(uint32) addressEntry) *watcher {
	w := &watcher{addrs: addrs, old: make([]atomic.Uint64, len(addrs)), new: make([]atomic.Uint64, len(addrs)), stop: make(chan struct{})}
	w.done.Go(func() {
		for i := 0; ; i = (i + 1) % len(addrs) {
			select {
			case <-w.stop:
				return
			default:
			}
			turn := w.turn.Load()
			old, next := w.old[i].Load(), w.new[i].Load()
			w.reading.RLock()
			got := uint64(lookup(addrs[i]))
			w.reading.RUnlock()
			if w.turn.Load() == turn && turn%2 == 0 && got != old && got != next {
				s := fmt.Sprintf("%s answers %#x between %#x and %#x", newPrefix4(addrs[i], 32), got, old, next)
				w.wrong.Store(&s)
				return
			}
			w.reads.Add(1)
		}
	})
	return w
}

// expect says what is right from now on: the present answers, and those of next.
func (w *watcher) expect(next oracle4) {
	w.turn.Add(1)
	for i, addr := range w.addrs {
		w.old[i].Store(w.new[i].Load())
		w.new[i].Store(uint64(next.lookup(addr)))
	}
	w.turn.Add(1)
}

// wait returns when every look-up that runs now has ended, as a swap does for programs.
func (w *watcher) wait() error {
	w.reading.Lock()
	defer w.reading.Unlock()
	return nil
}

func (w *watcher) close(t *testing.T) {
	t.Helper()
	close(w.stop)
	w.done.Wait()
	if s := w.wrong.Load(); s != nil {
		t.Errorf("a reader saw a third answer: %s", *s)
	}
	if w.reads.Load() < 1000 {
		t.Errorf("the reader read only %d times", w.reads.Load())
	}
}

// The trie answers as a linear search does, after each of many changes, with a pool so small that it often has no room;
// and a reader at any time meets the old answer or the new one.
func TestTrieAnswersAsALinearSearch(t *testing.T) {
	r := newRand(t)
	addrs, oracle := probes(r), oracle4{}
	trie := plainTrie(t, 8, nil)
	reader := watch(addrs, trie.lookup)
	trie.wait = reader.wait
	refused := 0
	for step := range 1500 {
		p := randomPrefix(r)
		next := oracle4{}
		for q, e := range oracle {
			next[q] = e
		}
		if r.IntN(5) < 2 || len(oracle) > 60 {
			for q := range oracle {
				p = q
				break
			}
			delete(next, p)
			reader.expect(next)
			trie.remove(p)
		} else {
			e := randomEntry(r, p)
			if trie.missing(p) > trie.available() {
				refused++
				reader.expect(oracle)
			} else {
				next[p] = e
				reader.expect(next)
			}
			done, err := trie.set(p, e)
			if err != nil {
				t.Fatal(err)
			}
			if _, want := next[p]; done != want && oracle[p] == 0 {
				t.Fatalf("step %d: set %s is %v, room says %v", step, p, done, want)
			}
		}
		oracle = next
		for _, addr := range addrs {
			if got, want := trie.lookup(addr), oracle.lookup(addr); got != want {
				t.Fatalf("step %d, %s: %s is %#x, want %#x", step, p, newPrefix4(addr, 32), got, want)
			}
		}
	}
	if refused == 0 {
		t.Error("the pool was never exhausted")
	}
	for p := range oracle {
		delete(oracle, p)
		reader.expect(oracle)
		trie.remove(p)
	}
	reader.close(t)
	if trie.available() != 8 {
		t.Errorf("%d of 8 blocks came back", trie.available())
	}
	for i, w := range trie.root.word {
		if w != 0 {
			t.Fatalf("root entry %d is %#x after everything was removed", i, w)
		}
	}
}

// cut is what a failing write panics with.
type cut struct{}

// cutAfter runs f, which is killed before its write number n. It returns false if f ended before.
func cutAfter(w *writes, n int, f func()) (killed bool) {
	defer func() {
		w.before = nil
		if r := recover(); r != nil {
			if _, ok := r.(cut); !ok {
				panic(r)
			}
			killed = true
		}
	}()
	w.before = func() {
		if n == 0 {
			panic(cut{})
		}
		n--
	}
	f()
	return false
}

// Whatever write a change dies before, a trie that is made from what is left answers right once all is set again.
func TestTrieRecoversFromEveryCut(t *testing.T) {
	r := newRand(t)
	addrs := probes(r)
	cuts := 0
	long := func() prefix4 { // to be cut at every write of a short one takes hours
		for {
			if p := randomPrefix(r); p.bits() >= 12 {
				return p
			}
		}
	}
	for range 60 {
		oracle := oracle4{}
		for range 30 {
			p := long()
			oracle[p] = randomEntry(r, p)
		}
		change, remove := long(), r.IntN(2) == 0
		if remove {
			for p := range oracle {
				change = p
			}
		}
		entry := randomEntry(r, change)
		for n := 0; ; n++ {
			root, blocks := plainWords(bpf.Addr4Root), plainWords(64*bpf.Addr4Block)
			blocks.writes = root.writes
			first, err := newTrie(root, blocks, noWait)
			if err != nil {
				t.Fatal(err)
			}
			setAll(t, first, oracle)
			killed := cutAfter(root.writes, n, func() {
				if remove {
					first.remove(change)
				} else {
					first.set(change, entry)
				}
			})
			second, err := newTrie(root, blocks, noWait)
			if err != nil {
				t.Fatalf("recover after write %d: %v", n, err)
			}
			want := oracle4{}
			for p, e := range oracle {
				want[p] = e
			}
			if remove {
				delete(want, change)
			}
			for p := range second.prefixes.entries {
				if want[p] == 0 {
					second.remove(p)
				}
			}
			setAll(t, second, want)
			for _, addr := range addrs {
				if got, want := second.lookup(addr), want.lookup(addr); got != want {
					t.Fatalf("cut before write %d: %s is %#x, want %#x", n, newPrefix4(addr, 32), got, want)
				}
			}
			for p := range want {
				second.remove(p)
			}
			if second.available() != 64 {
				t.Fatalf("cut before write %d: %d of 64 blocks came back", n, second.available())
			}
			if !killed {
				break
			}
			cuts++
		}
	}
	if cuts < 200 {
		t.Errorf("only %d cuts were tried", cuts)
	}
}

func setAll(t *testing.T, trie *trie, oracle oracle4) {
	t.Helper()
	for p, e := range oracle {
		if done, err := trie.set(p, e); !done || err != nil {
			t.Fatalf("set %s: %v, %v", p, done, err)
		}
	}
}

// A damaged table is refused: a pointer out of the pool, one block under two pointers, a pointer below the last level, an
// answer longer than its level.
func TestTrieRefusesDamage(t *testing.T) {
	for name, damage := range map[string]func(root, blocks []uint64){
		"pointer out of the pool": func(root, _ []uint64) { root[7] = uint64(newPointer(4)) },
		"pointer into a block":    func(root, _ []uint64) { root[7] = uint64(newPointer(1)) + 8 },
		"block with two parents":  func(root, _ []uint64) { root[7], root[8] = uint64(newPointer(0)), uint64(newPointer(0)) },
		"pointer too deep": func(root, blocks []uint64) {
			root[7], blocks[0], blocks[256] = uint64(newPointer(0)), uint64(newPointer(1)), uint64(newPointer(2))
		},
		"answer too long": func(root, _ []uint64) { root[7] = 17<<56 | 1 },
	} {
		t.Run(name, func(t *testing.T) {
			root, blocks := plainWords(bpf.Addr4Root), plainWords(4*bpf.Addr4Block)
			damage(root.word, blocks.word)
			if _, err := newTrie(root, blocks, noWait); err == nil {
				t.Error("it was taken")
			}
		})
	}
}

// Fifty thousand pods of five thousand nodes.
func BenchmarkTrieFill(b *testing.B) {
	for b.Loop() {
		trie := plainTrie(b, 8192, noWait)
		for i := range uint32(50000) {
			p := newPrefix4(10<<24|(i/10)<<8|i%10+2, 32)
			if done, err := trie.set(p, addressEntry(i+256)|32<<56); !done || err != nil {
				b.Fatal(done, err)
			}
		}
	}
}
