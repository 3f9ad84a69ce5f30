//! Address pools: which addresses they hold, which are free, and which pools overlap.
//!
//! A pool is a set of intervals, so a /8 costs as much as a single address, and an IPv6 /64 does not need to be
//! walked. Addresses of both families may stand in one pool.

use std::collections::BTreeSet;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnet::IpNet;

use crate::address::{self, AddressError, Family};
use crate::id::{AccountName, PoolName, Seconds};

/// Consecutive addresses of one family, first and last included.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Interval {
    family: Family,
    first: u128,
    last: u128,
}

pub(super) fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(u32::from(v4)),
        IpAddr::V6(v6) => u128::from(v6),
    }
}

pub(super) fn address_of(family: Family, number: u128) -> IpAddr {
    match family {
        // Intervals of this family are made from 32-bit numbers only.
        Family::V4 => IpAddr::V4(Ipv4Addr::from(number as u32)),
        Family::V6 => IpAddr::V6(Ipv6Addr::from(number)),
    }
}

impl Interval {
    /// The first address.
    pub fn first(&self) -> IpAddr {
        address_of(self.family, self.first)
    }

    /// The last address.
    pub fn last(&self) -> IpAddr {
        address_of(self.family, self.last)
    }

    /// Whether the address lies in it.
    pub fn contains(&self, address: IpAddr) -> bool {
        Family::of(address) == self.family && (self.first..=self.last).contains(&number(address))
    }

    fn common(&self, other: &Interval) -> Option<Interval> {
        let (first, last) = (self.first.max(other.first), self.last.min(other.last));
        (self.family == other.family && first <= last).then_some(Interval {
            family: self.family,
            first,
            last,
        })
    }
}

impl From<IpNet> for Interval {
    /// The addresses of a CIDR: network and broadcast address are skipped (api.md). IPv6 has no broadcast, there
    /// only the first one is (the subnet-router anycast address). Point-to-point and host networks are used whole.
    fn from(network: IpNet) -> Self {
        let (first, last) = (number(network.network()), number(network.broadcast()));
        let family = Family::of(network.network());
        let size = last - first;
        let (skip_first, skip_last) = match family {
            Family::V4 => (size > 1, size > 1),
            Family::V6 => (size > 1, false),
        };
        Interval { family, first: first + u128::from(skip_first), last: last - u128::from(skip_last) }
    }
}

impl FromStr for Interval {
    type Err = AddressError;

    /// Parses an entry of `spec.addresses`: `192.0.2.0/24`, `192.0.2.10-192.0.2.20` or a single address.
    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.contains('/') {
            return Ok(Interval::from(address::parse_network(text)?));
        }
        let (first, last) = text.split_once('-').unwrap_or((text, text));
        let (first, last) = (address::parse(first.trim())?, address::parse(last.trim())?);
        if Family::of(first) != Family::of(last) || first > last {
            return Err(AddressError::NotARange(text.to_owned()));
        }
        Ok(Interval { family: Family::of(first), first: number(first), last: number(last) })
    }
}

impl fmt::Display for Interval {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last {
            write!(f, "{}", self.first())
        } else {
            write!(f, "{}-{}", self.first(), self.last())
        }
    }
}

/// An address pool.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: PoolName,
    /// When it was created; of two overlapping pools the younger is told.
    pub created: Seconds,
    /// Who may use it: absent means everybody, empty means nobody.
    pub accounts: Option<BTreeSet<AccountName>>,
    /// Whether it hands out nothing new.
    pub disabled: bool,
    /// Whether it also gives addresses to those that ask for none in particular.
    pub auto_assign: bool,
    /// Whether what it holds may be handed out at all; one that holds addresses of nodes or of the cluster gives nothing
    /// new.
    pub accepted: bool,
    intervals: Vec<Interval>,
}

impl Pool {
    /// A pool of these intervals, for everybody. Those that touch or overlap are brought together, so that every
    /// address counts once.
    pub fn new(name: impl Into<PoolName>, intervals: impl IntoIterator<Item = Interval>) -> Self {
        let mut sorted: Vec<Interval> = intervals.into_iter().collect();
        sorted.sort();
        let mut intervals: Vec<Interval> = Vec::new();
        for next in sorted {
            match intervals.last_mut() {
                Some(open) if open.family == next.family && next.first <= open.last.saturating_add(1) => {
                    open.last = open.last.max(next.last);
                }
                _ => intervals.push(next),
            }
        }
        Pool {
            name: name.into(),
            created: Seconds(0),
            accounts: None,
            disabled: false,
            auto_assign: true,
            accepted: true,
            intervals,
        }
    }

    /// A pool of the entries of `spec.addresses`.
    ///
    /// # Errors
    /// [`AddressError`] of the first entry that cannot be read.
    pub fn parse<'t>(
        name: impl Into<PoolName>,
        addresses: impl IntoIterator<Item = &'t str>,
    ) -> Result<Self, AddressError> {
        let intervals: Result<Vec<Interval>, AddressError> = addresses.into_iter().map(str::parse).collect();
        Ok(Pool::new(name, intervals?))
    }

    /// The intervals, sorted, apart from each other.
    pub fn intervals(&self) -> &[Interval] {
        &self.intervals
    }

    /// Whether the address lies in the pool.
    pub fn contains(&self, address: IpAddr) -> bool {
        self.intervals.iter().any(|interval| interval.contains(address))
    }

    /// Whether an account may use it.
    pub fn admits(&self, account: &AccountName) -> bool {
        self.accounts.as_ref().is_none_or(|accounts| accounts.contains(account))
    }

    /// How many addresses of a family it holds (saturating at 2^128 − 1).
    pub fn total(&self, family: Family) -> u128 {
        self.intervals.iter().filter(|interval| interval.family == family).fold(0u128, |total, interval| {
            total.saturating_add((interval.last - interval.first).saturating_add(1))
        })
    }

    /// How many of its addresses stand in `claimed`, whatever pool they were claimed from.
    pub fn used(&self, family: Family, claimed: &BTreeSet<IpAddr>) -> u128 {
        claimed.iter().filter(|address| Family::of(**address) == family && self.contains(**address)).count()
            as u128
    }

    /// The lowest address of a family that does not stand in `taken`. Cost: a step for every taken address before
    /// it, never for the size of the pool.
    pub fn first_free(&self, family: Family, taken: &BTreeSet<IpAddr>) -> Option<IpAddr> {
        self.intervals.iter().filter(|interval| interval.family == family).find_map(|interval| {
            let mut candidate = interval.first;
            for address in taken.range(interval.first()..=interval.last()) {
                if number(*address) != candidate {
                    break;
                }
                if candidate == interval.last {
                    return None;
                }
                candidate += 1;
            }
            Some(address_of(family, candidate))
        })
    }
}

/// Two pools that hold the same addresses. No harm (a claim is named after the address alone), but seldom meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Overlap {
    /// The younger pool, which shows the condition.
    pub younger: PoolName,
    /// The older pool.
    pub older: PoolName,
    /// The first interval they share.
    pub shared: Interval,
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "address pool {:?} holds {} as well", self.older.as_str(), self.shared)
    }
}

/// All pairs of pools that overlap, one entry each, youngest pools last.
pub fn overlaps(pools: &[Pool]) -> Vec<Overlap> {
    let mut by_age: Vec<&Pool> = pools.iter().collect();
    by_age.sort_by(|a, b| (a.created, &a.name).cmp(&(b.created, &b.name)));
    let mut found = Vec::new();
    for (index, younger) in by_age.iter().enumerate() {
        for older in &by_age[..index] {
            let shared = younger
                .intervals
                .iter()
                .find_map(|mine| older.intervals.iter().find_map(|theirs| mine.common(theirs)));
            if let Some(shared) = shared {
                found.push(Overlap { younger: younger.name.clone(), older: older.name.clone(), shared });
            }
        }
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pool(name: &str, addresses: &[&str]) -> Pool {
        Pool::parse(name, addresses.iter().copied()).unwrap()
    }

    fn addresses(list: &[&str]) -> BTreeSet<IpAddr> {
        list.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn a_cidr_skips_network_and_broadcast_and_a_range_does_not() {
        let cidr = pool("a", &["192.0.2.0/24"]);
        assert_eq!(cidr.total(Family::V4), 254);
        assert!(!cidr.contains("192.0.2.0".parse().unwrap()));
        assert!(!cidr.contains("192.0.2.255".parse().unwrap()));
        let range = pool("b", &["192.0.2.0-192.0.2.255"]);
        assert_eq!(range.total(Family::V4), 256);
        assert!(range.contains("192.0.2.0".parse().unwrap()));
    }

    #[test]
    fn host_and_point_to_point_networks_are_used_whole() {
        assert_eq!(pool("a", &["192.0.2.2/32"]).total(Family::V4), 1);
        assert_eq!(pool("a", &["192.0.2.2/31"]).total(Family::V4), 2);
        assert_eq!(pool("a", &["2001:db8::/127"]).total(Family::V6), 2);
        assert_eq!(pool("a", &["2001:db8::/64"]).total(Family::V6), (1 << 64) - 1);
        assert_eq!(pool("a", &["::/0"]).total(Family::V6), u128::MAX);
    }

    #[test]
    fn the_lowest_free_address_is_found_without_walking_the_pool() {
        let pool = pool("a", &["192.0.2.0/30", "192.0.2.9-192.0.2.10", "2001:db8::/32"]);
        assert_eq!(pool.first_free(Family::V4, &addresses(&[])), Some("192.0.2.1".parse().unwrap()));
        let some = addresses(&["192.0.2.1", "192.0.2.2", "192.0.2.9"]);
        assert_eq!(pool.first_free(Family::V4, &some), Some("192.0.2.10".parse().unwrap()));
        let all = addresses(&["192.0.2.1", "192.0.2.2", "192.0.2.9", "192.0.2.10"]);
        assert_eq!(pool.first_free(Family::V4, &all), None);
        assert_eq!(pool.first_free(Family::V6, &all), Some("2001:db8::1".parse().unwrap()));
        assert_eq!(pool.used(Family::V4, &all), 4);
    }

    #[test]
    fn an_address_counts_once_however_often_it_is_listed() {
        let pool = pool("a", &["10.0.0.1-10.0.0.5", "10.0.0.3-10.0.0.8", "10.0.0.9"]);
        assert_eq!(pool.total(Family::V4), 9);
        assert_eq!(pool.intervals().len(), 1);
    }

    #[test]
    fn the_younger_of_two_overlapping_pools_is_told() {
        let old = Pool { created: Seconds(1), ..pool("z", &["10.0.0.0/24"]) };
        let young = Pool { created: Seconds(2), ..pool("a", &["10.0.0.250-10.0.1.3"]) };
        let apart = Pool { created: Seconds(3), ..pool("b", &["10.0.2.0/24", "2001:db8::/64"]) };
        let found = overlaps(&[young, apart, old]);
        assert_eq!(found.len(), 1);
        assert_eq!(found[0].younger.as_str(), "a");
        assert_eq!(found[0].to_string(), "address pool \"z\" holds 10.0.0.250-10.0.0.254 as well");
    }

    #[test]
    fn absent_accounts_admit_everybody_and_an_empty_list_nobody() {
        let account = AccountName::parse("sample").unwrap();
        let everybody = pool("a", &["10.0.0.0/24"]);
        assert!(everybody.admits(&account));
        assert!(!Pool { accounts: Some(BTreeSet::new()), ..everybody.clone() }.admits(&account));
        assert!(Pool { accounts: Some([account.clone()].into()), ..everybody }.admits(&account));
    }

    #[test]
    fn what_is_no_range_is_refused() {
        for wrong in ["10.0.0.9-10.0.0.1", "10.0.0.1-2001:db8::1", "10.0.0.0/33", "x", "10.0.0.1-"] {
            assert!(wrong.parse::<Interval>().is_err(), "{wrong}");
        }
    }
}
