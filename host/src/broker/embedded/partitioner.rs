//! Key → partition as Kafka's Java client does it, so that a key keeps its place when a topic moves between brokers.

/// MurmurHash2, 32 bit, with the seed of Kafka's Java client (`Utils.murmur2`, seed 0x9747b28c). Public domain algorithm
/// by Austin Appleby.
pub fn murmur2(data: &[u8]) -> i32 {
    const SEED: u32 = 0x9747_b28c;
    const M: u32 = 0x5bd1_e995;
    const R: u32 = 24;
    // Java's arrays are at most 2^31-1 long; longer keys cannot occur there.
    let length = u32::try_from(data.len()).unwrap_or(u32::MAX);
    let mut hash = SEED ^ length;
    let (words, tail) = data.as_chunks::<4>();
    for word in words {
        let mut k = u32::from_le_bytes(*word).wrapping_mul(M);
        k ^= k >> R;
        hash = hash.wrapping_mul(M) ^ k.wrapping_mul(M);
    }
    if !tail.is_empty() {
        for (at, byte) in (0u32..).zip(tail) {
            hash ^= u32::from(*byte) << (8 * at);
        }
        hash = hash.wrapping_mul(M);
    }
    hash ^= hash >> 13;
    hash = hash.wrapping_mul(M);
    hash ^= hash >> 15;
    hash.cast_signed()
}

/// The partition of a key; `partitions` of 0 counts as 1.
pub fn partition_of(key: &[u8], partitions: u32) -> u32 {
    (murmur2(key).cast_unsigned() & 0x7fff_ffff) % partitions.max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Values that Kafka's own tests of `Utils.murmur2` list.
    #[test]
    fn agrees_with_the_java_client() {
        for (key, hash) in [
            ("21", -973_932_308),
            ("foobar", -790_332_482),
            ("a-little-bit-long-string", -985_981_536),
            ("a-little-bit-longer-string", -1_486_304_829),
            ("lkjh234lh9fiuh90y23oiuhsafujhadof229phr9h19h89h8", -58_897_971),
            ("abc", 479_470_107),
        ] {
            assert_eq!(murmur2(key.as_bytes()), hash, "{key}");
        }
    }

    /// The sign bit is cut off, not the sign: (hash & 0x7fffffff) % 7, by hand from the values above.
    #[test]
    fn negative_hashes_go_where_java_puts_them() {
        assert_eq!(
            ["21", "foobar", "abc"].map(|key| partition_of(key.as_bytes(), 7)),
            [3, 0, 4]
        );
    }

    #[test]
    fn every_partition_is_in_range() {
        for n in 0..1_000u32 {
            assert!(partition_of(&n.to_be_bytes(), 6) < 6);
            assert_eq!(partition_of(&n.to_be_bytes(), 0), 0);
        }
    }
}
