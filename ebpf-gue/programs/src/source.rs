//! Source addresses that nobody out there has.
//!
//! A packet from the internet is answered to where it says that it came from. With the address of something of EPIC's
//! as its source, the answer would go there: from an alias it would go through the tunnel, into a tenant's network.

use epic_abi::{Ip, maps::Config};

/// First byte of the addresses of "this network" (RFC 1122).
const THIS_NETWORK: u32 = 0;
/// First byte of loopback addresses.
const LOOPBACK: u32 = 127;
/// First byte of the first multicast address; behind them are the reserved ones and broadcast.
const MULTICAST: u32 = 224;

/// Whether no packet from outside can have this source, whatever it is for: an alias, this node's GUE address (it has
/// one, `locals` holds no other), or an address that is no single host's. Proxy addresses have a reason of their own
/// and are asked for by the caller.
#[inline(always)]
pub fn is_martian(config: &Config, source: u32) -> bool {
    let first = u32::from_be(source) >> 24;
    first == THIS_NETWORK
        || first == LOOPBACK
        || first >= MULTICAST
        || config.aliases_v4.contains_v4(source)
        || config.underlay == Ip::from_v4_word(source)
}
