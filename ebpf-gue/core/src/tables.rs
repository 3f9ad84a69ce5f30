//! Maps in the memory of a process.

use core::cell::RefCell;
use std::collections::HashMap;
use std::vec::Vec;

use epic_abi::{Ip, IpRange, Lb, drop::DropReason, maps::*, stats::Event};

use crate::Maps;

/// Bits of a key of `source_ranges` before those of an address: the set.
const SET_BITS: u32 = 32;
/// Bits of the v4-mapped prefix.
const MAPPED_BITS: u32 = 96;

macro_rules! tables {
    ($($(#[$doc:meta])* $spec:ident $name:ident $pin:literal: $kind:ident<$key:ty, $value:ty>[$entries:expr], $side:ident
        $(, learned $version:literal)? $(, room $room:ident)?;)+) => {
        /// The maps of a host as tables of a process. What programs read is put in as the kernel would be given it; what they
        /// count is read.
        #[derive(Debug, Default)]
        pub struct Tables {
            $($name: tables!(@table $kind $key, $value),)+
        }

        impl Tables {
            /// Puts an entry into the map `pin`: the bytes of its key and value, of all values of a Maglev table one behind the
            /// other.
            ///
            /// # Panics
            /// There is no such map, or its entries have another size.
            pub fn put(&mut self, pin: &str, key: &[u8], value: &[u8]) {
                match pin {
                    $($pin => tables!(@put $kind self.$name, key, value),)+
                    _ => panic!("no map is called {pin}"),
                }
            }

            /// Removes an entry from a map.
            ///
            /// # Panics
            /// There is no such map, or its keys have another size.
            pub fn remove(&mut self, pin: &str, key: &[u8]) {
                match pin {
                    $($pin => tables!(@remove $kind self.$name, key),)+
                    _ => panic!("no map is called {pin}"),
                }
            }
        }
    };
    (@table Hash $key:ty, $value:ty) => { HashMap<$key, $value> };
    (@table LazyHash $key:ty, $value:ty) => { HashMap<$key, $value> };
    (@table HashOfArrays $key:ty, $value:ty) => { HashMap<$key, Vec<$value>> };
    (@table LpmTrie $key:ty, $value:ty) => { HashMap<(u32, $key), $value> };
    (@table $kind:ident $key:ty, $value:ty) => { RefCell<HashMap<$key, $value>> };
    (@put Hash $table:expr, $key:ident, $value:ident) => {{ $table.insert(of($key), of($value)); }};
    (@put LazyHash $table:expr, $key:ident, $value:ident) => {{ $table.insert(of($key), of($value)); }};
    (@put HashOfArrays $table:expr, $key:ident, $value:ident) => {{
        $table.insert(of($key), $value.chunks(4).map(of).collect());
    }};
    (@put LpmTrie $table:expr, $key:ident, $value:ident) => {{
        $table.insert((of(&$key[..4]), of(&$key[4..])), of($value));
    }};
    (@put $kind:ident $table:expr, $key:ident, $value:ident) => {{
        $table.borrow_mut().insert(of($key), of($value));
    }};
    (@remove Hash $table:expr, $key:ident) => {{ $table.remove(&of($key)); }};
    (@remove LazyHash $table:expr, $key:ident) => {{ $table.remove(&of($key)); }};
    (@remove HashOfArrays $table:expr, $key:ident) => {{ $table.remove(&of($key)); }};
    (@remove LpmTrie $table:expr, $key:ident) => {{ $table.remove(&(of(&$key[..4]), of(&$key[4..]))); }};
    (@remove $kind:ident $table:expr, $key:ident) => {{ $table.borrow_mut().remove(&of($key)); }};
}

epic_abi::maps!(tables);

/// A key or value out of its bytes.
fn of<T: Copy>(bytes: &[u8]) -> T {
    assert_eq!(bytes.len(), size_of::<T>(), "bytes of a key or value");
    // SAFETY: there are so many bytes. The keys and values of all maps are integers and structs of them without padding
    // (asserted where they are declared), for which all bytes are good.
    unsafe { bytes.as_ptr().cast::<T>().read_unaligned() }
}

/// The methods that read HASH maps.
macro_rules! lookups {
    ($($(#[$doc:meta])* $spec:ident $name:ident $pin:literal: $kind:ident<$key:ty, $value:ty>[$entries:expr], $side:ident
        $(, learned $version:literal)? $(, room $room:ident)?;)+) => {
        $(lookups!(@ $kind $name $key, $value);)+
    };
    (@ Hash $name:ident $key:ty, $value:ty) => {
        fn $name(&self, key: &$key) -> Option<&$value> {
            self.$name.get(key)
        }
    };
    (@ LazyHash $name:ident $key:ty, $value:ty) => { lookups!(@ Hash $name $key, $value); };
    (@ $kind:ident $($rest:tt)*) => {};
}

impl Maps for Tables {
    epic_abi::maps!(lookups);

    fn flow(&self, key: &FlowKey) -> Option<Flow> {
        self.flows.borrow().get(key).copied()
    }

    fn enter_flow(&self, key: &FlowKey, flow: &Flow) {
        self.flows.borrow_mut().insert(*key, *flow);
    }

    fn learned_proxy(&self, address: &Ip) -> Option<LearnedProxy> {
        self.learned_proxies.borrow().get(address).copied()
    }

    fn learn_proxy(&self, address: &Ip, learned: &LearnedProxy) {
        self.learned_proxies.borrow_mut().insert(*address, *learned);
    }

    fn slot(&self, lb: &Lb, slot: u32) -> u32 {
        let table = self.maglev.get(lb);
        table.and_then(|table| table.get(slot as usize)).copied().unwrap_or_default()
    }

    fn is_admitted(&self, set: u32, address: &Ip) -> bool {
        self.source_ranges.keys().any(|(bits, key)| {
            let family = if key.address.is_v4() { MAPPED_BITS } else { 0 };
            let prefix = bits.saturating_sub(SET_BITS + family) as u8;
            let range = IpRange::new(key.address, prefix);
            key.set == set && range.contains(address)
        })
    }

    fn with_flow_budget(&self, judge: impl FnOnce(&mut FlowBudget) -> bool) -> bool {
        judge(self.flow_budget.borrow_mut().entry(0).or_default())
    }

    fn sent(&self, tunnel: u32, packets: u32, bytes: u32) {
        if let Some(stats) = self.tunnel_stats.borrow_mut().get_mut(&tunnel) {
            stats.tx_packets += u64::from(packets);
            stats.tx_bytes += u64::from(bytes);
        }
    }

    fn received(&self, tunnel: u32, packets: u32, bytes: u32) {
        if let Some(stats) = self.tunnel_stats.borrow_mut().get_mut(&tunnel) {
            stats.rx_packets += u64::from(packets);
            stats.rx_bytes += u64::from(bytes);
        }
    }

    fn count(&self, event: Event, packets: u32) {
        *self.stats.borrow_mut().entry(event as u32).or_default() += u64::from(packets);
    }

    fn dropped(&self, reason: DropReason) {
        *self.drops.borrow_mut().entry(reason as u32).or_default() += 1;
    }
}

impl Tables {
    /// Packets dropped for `reason`.
    pub fn drops(&self, reason: DropReason) -> u64 {
        self.drops.borrow().get(&(reason as u32)).copied().unwrap_or_default()
    }

    /// Packets dropped for any reason.
    pub fn dropped_in_all(&self) -> u64 {
        self.drops.borrow().values().sum()
    }

    /// Packets that met with `event`.
    pub fn events(&self, event: Event) -> u64 {
        self.stats.borrow().get(&(event as u32)).copied().unwrap_or_default()
    }

    /// What the tunnel has counted, if it counts.
    pub fn tunnel_counts(&self, tunnel: u32) -> Option<TunnelStats> {
        self.tunnel_stats.borrow().get(&tunnel).copied()
    }

    /// All flows.
    pub fn all_flows(&self) -> Vec<(FlowKey, Flow)> {
        self.flows.borrow().iter().map(|(key, flow)| (*key, *flow)).collect()
    }

    /// All proxies that were learned.
    pub fn all_learned(&self) -> Vec<(Ip, LearnedProxy)> {
        self.learned_proxies.borrow().iter().map(|(address, learned)| (*address, *learned)).collect()
    }

    /// Forgets flows and learned proxies.
    pub fn forget(&mut self) {
        self.flows.borrow_mut().clear();
        self.learned_proxies.borrow_mut().clear();
    }
}
