//! The maps of the kernel, as `epic_abi::maps` declares them.
//!
//! BTF definitions (`.maps`), so that every loader can read them. Maps with one entry a tunnel, endpoint or proxy are
//! not preallocated: an EPIC node with ten tunnels does not pay for 65,536.

use aya_ebpf::{
    bindings::{BPF_ANY, BPF_F_NO_PREALLOC},
    btf_maps::{Array, HashMap, HashOfMaps, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap, lpm_trie},
    macros::btf_map,
};
use epic_abi::{
    Ip, Lb,
    drop::{DROPS_LEN, DropReason},
    maps::*,
    stats::{Event, STATS_LEN},
};
use epic_core::Maps;

const LAZY: usize = BPF_F_NO_PREALLOC as usize;

macro_rules! maps {
    ($($(#[$doc:meta])* $spec:ident $name:ident $pin:literal: $kind:ident<$key:ty, $value:ty>[$entries:expr], $side:ident
        $(, learned $version:literal)? $(, room $room:ident)?;)+) => {
        $(maps!(@ $kind $spec $pin $key, $value, { $entries });)+
    };
    (@ Array $spec:ident $pin:literal $key:ty, $value:ty, $entries:block) => {
        #[btf_map(name = $pin)]
        pub static $spec: Array<$value, $entries> = Array::new();
    };
    (@ Hash $spec:ident $pin:literal $key:ty, $value:ty, $entries:block) => {
        #[btf_map(name = $pin)]
        pub static $spec: HashMap<$key, $value, $entries> = HashMap::new();
    };
    (@ LazyHash $spec:ident $pin:literal $key:ty, $value:ty, $entries:block) => {
        #[btf_map(name = $pin)]
        pub static $spec: HashMap<$key, $value, $entries, LAZY> = HashMap::new();
    };
    (@ LruHash $spec:ident $pin:literal $key:ty, $value:ty, $entries:block) => {
        #[btf_map(name = $pin)]
        pub static $spec: LruHashMap<$key, $value, $entries> = LruHashMap::new();
    };
    (@ PerCpuArray $spec:ident $pin:literal $key:ty, $value:ty, $entries:block) => {
        #[btf_map(name = $pin)]
        pub static $spec: PerCpuArray<$value, $entries> = PerCpuArray::new();
    };
    (@ PerCpuHash $spec:ident $pin:literal $key:ty, $value:ty, $entries:block) => {
        #[btf_map(name = $pin)]
        pub static $spec: PerCpuHashMap<$key, $value, $entries, LAZY> = PerCpuHashMap::new();
    };
    (@ LpmTrie $spec:ident $pin:literal $key:ty, $value:ty, $entries:block) => {
        #[btf_map(name = $pin)]
        pub static $spec: LpmTrie<$key, $value, $entries> = LpmTrie::new();
    };
    (@ HashOfArrays $spec:ident $pin:literal $key:ty, $value:ty, $entries:block) => {
        #[btf_map(name = $pin)]
        pub static $spec: HashOfMaps<$key, Array<$value, { MAGLEV_SLOTS as usize }>, $entries, LAZY> = HashOfMaps::new();
    };
}

/// The statics, apart from the constants of the same names.
mod statics {
    use super::*;

    epic_abi::maps!(maps);
}

/// The methods that read HASH maps.
macro_rules! lookups {
    ($($(#[$doc:meta])* $spec:ident $name:ident $pin:literal: $kind:ident<$key:ty, $value:ty>[$entries:expr], $side:ident
        $(, learned $version:literal)? $(, room $room:ident)?;)+) => {
        $(lookups!(@ $kind $spec $name $key, $value);)+
    };
    (@ Hash $spec:ident $name:ident $key:ty, $value:ty) => {
        #[inline(always)]
        fn $name(&self, key: &$key) -> Option<&$value> {
            // SAFETY: good for this run of the program: the kernel frees elements only after it.
            unsafe { statics::$spec.get(key) }
        }
    };
    (@ LazyHash $spec:ident $name:ident $key:ty, $value:ty) => { lookups!(@ Hash $spec $name $key, $value); };
    (@ $kind:ident $($rest:tt)*) => {};
}

/// Bits of a source range key before those of an IPv4 address: the set, and the v4-mapped prefix.
const SOURCE_RANGE_BITS: u32 = 32 + 128;

/// The maps of the kernel. Counters are per CPU, so no atomics and no lost increments: programs of one CPU do not run at
/// the same time on one counter.
pub struct Kernel;

impl Maps for Kernel {
    epic_abi::maps!(lookups);

    #[inline(always)]
    fn flow(&self, key: &FlowKey) -> Option<Flow> {
        // SAFETY: the value is copied before anything else happens to the map.
        unsafe { statics::FLOWS.get(key) }.copied()
    }

    #[inline(always)]
    fn enter_flow(&self, key: &FlowKey, flow: &Flow) {
        let _ = statics::FLOWS.insert(key, flow, BPF_ANY as u64);
    }

    #[inline(always)]
    fn learned_proxy(&self, address: &Ip) -> Option<LearnedProxy> {
        // SAFETY: the value is copied before anything else happens to the map.
        unsafe { statics::LEARNED_PROXIES.get(address) }.copied()
    }

    #[inline(always)]
    fn learn_proxy(&self, address: &Ip, learned: &LearnedProxy) {
        let _ = statics::LEARNED_PROXIES.insert(address, learned, BPF_ANY as u64);
    }

    #[inline(always)]
    fn slot(&self, lb: &Lb, slot: u32) -> u32 {
        // SAFETY: inner maps are arrays of words, replaced as a whole; a word is read at once.
        match unsafe { statics::MAGLEV.get_value(lb, &slot) } {
            Some(id) => *id,
            None => 0,
        }
    }

    #[inline(always)]
    fn is_admitted(&self, set: u32, address: &Ip) -> bool {
        let key = SourceRangeKey { set, address: *address };
        statics::SOURCE_RANGES.get(&lpm_trie::Key::new(SOURCE_RANGE_BITS, key)).is_some()
    }

    #[inline(always)]
    fn with_flow_budget(&self, judge: impl FnOnce(&mut FlowBudget) -> bool) -> bool {
        match statics::FLOW_BUDGET.get_ptr_mut(0) {
            // SAFETY: this CPU's own value.
            Some(budget) => judge(unsafe { &mut *budget }),
            None => false,
        }
    }

    #[inline(always)]
    fn sent(&self, tunnel: u32, packets: u32, bytes: u32) {
        if let Some(stats) = statics::TUNNEL_STATS.get_ptr_mut(tunnel) {
            // SAFETY: this CPU's own value.
            unsafe {
                (*stats).tx_packets += packets as u64;
                (*stats).tx_bytes += bytes as u64;
            }
        }
    }

    #[inline(always)]
    fn received(&self, tunnel: u32, packets: u32, bytes: u32) {
        if let Some(stats) = statics::TUNNEL_STATS.get_ptr_mut(tunnel) {
            // SAFETY: this CPU's own value.
            unsafe {
                (*stats).rx_packets += packets as u64;
                (*stats).rx_bytes += bytes as u64;
            }
        }
    }

    #[inline(always)]
    fn count(&self, event: Event, packets: u32) {
        if let Some(counter) = statics::STATS.get_ptr_mut(event as u32) {
            // SAFETY: this CPU's own value.
            unsafe { *counter += packets as u64 };
        }
    }

    #[inline(always)]
    fn dropped(&self, reason: DropReason) {
        if let Some(counter) = statics::DROPS.get_ptr_mut(reason as u32) {
            // SAFETY: this CPU's own value.
            unsafe { *counter += 1 };
        }
    }
}
