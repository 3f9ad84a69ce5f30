//! Layout of every BPF map: name, key, value, size, who writes, who reads.
//!
//! Each map is declared once, in [`maps!`](crate::maps!); programs, loader, agent and tests read and write it through the
//! same types. A change of any key or value needs a new [`LAYOUT_VERSION`]: an agent that finds another version pinned fills
//! maps of its own beside those and switches when they are complete. Two things no later layout may change, so that
//! each version can read them of any other: `vips` is keyed by address and its value begins with [`Vip::flags`],
//! `tunnels` is keyed by id and its value begins with [`Tunnel::lb`].
//! Adding a drop reason or an event, or giving a reserved flag bit a meaning, does not.
//!
//! Values over 8 bytes live in HASH maps: an ARRAY is updated in place and its readers see half of a write.
//! Integers are in host byte order, addresses are [`Ip`], flags that are not defined are zero. Zero in an id means
//! "none"; all ids start at 1.
//!
//! The order in which an agent writes is part of the contract: `tunnel_stats` → `tunnels` → `keys` → `sources`,
//! `endpoint_aliases` → `proxies` → `local_proxies` → `aliases` → `maglev` → `services`, `listeners` → `vips`;
//! removal in the opposite order. Then no packet meets an entry that points to nothing.

mod client;
mod node;
mod shared;
mod table;

pub use client::*;
pub use node::*;
pub use shared::*;

use crate::{Ip, Lb, drop::DROPS_LEN, maps, stats::STATS_LEN};

/// Version of all layouts in this module together; stands in the map `layout`.
pub const LAYOUT_VERSION: u32 = 1;

/// Kind of a map, as far as its users have to care.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum MapKind {
    /// `BPF_MAP_TYPE_ARRAY`.
    Array,
    /// `BPF_MAP_TYPE_HASH`.
    Hash,
    /// `BPF_MAP_TYPE_LRU_HASH`.
    LruHash,
    /// `BPF_MAP_TYPE_PERCPU_ARRAY`.
    PerCpuArray,
    /// `BPF_MAP_TYPE_PERCPU_HASH`.
    PerCpuHash,
    /// `BPF_MAP_TYPE_LPM_TRIE`.
    LpmTrie,
    /// `BPF_MAP_TYPE_HASH_OF_MAPS`; the inner maps are ARRAYs of u32.
    HashOfArrays,
}

/// Which agent uses a map. The other one loads it with a single entry.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// EPIC nodes only.
    Node,
    /// Client nodes only.
    Client,
    /// Both.
    Both,
}

/// Whose entries a map holds, which says what becomes of them when another layout takes over.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Home {
    /// Of desired state: each layout has its own, and the agent fills it again.
    Desired,
    /// Of what was seen on the wire, which nobody could write again: all layouts that know this version share one map.
    Learned {
        /// Version of key and value, apart from [`LAYOUT_VERSION`].
        version: u32,
    },
}

/// What a map has to have room for: its entries grow in proportion.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Room {
    /// As many as compiled in.
    Fixed,
    /// LoadBalancers; [`MAX_LBS`] as compiled in.
    LoadBalancers,
    /// Tunnels; [`MAX_TUNNELS`] as compiled in.
    Tunnels,
    /// Endpoints; [`MAX_ENDPOINTS`] as compiled in.
    Endpoints,
    /// Flows from the internet; [`MAX_FLOWS`] as compiled in.
    Flows,
}

/// A map as a value: for the loader's checks, for dumps and for documentation.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct MapSpec {
    /// Name in the object and of the pin; at most 15 bytes.
    pub name: &'static str,
    /// Kind.
    pub kind: MapKind,
    /// Bytes of a key.
    pub key_size: u32,
    /// Bytes of a value (of one CPU's value where values are per CPU).
    pub value_size: u32,
    /// Entries as compiled in; the loader may set others.
    pub max_entries: u32,
    /// Who uses it.
    pub side: Side,
    /// Whose entries it holds.
    pub home: Home,
    /// What its entries are in proportion to.
    pub room: Room,
}

/// The specification of each map, and the list of all.
macro_rules! specifications {
    ($($(#[$doc:meta])* $spec:ident $name:ident $pin:literal: $kind:ident<$key:ty, $value:ty>[$entries:expr], $side:ident
        $(, learned $version:literal)? $(, room $room:ident)?;)+) => {
        $(
            $(#[$doc])*
            pub const $spec: MapSpec = MapSpec {
                name: $pin,
                kind: specifications!(@kind $kind),
                key_size: size_of::<$key>() as u32 + specifications!(@prefix $kind),
                value_size: size_of::<$value>() as u32,
                max_entries: $entries as u32,
                side: Side::$side,
                home: specifications!(@home $($version)?),
                room: specifications!(@room $($room)?),
            };

            const _: () = assert!($pin.len() <= 15, "the kernel keeps 15 bytes of a map's name");
        )+

        /// Every map of the object.
        pub const MAPS: &[MapSpec] = &[$($spec),+];
    };
    (@kind LazyHash) => { MapKind::Hash };
    (@kind $kind:ident) => { MapKind::$kind };
    // Before the bits of a key of a trie stands how many of them count.
    (@prefix LpmTrie) => { 4 };
    (@prefix $kind:ident) => { 0 };
    (@home) => { Home::Desired };
    (@home $version:literal) => { Home::Learned { version: $version } };
    (@room) => { Room::Fixed };
    (@room $room:ident) => { Room::$room };
}

maps!(specifications);

/// Defines a key or value: `#[repr(C)]`, plain integers, without padding (checked), `aya::Pod` with that feature.
macro_rules! layout {
    ($($(#[$meta:meta])* pub struct $name:ident { $($(#[$fmeta:meta])* pub $field:ident: $ty:ty,)+ })+) => {
        $(
            $(#[$meta])*
            #[repr(C)]
            #[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
            pub struct $name { $($(#[$fmeta])* pub $field: $ty,)+ }

            const _: () = assert!(
                size_of::<$name>() == 0 $(+ size_of::<$ty>())+,
                concat!(stringify!($name), " has padding"),
            );

            #[cfg(feature = "aya")]
            // SAFETY: repr(C), only integers and arrays of them, no padding (asserted above).
            unsafe impl aya::Pod for $name {}
        )+
    };
}
pub(crate) use layout;

#[cfg(feature = "aya")]
// SAFETY: repr(transparent) over bytes.
unsafe impl aya::Pod for crate::gue::Key {}
#[cfg(feature = "aya")]
// SAFETY: repr(C), two u16, no padding.
unsafe impl aya::Pod for crate::Lb {}
#[cfg(feature = "aya")]
// SAFETY: repr(C), four u32, no padding.
unsafe impl aya::Pod for crate::Ip {}
