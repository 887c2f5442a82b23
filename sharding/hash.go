package sharding

import (
	"encoding/binary"
	"math/bits"
)

// PartitionHash returns the 64-bit value by which PostgreSQL chooses the partition of a table partitioned by HASH over
// the one column: compute_partition_hash_value of partbounds.c, over hashint8extended, uuid_hash_extended and
// hashtextextended. The partition is its remainder by the modulus.
func PartitionHash(k Key) uint64 {
	const seed = 0x7A5B22367996DCFD // HASH_PARTITION_SEED
	var h uint64
	switch k.typ {
	case Bigint:
		v := k.Bigint()
		low, high := uint32(v), uint32(v>>32)
		if v < 0 {
			high = ^high
		}
		h = hashUint32(low^high, seed)
	case UUID:
		v := k.UUID()
		h = hashBytes(string(v[:]), seed)
	case Text:
		h = hashBytes(k.text, seed)
	}
	return h + 0x49a0f4dd15e5a8e3 // hash_combine64(0, h)
}

// hashUint32 is hash_bytes_uint32_extended of hashfn.c.
func hashUint32(v uint32, seed uint64) uint64 {
	s := newJenkins(4, seed)
	s.a += v
	return s.sum()
}

// hashBytes is hash_bytes_extended of hashfn.c, Bob Jenkins' lookup3, for little endian machines.
func hashBytes(b string, seed uint64) uint64 {
	s := newJenkins(uint32(len(b)), seed)
	for len(b) >= 12 {
		s.a += word(b)
		s.b += word(b[4:])
		s.c += word(b[8:])
		s.mix()
		b = b[12:]
	}
	// The rest, padded with zeros; the lowest byte of c belongs to the length.
	var rest [12]byte
	copy(rest[:], b)
	s.a += binary.LittleEndian.Uint32(rest[:])
	s.b += binary.LittleEndian.Uint32(rest[4:])
	s.c += binary.LittleEndian.Uint32(rest[8:]) << 8
	return s.sum()
}

func word(b string) uint32 {
	return uint32(b[0]) | uint32(b[1])<<8 | uint32(b[2])<<16 | uint32(b[3])<<24
}

type jenkins struct{ a, b, c uint32 }

func newJenkins(size uint32, seed uint64) jenkins {
	start := 0x9e3779b9 + size + 3923095
	s := jenkins{start, start, start}
	s.a += uint32(seed >> 32)
	s.b += uint32(seed)
	s.mix()
	return s
}

func (s *jenkins) mix() {
	a, b, c := s.a, s.b, s.c
	a -= c
	a ^= bits.RotateLeft32(c, 4)
	c += b
	b -= a
	b ^= bits.RotateLeft32(a, 6)
	a += c
	c -= b
	c ^= bits.RotateLeft32(b, 8)
	b += a
	a -= c
	a ^= bits.RotateLeft32(c, 16)
	c += b
	b -= a
	b ^= bits.RotateLeft32(a, 19)
	a += c
	c -= b
	c ^= bits.RotateLeft32(b, 4)
	b += a
	s.a, s.b, s.c = a, b, c
}

// sum is final() of hashfn.c.
func (s *jenkins) sum() uint64 {
	a, b, c := s.a, s.b, s.c
	c ^= b
	c -= bits.RotateLeft32(b, 14)
	a ^= c
	a -= bits.RotateLeft32(c, 11)
	b ^= a
	b -= bits.RotateLeft32(a, 25)
	c ^= b
	c -= bits.RotateLeft32(b, 16)
	a ^= c
	a -= bits.RotateLeft32(c, 4)
	b ^= a
	b -= bits.RotateLeft32(a, 14)
	c ^= b
	c -= bits.RotateLeft32(b, 24)
	return uint64(b)<<32 | uint64(c)
}
