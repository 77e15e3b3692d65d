// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"bytes"
	"compress/flate"
	"encoding/json"
	"errors"
	"io"
	"slices"
	"strconv"
)

// maxKeys bounds what the keys of an image may unpack to.
const maxKeys = 512 << 20

// Keys are written in chunks, each packed by itself: most of them are the same in the next image, and their bytes are kept.
// Where a list is cut depends on its elements alone, not on what has been before.
type chunkCache struct {
	writer     *flate.Writer
	identities packedList[keyed]
	rules      packedList[ruleKey]
	tenancies  packedList[tenancyKey]
	policies   packedList[Policy]
}

// packedList is a list, its bytes, and its chunks by their first elements' names.
type packedList[T any] struct {
	list   []T
	bytes  []byte
	chunks map[string]*chunk[T]
}

// chunk is a run of a list and its bytes in the image.
type chunk[T any] struct {
	items []T
	bytes []byte
}

// longestChunk bounds a chunk; one in shortChunk elements ends one.
const (
	longestChunk = 256
	shortChunk   = 32
)

// encode is the bytes of the keys; they do not depend on the cache.
func (k *keys) encode(c *chunkCache) ([]byte, error) {
	if c.writer == nil {
		w, err := flate.NewWriter(io.Discard, flate.BestSpeed)
		if err != nil {
			return nil, err
		}
		c.writer = w
	}
	rest := *k
	rest.Identities, rest.Rules, rest.Tenancies, rest.Policies = nil, nil, nil, nil
	var out bytes.Buffer
	head, err := c.pack(&rest)
	if err != nil {
		return nil, err
	}
	out.Write(head)
	if err = encodeList(c, &out, &c.identities, k.Identities, func(k *keyed) string { return strconv.Itoa(int(k.Number)) },
		equalKeyed, func(l []keyed) *keys { return &keys{Identities: l} }); err != nil {
		return nil, err
	}
	if err = encodeList(c, &out, &c.rules, k.Rules, func(r *ruleKey) string { return strconv.Itoa(int(r.Number)) },
		func(a, b *ruleKey) bool { return *a == *b }, func(l []ruleKey) *keys { return &keys{Rules: l} }); err != nil {
		return nil, err
	}
	if err = encodeList(c, &out, &c.tenancies, k.Tenancies, func(t *tenancyKey) string { return string(t.Addr.AsSlice()) },
		func(a, b *tenancyKey) bool { return *a == *b }, func(l []tenancyKey) *keys { return &keys{Tenancies: l} }); err != nil {
		return nil, err
	}
	if err = encodeList(c, &out, &c.policies, k.Policies, func(p *Policy) string { return p.Key },
		equalPolicy, func(l []Policy) *keys { return &keys{Policies: l} }); err != nil {
		return nil, err
	}
	c.writer.Reset(&out)
	if err := c.writer.Close(); err != nil {
		return nil, err
	}
	return out.Bytes(), nil
}

func equalKeyed(a, b *keyed) bool {
	return a.Number == b.Number && a.key() == b.key() && a.Local == b.Local && a.Name == b.Name && slices.Equal(a.Addrs, b.Addrs)
}

// pack writes a part of the keys so that whatever follows does not depend on it.
func (c *chunkCache) pack(k *keys) ([]byte, error) {
	var b bytes.Buffer
	c.writer.Reset(&b)
	if err := json.NewEncoder(c.writer).Encode(k); err != nil {
		return nil, err
	}
	if err := c.writer.Flush(); err != nil {
		return nil, err
	}
	return b.Bytes(), nil
}

// encodeList writes list to out, chunk by chunk. A list that is the same memory as before is the same.
func encodeList[T any](c *chunkCache, out *bytes.Buffer, have *packedList[T], list []T, name func(*T) string, equal func(a, b *T) bool,
	wrap func([]T) *keys) error {
	if len(list) > 0 && len(list) == len(have.list) && &list[0] == &have.list[0] {
		out.Write(have.bytes)
		return nil
	}
	next := packedList[T]{list, make([]byte, 0, len(have.bytes)+1<<10), make(map[string]*chunk[T], len(have.chunks))}
	for len(list) > 0 {
		n := 1
		for ; n < min(len(list), longestChunk); n++ {
			if fnv32(name(&list[n-1]))%shortChunk == 0 {
				break
			}
		}
		items, first := list[:n:n], name(&list[0])
		list = list[n:]
		old := have.chunks[first]
		if old == nil || !equalLists(old.items, items, equal) {
			packed, err := c.pack(wrap(items))
			if err != nil {
				return err
			}
			old = &chunk[T]{items, packed}
		}
		next.bytes = append(next.bytes, old.bytes...)
		next.chunks[first] = old
	}
	out.Write(next.bytes)
	*have = next
	return nil
}

// fnv32 is the FNV-1a hash of s.
func fnv32(s string) uint32 {
	h := uint32(2166136261)
	for i := range len(s) {
		h = (h ^ uint32(s[i])) * 16777619
	}
	return h
}

func decodeKeys(b []byte) (*keys, error) {
	all := &keys{}
	decoder := json.NewDecoder(io.LimitReader(flate.NewReader(bytes.NewReader(b)), maxKeys))
	if err := decoder.Decode(all); err != nil {
		return nil, err
	}
	for {
		k := keys{}
		if err := decoder.Decode(&k); errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			return nil, err
		}
		all.Identities = append(all.Identities, k.Identities...)
		all.Rules = append(all.Rules, k.Rules...)
		all.Tenancies = append(all.Tenancies, k.Tenancies...)
		all.Policies = append(all.Policies, k.Policies...)
	}
	if err := all.validate(); err != nil {
		return nil, err
	}
	all.index()
	return all, nil
}
