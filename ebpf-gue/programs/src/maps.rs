//! The maps, as `epic_abi::maps` lays them out.
//!
//! BTF definitions (`.maps`), so that every loader can read them. Maps with one entry a tunnel, endpoint or proxy are
//! not preallocated: an EPIC node with ten tunnels does not pay for 65,536.

use aya_ebpf::{
    bindings::BPF_F_NO_PREALLOC,
    btf_maps::{Array, HashMap, HashOfMaps, LpmTrie, LruHashMap, PerCpuArray, PerCpuHashMap},
    macros::btf_map,
};
use epic_abi::{Ip, Lb, drop::DROPS_LEN, maps::*, stats::STATS_LEN};

const LAZY: usize = BPF_F_NO_PREALLOC as usize;

/// Filled by the loader; no program reads it.
#[btf_map(name = "layout")]
static LAYOUT_MAP: Array<u32, 1> = Array::new();
#[btf_map(name = "config")]
static CONFIG_MAP: HashMap<u32, Config, 1> = HashMap::new();
#[btf_map(name = "locals")]
pub static LOCALS: HashMap<Ip, Local, MAX_LOCALS> = HashMap::new();
#[btf_map(name = "nodes")]
pub static NODES: HashMap<Ip, Node, MAX_NODES, LAZY> = HashMap::new();
#[btf_map(name = "keys")]
pub static KEYS: HashMap<Lb, LbKeys, MAX_LBS, LAZY> = HashMap::new();
#[btf_map(name = "tunnels")]
pub static TUNNELS: HashMap<u32, Tunnel, MAX_TUNNELS, LAZY> = HashMap::new();
#[btf_map(name = "remotes")]
pub static REMOTES: HashMap<u32, Remote, MAX_TUNNELS, LAZY> = HashMap::new();
#[btf_map(name = "sources")]
pub static SOURCES: HashMap<SourceKey, u32, { MAX_TUNNELS * 2 }, LAZY> = HashMap::new();
#[btf_map(name = "tunnel_stats")]
pub static TUNNEL_STATS: PerCpuHashMap<u32, TunnelStats, MAX_TUNNELS, LAZY> = PerCpuHashMap::new();
#[btf_map(name = "drops")]
pub static DROPS: PerCpuArray<u64, { DROPS_LEN as usize }> = PerCpuArray::new();
#[btf_map(name = "stats")]
pub static STATS: PerCpuArray<u64, { STATS_LEN as usize }> = PerCpuArray::new();

#[btf_map(name = "vips")]
pub static VIPS: HashMap<Ip, Vip, MAX_LBS, LAZY> = HashMap::new();
#[btf_map(name = "services")]
pub static SERVICES: HashMap<ServiceKey, Service, MAX_SERVICES, LAZY> = HashMap::new();
#[btf_map(name = "source_ranges")]
pub static SOURCE_RANGES: LpmTrie<SourceRangeKey, SourceRange, MAX_SOURCE_RANGES> = LpmTrie::new();
#[btf_map(name = "maglev")]
pub static MAGLEV: HashOfMaps<Lb, Array<u32, { MAGLEV_SLOTS as usize }>, MAX_LBS, LAZY> = HashOfMaps::new();
#[btf_map(name = "flows")]
pub static FLOWS: LruHashMap<FlowKey, Flow, MAX_FLOWS> = LruHashMap::new();
#[btf_map(name = "flow_budget")]
pub static FLOW_BUDGET: PerCpuArray<FlowBudget, 1> = PerCpuArray::new();
#[btf_map(name = "proxies")]
pub static PROXIES: HashMap<u32, Proxy, MAX_PROXIES, LAZY> = HashMap::new();
#[btf_map(name = "local_proxies")]
pub static LOCAL_PROXIES: HashMap<u32, LocalProxy, MAX_LOCAL_PROXIES, LAZY> = HashMap::new();
#[btf_map(name = "listeners")]
pub static LISTENERS: HashMap<ListenerKey, Listener, MAX_SERVICES, LAZY> = HashMap::new();
#[btf_map(name = "aliases")]
pub static ALIASES: HashMap<AliasKey, Alias, MAX_ENDPOINTS, LAZY> = HashMap::new();
#[btf_map(name = "endp_aliases")]
pub static ENDPOINT_ALIASES: HashMap<EndpointAliasKey, Ip, MAX_ENDPOINTS, LAZY> = HashMap::new();
#[btf_map(name = "passes")]
pub static PASSES: HashMap<PassKey, Pass, MAX_ENDPOINTS, LAZY> = HashMap::new();

#[btf_map(name = "routes")]
pub static ROUTES: HashMap<Ip, Route, MAX_ROUTES, LAZY> = HashMap::new();
#[btf_map(name = "learned_proxies")]
pub static LEARNED_PROXIES: LruHashMap<Ip, LearnedProxy, MAX_ROUTES> = LruHashMap::new();
#[btf_map(name = "endpoints")]
pub static ENDPOINTS: HashMap<EndpointKey, Endpoint, MAX_CLIENT_ENDPOINTS, LAZY> = HashMap::new();

/// The configuration, once the agent has written it.
#[inline(always)]
pub fn config() -> Option<&'static Config> {
    get(&CONFIG_MAP, &CONFIG_KEY)
}

/// A value of a hash map.
///
/// The reference is good for this run of the program: the kernel frees elements only after it. An element that is
/// replaced meanwhile may be reused and change under us; every value is read once and checked where that matters, and
/// a packet judged by half of an old and half of a new value is one that arrived during the change.
#[inline(always)]
pub fn get<K, V, const M: usize, const F: usize>(
    map: &'static HashMap<K, V, M, F>,
    key: &K,
) -> Option<&'static V> {
    // SAFETY: see above.
    unsafe { map.get(key) }
}
