//! Handshakes under way, in all and of each source address.
//!
//! A connection costs nothing to open, and the Service is reachable by every pod. So one that opens connections and says
//! nothing must not take the places of those who are in earnest.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;

/// Places for handshakes.
#[derive(Debug)]
pub(super) struct Handshakes {
    all: usize,
    of_one: usize,
    under_way: Mutex<UnderWay>,
}

#[derive(Debug, Default)]
struct UnderWay {
    all: usize,
    by_source: BTreeMap<IpAddr, usize>,
}

/// The place of one handshake, given back when dropped.
#[derive(Debug)]
pub(super) struct Place {
    handshakes: Arc<Handshakes>,
    source: IpAddr,
}

impl Handshakes {
    /// So many places, and so many of them for one address.
    pub(super) fn new(all: usize, of_one: usize) -> Arc<Self> {
        Arc::new(Self { all, of_one, under_way: Mutex::default() })
    }

    /// A place for a connection from `source`, unless all places, or all of this address, are taken.
    pub(super) fn begin(self: &Arc<Self>, source: IpAddr) -> Option<Place> {
        // One address in both notations is one source.
        let source = source.to_canonical();
        let mut under_way = self.under_way.lock();
        let of_source = under_way.by_source.get(&source).copied().unwrap_or(0);
        if under_way.all >= self.all || of_source >= self.of_one {
            return None;
        }
        under_way.all += 1;
        under_way.by_source.insert(source, of_source + 1);
        Some(Place { handshakes: Arc::clone(self), source })
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        let mut under_way = self.handshakes.under_way.lock();
        under_way.all -= 1;
        if let Some(of_source) = under_way.by_source.get_mut(&self.source) {
            *of_source -= 1;
            if *of_source == 0 {
                under_way.by_source.remove(&self.source);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_source_has_its_places_and_leaves_the_others_theirs() {
        let handshakes = Handshakes::new(3, 2);
        let [one, other, third]: [IpAddr; 3] =
            ["10.0.0.1", "10.0.0.2", "10.0.0.3"].map(|text| text.parse().unwrap());
        let mapped: IpAddr = "::ffff:10.0.0.1".parse().unwrap();
        let first = handshakes.begin(one).unwrap();
        let _second = handshakes.begin(mapped).unwrap();
        assert!(handshakes.begin(one).is_none());
        let _third = handshakes.begin(other).unwrap();
        assert!(handshakes.begin(third).is_none(), "all places are taken");
        drop(first);
        drop(handshakes.begin(third).unwrap());
        handshakes.begin(one).unwrap();
        assert_eq!(handshakes.under_way.lock().by_source.len(), 2);
    }
}
