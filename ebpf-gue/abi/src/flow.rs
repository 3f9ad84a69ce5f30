//! Hashes of flows: which slot of a Maglev table, which UDP source port.
//!
//! Both must come out the same on every node and in every version that runs beside another one, so they are
//! part of the frozen formats (golden values in the tests). Neither is a defence: a client may choose its ports
//! so that all its flows meet in one slot, and gains nothing by it.

/// First UDP source port that is derived from a flow; the range is `0xC000..=0xFFFF`.
pub const SOURCE_PORT_BASE: u16 = 0xC000;

/// One round of mixing (the finaliser of murmur3 over a running value).
#[inline(always)]
const fn mix(hash: u32, word: u32) -> u32 {
    let mut h = (hash ^ word).wrapping_mul(0x85eb_ca6b);
    h ^= h >> 13;
    h = h.wrapping_mul(0xc2b2_ae35);
    h ^ (h >> 16)
}

/// Hash of a flow with IPv4 addresses. Addresses are native words of network bytes, ports host order.
#[inline(always)]
pub const fn hash_v4(
    seed: u32,
    source: u32,
    destination: u32,
    source_port: u16,
    destination_port: u16,
) -> u32 {
    let h = mix(seed, u32::from_be(source));
    let h = mix(h, u32::from_be(destination));
    mix(h, ((source_port as u32) << 16) | destination_port as u32)
}

/// Slot of `hash` in a Maglev table of `slots` entries, without a division.
#[inline(always)]
pub const fn slot(hash: u32, slots: u32) -> u32 {
    ((hash as u64 * slots as u64) >> 32) as u32
}

/// UDP source port of an encapsulated flow with this hash.
#[inline(always)]
pub const fn source_port(hash: u32) -> u16 {
    SOURCE_PORT_BASE | (hash as u16 & 0x3FFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Computed by another implementation.
    const GOLDEN_HASH: u32 = 0x532c_b5f0;

    #[test]
    fn hashes_of_flows_are_frozen() {
        let (a, b) = (u32::from_ne_bytes([203, 0, 113, 10]), u32::from_ne_bytes([192, 0, 2, 7]));
        assert_eq!(hash_v4(0, a, b, 40000, 80), GOLDEN_HASH);
        assert_eq!(source_port(GOLDEN_HASH), 0xC000 | (GOLDEN_HASH & 0x3fff) as u16);
    }

    #[test]
    fn source_ports_spread_evenly_over_their_range() {
        let mut buckets = [0u32; 64];
        for port in 1024..31024u16 {
            let hash = hash_v4(0, 0x0100_4064, 0x0501_f40a, port, 8080);
            buckets[usize::from((source_port(hash) - SOURCE_PORT_BASE) >> 8)] += 1;
        }
        let expected = 30_000.0 / 64.0;
        let chi: f64 = buckets.iter().map(|n| (f64::from(*n) - expected).powi(2) / expected).sum();
        // 63 degrees of freedom: 0.1 % of random samples lie above 103.
        assert!(chi < 103.0, "chi-square {chi}");
    }

    #[test]
    fn slots_stay_inside_the_table() {
        assert_eq!(slot(0, 2039), 0);
        assert_eq!(slot(u32::MAX, 2039), 2038);
    }
}
