//! The maps that programs read and write, as `epic_abi::maps` lays them out.

use epic_abi::{Ip, Lb, drop::DropReason, maps::*, stats::Event};

/// A method for each HASH map, which programs only read.
macro_rules! lookups {
    ($($(#[$doc:meta])* $spec:ident $name:ident $pin:literal: $kind:ident<$key:ty, $value:ty>[$entries:expr], $side:ident
        $(, learned $version:literal)? $(, room $room:ident)?;)+) => {
        $(lookups!(@ $kind $(#[$doc])* $name $key, $value);)+
    };
    (@ Hash $(#[$doc:meta])* $name:ident $key:ty, $value:ty) => {
        $(#[$doc])*
        ///
        /// An element that is replaced meanwhile may be reused and change under the reader: every value is read once and
        /// checked where that matters, and a packet judged by half of an old and half of a new value is one that
        /// arrived during the change.
        fn $name(&self, key: &$key) -> Option<&$value>;
    };
    (@ LazyHash $(#[$doc:meta])* $name:ident $key:ty, $value:ty) => {
        lookups!(@ Hash $(#[$doc])* $name $key, $value);
    };
    (@ $kind:ident $($rest:tt)*) => {};
}

/// The maps of a host.
pub trait Maps {
    epic_abi::maps!(lookups);

    /// The entry of `flows`, copied.
    fn flow(&self, key: &FlowKey) -> Option<Flow>;
    /// Enters a flow. Failure leaves it to Maglev, as the cap does.
    fn enter_flow(&self, key: &FlowKey, flow: &Flow);
    /// The entry of `learned_proxies`, copied.
    fn learned_proxy(&self, address: &Ip) -> Option<LearnedProxy>;
    /// Learns a proxy address. Failure costs the way back of this packet; the next one tries again.
    fn learn_proxy(&self, address: &Ip, learned: &LearnedProxy);
    /// The proxy in a slot of a LoadBalancer's Maglev table; 0 when there is none.
    fn slot(&self, lb: &Lb, slot: u32) -> u32;
    /// Whether the address is in the set of source ranges.
    fn is_admitted(&self, set: u32, address: &Ip) -> bool;
    /// What `judge` says about this CPU's budget of new flows; `false` when there is none.
    fn with_flow_budget(&self, judge: impl FnOnce(&mut FlowBudget) -> bool) -> bool;
    /// Inner packets and their bytes went into the tunnel.
    fn sent(&self, tunnel: u32, packets: u32, bytes: u32);
    /// Inner packets and their bytes came out of the tunnel.
    fn received(&self, tunnel: u32, packets: u32, bytes: u32);
    /// So many packets met with `event`.
    fn count(&self, event: Event, packets: u32);
    /// A packet is dropped for `reason`.
    fn dropped(&self, reason: DropReason);
}
