//! The hosts that all tests play on, and their maps.
//!
//! Node 198.51.100.1 has proxy 1 (pod 10.244.1.7, proxy address 100.64.0.1); node 198.51.100.3 has proxy 3. The
//! LoadBalancer 3/7 has VIP 192.0.2.7:80 and an endpoint 10.244.1.5:8080, alias 100.127.0.7, at client 198.51.100.2
//! behind tunnel 9.

use aya::Pod;
use epic_abi::{Ip, IpRange, Lb, PROTOCOL_TCP, gue::Key, maps::*};
use epic_core::Tables;

/// The interface every packet comes in by: the kernel takes the loopback device of the namespace.
pub const IFINDEX: u32 = 1;

pub const LB: Lb = Lb::new(3, 7);
pub const OTHER_LB: Lb = Lb::new(4, 7);
pub const TUNNEL: u32 = 9;
pub const DATA_KEY: [u8; 16] = *b"data key of now!";
pub const OLD_KEY: [u8; 16] = *b"earlier data key";
pub const NEXT_KEY: [u8; 16] = *b"DATA KEY OF NEXT";
pub const NODE_KEY: [u8; 16] = *b"node key of gen2";

pub const NODE: &str = "198.51.100.1";
pub const NODE2: &str = "198.51.100.3";
pub const CLIENT: &str = "198.51.100.2";
pub const VIP: &str = "192.0.2.7";
pub const POD: &str = "10.244.1.7";
pub const PROXY: &str = "100.64.0.1";
pub const ALIAS: &str = "100.127.0.7";
pub const ENDPOINT: &str = "10.244.1.5";
pub const INTERNET: &str = "203.0.113.10";
pub const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];

pub fn ip(text: &str) -> Ip {
    text.parse::<std::net::Ipv4Addr>().unwrap().into()
}

pub fn key(generation: u32, key: &[u8; 16]) -> KeySlot {
    KeySlot { generation, key: Key(*key) }
}

pub fn config() -> Config {
    Config {
        gue_port: 6080,
        ops_port: 9901,
        public_ifindex: IFINDEX,
        underlay_ifindex: IFINDEX,
        underlay_mtu: 1500,
        device_ifindex: IFINDEX,
        maglev_seed: 42,
        learned_seconds: 60,
        mac: MAC,
        proxies_v4: IpRange::new(ip("100.64.0.0"), 11),
        aliases_v4: IpRange::new(ip("100.127.0.0"), 16),
        underlay: ip(NODE),
        ..Config::default()
    }
}

pub fn tunnel(local: &str) -> Tunnel {
    Tunnel {
        lb: LB,
        ifindex: IFINDEX,
        mtu: 1500,
        generation: 2,
        key: Key(DATA_KEY),
        local: ip(local),
        ..Tunnel::default()
    }
}

pub fn remote(address: &str, port: u16, flags: u16) -> Remote {
    Remote { address: ip(address), port, flags, ..Remote::default() }
}

pub fn source(address: &str, port: u16, lb: Lb) -> SourceKey {
    SourceKey { address: ip(address), port, _reserved: 0, lb }
}

pub fn service_key(port: u16) -> ServiceKey {
    ServiceKey { address: ip(VIP), port, protocol: PROTOCOL_TCP, _reserved: 0 }
}

pub fn service() -> Service {
    Service { lb: LB, listener_port: 10001, ..Service::default() }
}

pub fn local_proxy() -> Proxy {
    Proxy { lb: LB, ifindex: IFINDEX, pod_v4: ip(POD), ..Proxy::default() }
}

/// Proxy 1, seen from its veth.
pub fn listed_pod() -> LocalProxy {
    LocalProxy { proxy: 1, lb: LB, pod_v4: ip(POD), address_v4: ip(PROXY), ..LocalProxy::default() }
}

/// Maps that can be filled: those of the kernel, or tables.
pub trait Put {
    /// Puts an entry into a HASH map.
    fn put<K: Pod, V: Pod>(&mut self, map: &str, key: K, value: V);
    /// Puts a Maglev table in place that has nothing but these proxies, in turn.
    fn put_maglev(&mut self, lb: Lb, proxies: &[u32]);
    /// Makes the counters of a tunnel.
    fn count_tunnel(&mut self, tunnel: u32);
}

/// Fills the maps of an EPIC node.
pub fn node(to: &mut impl Put) {
    to.put("config", CONFIG_KEY, config());
    to.put("locals", ip(NODE), Local { ifindex: IFINDEX });
    to.put("nodes", ip(NODE2), Node::default());
    let keys = LbKeys {
        data: [key(1, &OLD_KEY), key(2, &DATA_KEY), key(3, &NEXT_KEY)],
        node: [key(2, &NODE_KEY), KeySlot::default(), KeySlot::default()],
        node_current: 0,
    };
    to.put("keys", LB, keys);
    to.count_tunnel(TUNNEL);
    to.put("tunnels", TUNNEL, tunnel(NODE));
    to.put("remotes", TUNNEL, remote(CLIENT, 6080, 0));
    to.put("sources", source(CLIENT, 0, LB), TUNNEL);
    let endpoint = EndpointAliasKey {
        tunnel: TUNNEL,
        address: ip(ENDPOINT),
        port: 8080,
        protocol: PROTOCOL_TCP,
        _reserved: 0,
    };
    to.put("endp_aliases", endpoint, ip(ALIAS));
    to.put("proxies", 1u32, local_proxy());
    to.put("proxies", 3u32, Proxy { lb: LB, node: ip(NODE2), ..Proxy::default() });
    to.put("proxies", 4u32, Proxy { lb: OTHER_LB, ..local_proxy() });
    to.put("local_proxies", IFINDEX, listed_pod());
    let alias = Alias { tunnel: TUNNEL, port: 8080, protocol: PROTOCOL_TCP, flags: 0, address: ip(ENDPOINT) };
    to.put("aliases", AliasKey { lb: LB, address: ip(ALIAS) }, alias);
    to.put_maglev(LB, &[1]);
    to.put("services", service_key(80), service());
    let listener = ListenerKey { lb: LB, port: 10001, protocol: PROTOCOL_TCP, family: FAMILY_V4 };
    to.put("listeners", listener, Listener { address: ip(VIP), port: 80, flags: 0 });
    to.put("vips", ip(VIP), Vip { flags: VIP_OWNED });
}

/// Fills the maps of a client node.
pub fn client(to: &mut impl Put) {
    to.put("config", CONFIG_KEY, config());
    to.put("locals", ip(CLIENT), Local { ifindex: IFINDEX });
    to.put("nodes", ip(NODE), Node::default());
    let data = [key(1, &OLD_KEY), key(2, &DATA_KEY), key(3, &NEXT_KEY)];
    to.put("keys", LB, LbKeys { data, ..LbKeys::default() });
    to.count_tunnel(TUNNEL);
    to.put("tunnels", TUNNEL, tunnel(CLIENT));
    to.put("remotes", TUNNEL, remote(NODE, 6080, 0));
    to.put("sources", source(NODE, 0, LB), TUNNEL);
    to.put("routes", ip(PROXY), Route { tunnel: TUNNEL, lb: LB });
    let endpoint =
        EndpointKey { lb: LB, address: ip(ENDPOINT), port: 8080, protocol: PROTOCOL_TCP, _reserved: 0 };
    to.put("endpoints", endpoint, Endpoint::default());
}

impl Put for Tables {
    fn put<K: Pod, V: Pod>(&mut self, map: &str, key: K, value: V) {
        Self::put(self, map, bytes_of(&key), bytes_of(&value));
    }

    fn put_maglev(&mut self, lb: Lb, proxies: &[u32]) {
        let slots = (0..MAGLEV_SLOTS).zip(proxies.iter().cycle());
        let slots: Vec<u8> = slots.flat_map(|(_, proxy)| proxy.to_ne_bytes()).collect();
        Self::put(self, "maglev", bytes_of(&lb), &slots);
    }

    fn count_tunnel(&mut self, tunnel: u32) {
        Self::put(self, "tunnel_stats", bytes_of(&tunnel), bytes_of(&TunnelStats::default()));
    }
}

/// The bytes of a key or value.
pub fn bytes_of<T: Pod>(value: &T) -> &[u8] {
    // SAFETY: plain old data; the keys and values of maps have no padding (asserted where they are declared).
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}
