// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/binary"
	"fmt"
	"math"
	"slices"
)

// writer collects the parts of an image, each distinct one once. What it returns are offsets within a part's own section;
// image adds where the sections begin.
type writer struct {
	rowList   []imageRow
	lists     section // of u32: offsets of blocks
	blocks    section // of u16: local peer classes
	portLists section // of u16: local port classes
	cells     section // of u16
	rowIndex  map[imageRow]uint16
	uniform   map[uint16]uint32 // blocks that are one value throughout
}

type imageRow struct{ blocks, ports, cells, columns uint32 }

// section is a run of bytes with the offsets of what is in it.
type section struct {
	bytes []byte
	index map[string]uint32
}

func (s *section) add(item []byte) uint32 {
	if at, ok := s.index[string(item)]; ok {
		return at
	}
	if s.index == nil {
		s.index = map[string]uint32{}
	}
	at := uint32(len(s.bytes))
	s.bytes = append(s.bytes, item...)
	s.index[string(item)] = at
	return at
}

// size is the bytes written so far, keys and port classes excepted.
func (w *writer) size() int {
	return len(w.lists.bytes) + len(w.blocks.bytes) + len(w.portLists.bytes) + len(w.cells.bytes)
}

// wire is values as they stand in an image.
func wire[T ~uint16](values []T) []byte {
	b := make([]byte, 0, 2*len(values))
	for _, v := range values {
		b = binary.LittleEndian.AppendUint16(b, uint16(v))
	}
	return b
}

// row writes a row: the local class of each peer class and of each port class, and the cells of each pair of these, those
// of a local peer class one after the other. mark is rowAudit or nothing.
func (w *writer) row(peers, ports []uint16, cells [][]Cell, mark uint32) (uint16, error) {
	blocks := make([]byte, 0, 4*(len(peers)/imageBlock+1))
	var block [imageBlock]uint16
	for first := 0; first < len(peers); first += imageBlock {
		for i := range block {
			block[i] = peers[min(first+i, len(peers)-1)]
		}
		blocks = binary.LittleEndian.AppendUint32(blocks, w.block(&block))
	}
	r := imageRow{w.lists.add(blocks), w.portLists.add(wire(ports)), w.cells.add(wire(slices.Concat(cells...))), uint32(len(cells[0])) | mark}
	if n, ok := w.rowIndex[r]; ok {
		return n, nil
	}
	if w.rowIndex == nil {
		w.rowIndex = map[imageRow]uint16{}
	}
	if len(w.rowList) >= math.MaxUint16 {
		return 0, fmt.Errorf("write rows: %w distinct policies of pods on one node", ErrTooMany)
	}
	w.rowList = append(w.rowList, r)
	n := uint16(len(w.rowList)) // row 0 is none
	w.rowIndex[r] = n
	return n, nil
}

// block writes a block; most are one value throughout.
func (w *writer) block(b *[imageBlock]uint16) uint32 {
	for _, v := range b {
		if v != b[0] {
			return w.blocks.add(wire(b[:]))
		}
	}
	at, ok := w.uniform[b[0]]
	if !ok {
		if w.uniform == nil {
			w.uniform = map[uint16]uint32{}
		}
		at = w.blocks.add(wire(b[:]))
		w.uniform[b[0]] = at
	}
	return at
}

// image puts the sections one after the other and the header before them.
func (w *writer) image(generation uint32, identities []imageIdentity, ports *portSpace, k *keys, packed *packedKeys) ([]byte, error) {
	names, err := k.encode(packed)
	if err != nil {
		return nil, fmt.Errorf("write keys: %w", err)
	}
	length := 0
	for _, part := range names {
		length += len(part)
	}
	protocols, classes := ports.tables()
	at := imageHeaderSize
	begin := func(size, align int) uint32 {
		at = (at + align - 1) / align * align
		off := at
		at += size
		return uint32(off)
	}
	var (
		offIdentity  = begin(len(identities)*imageIdentitySize, 8)
		offSubject   = begin(len(identities)*imageSubjectSize, 32)
		offAudit     = offSubject
		offProtocol  = begin(4*len(protocols), 8)
		offList      = begin(len(w.lists.bytes), 4)
		offBlock     = begin(len(w.blocks.bytes), 64)
		offClass     = begin(2*len(classes), 2)
		offPortLists = begin(len(w.portLists.bytes), 2)
		offCells     = begin(len(w.cells.bytes), 2)
		offNames     = begin(length, 4)
	)
	if slices.ContainsFunc(identities, func(id imageIdentity) bool { return id.rows != id.audited }) {
		offAudit = begin(len(identities)*imageSubjectSize, 32)
	}
	if at = (at + 7) &^ 7; at > math.MaxUint32 {
		return nil, fmt.Errorf("%w: %d bytes", ErrTooLarge, at)
	}
	b := make([]byte, at)
	put := binary.LittleEndian
	for _, f := range []struct{ off, value uint32 }{
		{offMagic, ImageMagic}, {offABI, ImageABI}, {offGeneration, generation}, {offSize, uint32(at)},
		{offIdentities, offIdentity}, {offSubjects, offSubject}, {offIdentityCount, uint32(len(identities))}, {offProtocols, offProtocol}, {offClasses, offClass},
		{offRowCount, uint32(len(w.rowList))}, {offKeys, offNames}, {offKeysLen, uint32(length)},
		{offAudited, offAudit},
	} {
		put.PutUint32(b[f.off:], f.value)
	}
	subject := func(table uint32, i int, rows [2]uint16) {
		for dir, row := range rows {
			if row == 0 {
				continue
			}
			r, e := w.rowList[row-1], b[int(table)+i*imageSubjectSize+dir*imageRowSize:]
			put.PutUint32(e, offList+r.blocks)
			put.PutUint32(e[4:], offPortLists+r.ports)
			put.PutUint32(e[8:], offCells+r.cells)
			put.PutUint32(e[12:], r.columns)
		}
	}
	for i, id := range identities {
		put.PutUint16(b[int(offIdentity)+i*imageIdentitySize:], id.peerClass)
		subject(offSubject, i, id.rows)
		subject(offAudit, i, id.audited)
	}
	for i, v := range protocols {
		put.PutUint32(b[int(offProtocol)+4*i:], v)
	}
	for i, v := range classes {
		put.PutUint16(b[int(offClass)+2*i:], v)
	}
	relocate(b[offList:], w.lists.bytes, offBlock)
	copy(b[offBlock:], w.blocks.bytes)
	copy(b[offPortLists:], w.portLists.bytes)
	copy(b[offCells:], w.cells.bytes)
	at = int(offNames)
	for _, part := range names {
		at += copy(b[at:], part)
	}
	put.PutUint32(b[offChecksum:], checksum(b))
	return b, nil
}

// relocate copies offsets, adding where the section they point into begins.
func relocate(to, from []byte, base uint32) {
	for i := 0; i < len(from); i += 4 {
		binary.LittleEndian.PutUint32(to[i:], binary.LittleEndian.Uint32(from[i:])+base)
	}
}
