//! Counters, their ranges, and the next value.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::ops::RangeInclusive;
use std::str::FromStr;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};

use crate::address;
use crate::id::Kind;

/// What is counted. Group, tunnel and proxy IDs are counted in EPIC's status, service and endpoint IDs in the
/// Account's (design §4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Counter {
    /// Group IDs of Accounts, in EPIC.
    Group,
    /// Tunnel IDs of LoadBalancers, in EPIC; subkey [`tunnel_subkey`].
    Tunnel,
    /// Proxy IDs of LoadBalancers, in EPIC; subkey: the pod's uid.
    Proxy,
    /// Service IDs of LoadBalancers, in the Account.
    Service,
    /// Endpoint IDs of Endpoints, in the Account.
    Endpoint,
}

impl Counter {
    /// Every counter.
    pub const ALL: [Counter; 5] =
        [Counter::Group, Counter::Tunnel, Counter::Proxy, Counter::Service, Counter::Endpoint];

    /// Whether one owner holds several values, told apart by a subkey, which are freed while it lives.
    pub const fn has_subkeys(self) -> bool {
        matches!(self, Counter::Tunnel | Counter::Proxy)
    }

    /// The kind of the objects that hold this counter's values.
    pub const fn owner_kind(self) -> Kind {
        match self {
            Counter::Group => Kind::Account,
            Counter::Tunnel | Counter::Proxy | Counter::Service => Kind::LoadBalancer,
            Counter::Endpoint => Kind::Endpoint,
        }
    }

    /// What values of this counter are called in messages.
    pub const fn noun(self) -> &'static str {
        match self {
            Counter::Group => "group id",
            Counter::Tunnel => "tunnel id",
            Counter::Proxy => "proxy id",
            Counter::Service => "service id",
            Counter::Endpoint => "endpoint id",
        }
    }
}

impl fmt::Display for Counter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Counter::Group => "Group",
            Counter::Tunnel => "Tunnel",
            Counter::Proxy => "Proxy",
            Counter::Service => "Service",
            Counter::Endpoint => "Endpoint",
        })
    }
}

/// A text that names no counter.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is no counter; expected Group, Tunnel, Proxy, Service or Endpoint")]
pub struct UnknownCounter(pub String);

impl FromStr for Counter {
    type Err = UnknownCounter;
    fn from_str(text: &str) -> Result<Self, UnknownCounter> {
        Counter::ALL
            .into_iter()
            .find(|counter| counter.to_string() == text)
            .ok_or_else(|| UnknownCounter(text.to_owned()))
    }
}

/// The subkey of a tunnel: `client node/EPIC node`, both by the address that `gue-tunnel-endpoints` shows, so a grant
/// is found again in the status alone. An EPIC node that gets another address gets other tunnels.
pub fn tunnel_subkey(client_node: IpAddr, epic_address: IpAddr) -> String {
    format!("{}/{}", client_node.to_canonical(), epic_address.to_canonical())
}

/// The client node and the EPIC node of a tunnel's subkey.
pub fn parse_tunnel_subkey(subkey: &str) -> Option<(IpAddr, IpAddr)> {
    let (client, node) = subkey.split_once('/')?;
    Some((address::parse(client).ok()?, address::parse(node).ok()?))
}

/// Group, service and endpoint IDs: 16 bit, from 1.
pub const SIXTEEN_BITS: RangeInclusive<u32> = 1..=65_535;
/// Tunnel IDs: 32 bit, from 1.
pub const THIRTY_TWO_BITS: RangeInclusive<u32> = 1..=u32::MAX;

/// Proxy IDs: as many as `proxy-addresses` has room for. With two families, give the smaller network's range.
pub fn proxy_range(proxy_addresses: IpNet) -> RangeInclusive<u32> {
    1..=address::last_offset(proxy_addresses)
}

/// Endpoint IDs: 16 bit, and never more than `alias-addresses` has room for.
pub fn endpoint_range(alias_addresses: IpNet) -> RangeInclusive<u32> {
    1..=address::last_offset(alias_addresses).min(65_535)
}

/// Next free ID after `last`, skipping what is taken. Wraps inside `range`; `None` when the range is full. Zero is
/// never handed out. A `last` outside of the range (never drawn, or the range was changed) starts at its beginning.
pub fn next_id(last: u32, range: RangeInclusive<u32>, taken: &BTreeSet<u32>) -> Option<u32> {
    let (first, end) = ((*range.start()).max(1), *range.end());
    if first > end {
        return None;
    }
    let start = if (first..end).contains(&last) { last + 1 } else { first };
    first_gap(start, end, taken).or_else(|| first_gap(first, start - 1, taken))
}

/// The first value of `from..=to` that is not taken, walking along the taken ones only.
fn first_gap(from: u32, to: u32, taken: &BTreeSet<u32>) -> Option<u32> {
    if from > to {
        return None;
    }
    let mut candidate = from;
    for value in taken.range(from..=to) {
        if *value != candidate {
            return Some(candidate);
        }
        if candidate == to {
            return None;
        }
        candidate += 1;
    }
    Some(candidate)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(values: &[u32]) -> BTreeSet<u32> {
        values.iter().copied().collect()
    }

    #[test]
    fn the_next_id_follows_the_last_one() {
        assert_eq!(next_id(0, 1..=3, &taken(&[])), Some(1));
        assert_eq!(next_id(1, 1..=3, &taken(&[])), Some(2));
        assert_eq!(next_id(1, 1..=3, &taken(&[2])), Some(3));
    }

    #[test]
    fn the_counter_comes_round_and_skips_zero() {
        assert_eq!(next_id(3, 1..=3, &taken(&[])), Some(1));
        assert_eq!(next_id(3, 0..=3, &taken(&[1])), Some(2));
        assert_eq!(next_id(u32::MAX, THIRTY_TWO_BITS, &taken(&[1, 2])), Some(3));
        assert_eq!(next_id(u32::MAX - 1, THIRTY_TWO_BITS, &taken(&[u32::MAX])), Some(1));
    }

    #[test]
    fn a_full_range_has_no_next_id() {
        assert_eq!(next_id(2, 1..=3, &taken(&[1, 2, 3])), None);
        assert_eq!(next_id(2, 1..=3, &taken(&[1, 3])), Some(2));
        assert_eq!(next_id(9, 0..=0, &taken(&[])), None);
    }

    #[test]
    fn a_last_value_outside_of_the_range_starts_at_its_beginning() {
        assert_eq!(next_id(900, 1..=3, &taken(&[1])), Some(2));
    }

    proptest::proptest! {
        #[test]
        fn the_next_id_is_the_first_free_one_in_cyclic_order(
            last in 0u32..12, end in 1u32..10, values in proptest::collection::btree_set(1u32..10, 0..10)
        ) {
            let start = if (1..end).contains(&last) { last } else { 0 };
            let expected =
                (0..end).map(|step| (start + step) % end + 1).find(|value| !values.contains(value));
            proptest::prop_assert_eq!(next_id(last, 1..=end, &values), expected);
        }
    }

    #[test]
    fn a_tunnel_subkey_is_read_back() {
        let (client, node) = ("192.168.1.25".parse().unwrap(), "192.168.1.40".parse().unwrap());
        let subkey = tunnel_subkey(client, node);
        assert_eq!(subkey, "192.168.1.25/192.168.1.40");
        assert_eq!(parse_tunnel_subkey(&subkey), Some((client, node)));
        assert_eq!(parse_tunnel_subkey("192.168.1.25"), None);
    }

    #[test]
    fn ranges_follow_the_width_of_the_networks() {
        assert_eq!(proxy_range("100.64.0.0/11".parse().unwrap()), 1..=2_097_150);
        assert_eq!(endpoint_range("100.127.0.0/16".parse().unwrap()), 1..=65_534);
        assert_eq!(endpoint_range("fd00::/64".parse().unwrap()), SIXTEEN_BITS);
    }
}
