//! The free addresses of one pool, as intervals: the lowest one costs O(log n), whatever the pool's size, and so does
//! each address that is taken or given back.

use std::collections::BTreeMap;
use std::net::IpAddr;

use super::Pool;
use super::pool::{address_of, number};
use crate::address::Family;

/// Free intervals of one family, by their first address: the last one, which is included.
type Intervals = BTreeMap<u128, u128>;

/// The free addresses of a pool.
///
/// # Invariant
/// Intervals neither touch nor overlap. An address that lies outside of the pool is never in them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Free {
    v4: Intervals,
    v6: Intervals,
}

impl Free {
    /// All addresses of a pool.
    pub fn all(pool: &Pool) -> Self {
        let mut free = Self::default();
        for interval in pool.intervals() {
            let family = Family::of(interval.first());
            free.of_mut(family).insert(number(interval.first()), number(interval.last()));
        }
        free
    }

    fn of(&self, family: Family) -> &Intervals {
        match family {
            Family::V4 => &self.v4,
            Family::V6 => &self.v6,
        }
    }

    fn of_mut(&mut self, family: Family) -> &mut Intervals {
        match family {
            Family::V4 => &mut self.v4,
            Family::V6 => &mut self.v6,
        }
    }

    /// Takes an address out; one that is not free, or of no pool, changes nothing.
    pub fn take(&mut self, address: IpAddr) {
        let (at, intervals) = (number(address), self.of_mut(Family::of(address)));
        let Some((first, last)) = intervals.range(..=at).next_back().map(|(first, last)| (*first, *last))
        else {
            return;
        };
        if at > last {
            return;
        }
        intervals.remove(&first);
        if first < at {
            intervals.insert(first, at - 1);
        }
        if at < last {
            intervals.insert(at + 1, last);
        }
    }

    /// Puts an address back that [`Free::take`] took. The caller sees to it that the pool holds it.
    pub fn give(&mut self, address: IpAddr) {
        let (at, intervals) = (number(address), self.of_mut(Family::of(address)));
        let before = intervals.range(..=at).next_back().map(|(first, last)| (*first, *last));
        if before.is_some_and(|(_, last)| last >= at) {
            return;
        }
        let first = match before {
            Some((first, last)) if last + 1 == at => first,
            _ => at,
        };
        let next = at.checked_add(1);
        let last = next.and_then(|next| intervals.remove(&next)).unwrap_or(at);
        intervals.insert(first, last);
    }

    /// The free addresses of a family, the lowest first.
    pub fn iter(&self, family: Family) -> impl Iterator<Item = IpAddr> {
        let intervals = self.of(family).iter();
        intervals.flat_map(move |(first, last)| (*first..=*last).map(move |at| address_of(family, at)))
    }

    /// How many addresses of a family are free (saturating at 2^128 − 1). Costs a step for every interval.
    pub fn count(&self, family: Family) -> u128 {
        self.of(family)
            .iter()
            .fold(0, |count: u128, (first, last)| count.saturating_add((last - first).saturating_add(1)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::collections::BTreeSet;

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    #[test]
    fn free_sets_agree_with_a_set_of_what_is_taken_whatever_comes_and_goes() {
        let pool = Pool::parse("a", ["192.0.2.0/29", "192.0.2.12-192.0.2.14", "192.0.2.20"]).unwrap();
        let mut number = 7_u32;
        let mut draw = |below: u32| {
            number = number.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
            (number >> 16) % below
        };
        let (mut free, mut taken) = (Free::all(&pool), BTreeSet::new());
        for _ in 0..5_000 {
            let address = ip(&format!("192.0.2.{}", draw(24)));
            if draw(2) == 0 {
                free.take(address);
                taken.insert(address);
            } else if pool.contains(address) {
                free.give(address);
                taken.remove(&address);
            }
            assert_eq!(free.iter(Family::V4).next(), pool.first_free(Family::V4, &taken));
            assert_eq!(
                free.count(Family::V4),
                pool.total(Family::V4) - pool.used(Family::V4, &taken),
                "{free:?}"
            );
            let expected = (0..24).map(|last| ip(&format!("192.0.2.{last}")));
            let expected = expected.filter(|address| pool.contains(*address) && !taken.contains(address));
            assert!(free.iter(Family::V4).eq(expected), "{free:?}");
        }
        for address in (0..24).map(|last| ip(&format!("192.0.2.{last}"))).filter(|one| pool.contains(*one)) {
            free.give(address);
        }
        assert_eq!(free, Free::all(&pool), "nothing is left of what came and went");
    }

    #[test]
    fn a_network_of_2_to_the_64_addresses_is_one_interval() {
        let pool = Pool::parse("a", ["2001:db8::/64"]).unwrap();
        let mut free = Free::all(&pool);
        free.take(ip("2001:db8::1"));
        assert_eq!(free.iter(Family::V6).next(), Some(ip("2001:db8::2")));
        assert_eq!(free.count(Family::V6), (1 << 64) - 2);
        let all = Free::all(&Pool::parse("all", ["::/0"]).unwrap());
        assert_eq!(all.count(Family::V6), u128::MAX);
        let mut last = Free::all(&Pool::parse("last", ["ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"]).unwrap());
        last.take(ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
        last.give(ip("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff"));
        assert_eq!(last.count(Family::V6), 1);
    }
}
