// SPDX-License-Identifier: Apache-2.0

package policy

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
)

// ErrDamaged is what Decode's errors wrap.
var ErrDamaged = errors.New("damaged policy image")

// Layout of the image; the numbers are those of bpf/image.h.
const (
	ImageMagic = 0x52494557
	ImageABI   = 2

	imageHeaderSize   = 64
	imageIdentitySize = 2
	imageSubjectSize  = 2 * imageRowSize
	imageProtocolSize = 8
	imageRowSize      = 16
	imageBlock        = 32

	offMagic         = 0
	offABI           = 4
	offGeneration    = 8
	offSize          = 12
	offIdentities    = 16
	offIdentityCount = 20
	offProtocols     = 24
	offClasses       = 28
	offSubjects      = 32
	offRowCount      = 36
	offKeys          = 40
	offKeysLen       = 44
	offChecksum      = 48
	offAudited       = 52
)

// Cell is a verdict and the rule that decided it.
type Cell uint16

const (
	cellAllow = 0x8000
	cellAudit = 0x4000
	cellRule  = 0x3fff

	// rowAudit, in a row's columns, marks one of the enforced plane that only policies under audit made.
	rowAudit = 1 << 31

	// RuleHost is the number of the node's standing permission to reach its own pods.
	RuleHost = 1
	// MaxRule is the number that rules share once the others have run out.
	MaxRule = cellRule
)

func cell(allow bool, rule uint16) Cell {
	c := Cell(rule & cellRule)
	if allow {
		c |= cellAllow
	}
	return c
}

// Allow says whether the packet may pass.
func (c Cell) Allow() bool { return c&cellAllow != 0 }

// Rule is the number of the rule that decided; 0: none did, the default holds. In the audited plane a default that a policy
// under audit brings has the number of that isolation.
func (c Cell) Rule() uint16 { return uint16(c & cellRule) }

// Default says that no rule decided.
func (c Cell) Default() bool { return c.Rule() == 0 || !c.Allow() && c&cellAudit != 0 }

// Audited says of a cell of the enforced plane that it allows what the audited plane denies.
func (c Cell) Audited() bool { return c.Allow() && c&cellAudit != 0 }

// Image is a policy image. It is immutable, and whatever reads it stays inside its bytes.
type Image struct {
	bytes []byte
	keys  *keys
}

// Decode reads an image, which may be followed by bytes that do not belong to it, and checks everything that Lookup and
// the kernel rely on. The bytes are copied. Errors wrap ErrDamaged and name the field.
func Decode(b []byte) (*Image, error) {
	if len(b) < imageHeaderSize {
		return nil, fmt.Errorf("%w: %d bytes are too few for the header", ErrDamaged, len(b))
	}
	if m := binary.LittleEndian.Uint32(b[offMagic:]); m != ImageMagic {
		return nil, fmt.Errorf("%w: magic %#x, want %#x", ErrDamaged, m, ImageMagic)
	}
	if v := binary.LittleEndian.Uint32(b[offABI:]); v != ImageABI {
		return nil, fmt.Errorf("%w: ABI %d, want %d", ErrDamaged, v, ImageABI)
	}
	size := binary.LittleEndian.Uint32(b[offSize:])
	if size < imageHeaderSize || uint64(size) > uint64(len(b)) {
		return nil, fmt.Errorf("%w: size %d is not between %d and the %d bytes given", ErrDamaged, size, imageHeaderSize, len(b))
	}
	img := &Image{bytes: append([]byte(nil), b[:size]...)}
	if want, got := img.u32(offChecksum), checksum(img.bytes); want != got {
		return nil, fmt.Errorf("%w: checksum %#x, the bytes have %#x", ErrDamaged, want, got)
	}
	if err := img.check(); err != nil {
		return nil, fmt.Errorf("%w: %w", ErrDamaged, err)
	}
	k, err := decodeKeys(img.bytes[img.u32(offKeys):][:img.u32(offKeysLen)], img.u32(offIdentityCount))
	if err != nil {
		return nil, fmt.Errorf("%w: keys: %w", ErrDamaged, err)
	}
	img.keys = k
	return img, nil
}

// checksum is CRC-32C over the image with the checksum field 0.
func checksum(b []byte) uint32 {
	table := crc32.MakeTable(crc32.Castagnoli)
	sum := crc32.Update(0, table, b[:offChecksum])
	sum = crc32.Update(sum, table, []byte{0, 0, 0, 0})
	return crc32.Update(sum, table, b[offChecksum+4:])
}

// Generation is the number that tells this image from those before and after it.
func (img *Image) Generation() uint32 { return img.u32(offGeneration) }

// Bytes is the image as the kernel reads it. The caller must not write to it.
func (img *Image) Bytes() []byte { return img.bytes }

// Size is the number of bytes in use.
func (img *Image) Size() int { return len(img.bytes) }

// Identities is the number past the highest identity number that is defined.
func (img *Image) Identities() int { return int(img.u32(offIdentityCount)) }

// Rows is the number of different rows: of policies in one direction that pods of this node have.
func (img *Image) Rows() int { return int(img.u32(offRowCount)) }

// Lookup says what the policy of the pods that have identity subject makes, in direction dir, of traffic with identity
// peer: the very chain of loads that the kernel does. Port is the destination port of the first packet (of the peer at
// egress, of the subject at ingress), or the ICMP type. What no policy selects is allowed by rule 0. Policies under audit do
// not count, but the cell says where they would.
func (img *Image) Lookup(dir Direction, subject, peer uint32, protocol uint8, port uint16) Cell {
	return img.cell(img.row(offSubjects, dir, subject), peer, protocol, port)
}

// LookupAudited is Lookup as if no policy were under audit. The kernel asks this only where a cell of Lookup is Audited.
func (img *Image) LookupAudited(dir Direction, subject, peer uint32, protocol uint8, port uint16) Cell {
	return img.cell(img.row(offAudited, dir, subject), peer, protocol, port)
}

func (img *Image) cell(row, peer uint32, protocol uint8, port uint16) Cell {
	if row == 0 {
		return cell(true, 0)
	}
	proto := img.u32(offProtocols) + uint32(protocol)*imageProtocolSize
	class := img.u16(img.u32(offClasses) + 2*(img.u32(proto)+(uint32(port)&img.u32(proto+4))))
	local := img.u16(img.u32(row+4) + 2*uint32(class))
	peerClass := uint32(img.peerClass(peer))
	block := img.u32(img.u32(row) + peerClass/imageBlock*4)
	group := img.u16(block + peerClass%imageBlock*2)
	return Cell(img.u16(img.u32(row+8) + 2*(uint32(group)*img.columns(row)+uint32(local))))
}

// Policed says whether some policy of this node, be it under audit, selects the pods of identity subject in direction dir:
// then their flows are kept.
func (img *Image) Policed(dir Direction, subject uint32) bool {
	return img.row(offSubjects, dir, subject) != 0
}

// Enforced says whether some policy does that is not under audit.
func (img *Image) Enforced(dir Direction, subject uint32) bool {
	row := img.row(offSubjects, dir, subject)
	return row != 0 && img.u32(row+12)&rowAudit == 0
}

func (img *Image) columns(row uint32) uint32 { return img.u32(row+12) &^ rowAudit }

// row is the offset of a row in the table of subjects of a plane, offSubjects or offAudited; 0 stands for none, which has no
// columns.
func (img *Image) row(table uint32, dir Direction, subject uint32) uint32 {
	row := img.u32(table) + img.identity(subject)*imageSubjectSize + uint32(dir&1)*imageRowSize
	if img.u32(row+12) == 0 {
		return 0
	}
	return row
}

func (img *Image) peerClass(number uint32) uint16 {
	return img.u16(img.u32(offIdentities) + img.identity(number)*imageIdentitySize)
}

// identity is number if it is defined, and that of the unknown if not.
func (img *Image) identity(number uint32) uint32 {
	if number >= img.u32(offIdentityCount) {
		return 0
	}
	return number
}

func (img *Image) u16(off uint32) uint16 { return binary.LittleEndian.Uint16(img.bytes[off:]) }
func (img *Image) u32(off uint32) uint32 { return binary.LittleEndian.Uint32(img.bytes[off:]) }

// span says why an array of count elements of size bytes at offset off does not lie in the image, if it does not.
func (img *Image) span(name string, off uint32, count, size, align uint64) error {
	if off < imageHeaderSize || uint64(off)+count*size > uint64(len(img.bytes)) {
		return fmt.Errorf("%s: %d × %d bytes at offset %d reach outside the %d of the image", name, count, size, off, len(img.bytes))
	}
	if uint64(off)%align != 0 {
		return fmt.Errorf("%s: offset %d is not a multiple of %d", name, off, align)
	}
	return nil
}

// check follows every chain that Lookup can follow.
func (img *Image) check() error {
	identities := img.u32(offIdentityCount)
	if identities == 0 {
		return errors.New("identity_count 0: number 0 is missing")
	}
	if err := errors.Join(
		img.span("identities", img.u32(offIdentities), uint64(identities), imageIdentitySize, 2),
		img.span("subjects", img.u32(offSubjects), uint64(identities), imageSubjectSize, 8),
		img.span("audited", img.u32(offAudited), uint64(identities), imageSubjectSize, 8),
		img.span("protocols", img.u32(offProtocols), 256, imageProtocolSize, 8),
		img.span("keys", img.u32(offKeys), uint64(img.u32(offKeysLen)), 1, 1),
	); err != nil {
		return err
	}
	maxPeer := uint16(0)
	for i := range identities {
		maxPeer = max(maxPeer, img.peerClass(i))
	}
	maxClass, err := img.checkProtocols()
	if err != nil {
		return err
	}
	return img.checkRows(uint64(maxPeer)/imageBlock+1, uint64(maxClass)+1)
}

func (img *Image) checkProtocols() (maxClass uint16, err error) {
	reach := uint64(0) // elements of classes that some protocol reads
	for p := range uint32(256) {
		at := img.u32(offProtocols) + p*imageProtocolSize
		base, mask := img.u32(at), img.u32(at+4)
		if mask > 0xffff {
			return 0, fmt.Errorf("protocols: protocol %d has mask %#x", p, mask)
		}
		reach = max(reach, uint64(base)+uint64(mask)+1)
	}
	if err := img.span("classes", img.u32(offClasses), reach, 2, 2); err != nil {
		return 0, err
	}
	for i := range uint32(reach) {
		maxClass = max(maxClass, img.u16(img.u32(offClasses)+2*i))
	}
	return maxClass, nil
}

func (img *Image) checkRows(blocks, classes uint64) error {
	checked := map[imageRow]bool{}
	groups, columns := map[uint32]uint64{}, map[uint32]uint64{} // block list, port table → local classes
	for i := range img.u32(offIdentityCount) {
		for _, dir := range []Direction{Ingress, Egress} {
			enforced, audited := img.row(offSubjects, dir, i), img.row(offAudited, dir, i)
			if (enforced == 0) != (audited == 0) {
				return fmt.Errorf("row of number %d: only one of two planes has it", i)
			}
			if audited != 0 && img.u32(audited+12)&rowAudit != 0 {
				return fmt.Errorf("row of number %d: marked in the audited plane", i)
			}
			for _, at := range []uint32{enforced, audited} {
				if at == 0 {
					continue
				}
				r := imageRow{img.u32(at), img.u32(at + 4), img.u32(at + 8), img.u32(at + 12)}
				if checked[r] {
					continue
				}
				checked[r] = true
				if err := img.checkRow(r, blocks, classes, groups, columns); err != nil {
					return fmt.Errorf("row of number %d: %w", i, err)
				}
			}
		}
	}
	if rows := img.u32(offRowCount); uint64(rows) != uint64(len(checked)) {
		return fmt.Errorf("row_count %d, there are %d", rows, len(checked))
	}
	return nil
}

func (img *Image) checkRow(r imageRow, blocks, classes uint64, groups, columns map[uint32]uint64) error {
	width := r.columns &^ rowAudit
	count, known := columns[r.ports]
	if !known {
		if err := img.span("ports", r.ports, classes, 2, 2); err != nil {
			return err
		}
		count = img.localClasses(r.ports, uint32(classes))
		columns[r.ports] = count
	}
	if count > uint64(width) {
		return fmt.Errorf("%d local port classes in %d columns", count, width)
	}
	peers, known := groups[r.blocks]
	if !known {
		if err := img.span("blocks", r.blocks, blocks, 4, 4); err != nil {
			return err
		}
		for b := range uint32(blocks) {
			block := img.u32(r.blocks + 4*b)
			if err := img.span(fmt.Sprintf("block %d", b), block, imageBlock, 2, 2); err != nil {
				return err
			}
			peers = max(peers, img.localClasses(block, imageBlock))
		}
		groups[r.blocks] = peers
	}
	return img.span("cells", r.cells, peers*uint64(width), 2, 2)
}

// localClasses is one more than the largest of n u16 at offset at.
func (img *Image) localClasses(at, n uint32) (count uint64) {
	for i := range n {
		count = max(count, uint64(img.u16(at+2*i))+1)
	}
	return count
}
