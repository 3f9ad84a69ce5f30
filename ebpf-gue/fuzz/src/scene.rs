//! The hosts that all tests play on, and their maps.
//!
//! Node 198.51.100.1 has proxy 1 (pod 10.244.1.7, proxy address 100.64.0.1); node 198.51.100.3 has proxy 3.
//! The LoadBalancer 3/7 has VIP 192.0.2.7:80 and an endpoint 10.244.1.5:8080, alias 100.127.0.7, at client
//! 198.51.100.2 behind tunnel 9.
//!
//! [`busy_node`] and [`busy_client`] have more of everything, so that every verdict can be reached by a
//! packet alone.

use aya::Pod;
use epic_abi::{Ip, IpRange, Lb, PROTOCOL_TCP, PROTOCOL_UDP, gue::Key, maps::*};
use epic_core::{Tables, Way};

use crate::native::Program;

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

/// A LoadBalancer whose only proxy runs on the other node.
pub const FAR_LB: Lb = Lb::new(3, 8);
/// A LoadBalancer without a Maglev table.
pub const EMPTY_LB: Lb = Lb::new(3, 9);
/// What [`OTHER_LB`] is proven by.
pub const OTHER_KEY: [u8; 16] = *b"OTHER'S DATA KEY";
/// What [`FAR_LB`] is proven by between nodes.
pub const FAR_KEY: [u8; 16] = *b"node key of far!";
/// A client behind a NAT, which shows it at [`NAT_PORT`]; its tunnel [`NARROW`] is narrower than others.
pub const NAT_CLIENT: &str = "198.51.100.4";
pub const NAT_PORT: u16 = 40001;
pub const NARROW: u32 = 12;
pub const NARROW_MTU: u32 = 1400;
/// A tunnel whose far end is not known.
pub const SILENT: u32 = 10;
/// A tunnel that is not there.
pub const ABSENT: u32 = 11;
/// Aliases of endpoints behind these tunnels.
pub const SILENT_ALIAS: &str = "100.127.0.8";
pub const ABSENT_ALIAS: &str = "100.127.0.9";
pub const NARROW_ALIAS: &str = "100.127.0.10";
pub const NARROW_ENDPOINT: &str = "10.244.1.6";
/// A VIP of [`OTHER_LB`] that this node does not answer ARP for.
pub const OTHER_VIP: &str = "192.0.2.8";
pub const VIP_V6: &str = "2001:db8::7";
pub const POD_V6: &str = "fd00:10:244:1::7";
/// Proxy addresses of IPv6 begin here.
pub const PROXIES_V6: &str = "fd00:64::";
/// A proxy that is draining, and its pod.
pub const DRAINING_PROXY: &str = "100.64.0.6";
pub const DRAINING_POD: &str = "10.244.1.8";
/// The port of a client whose flow is the draining proxy's, and of one whose proxy is gone.
pub const DRAINING_PORT: u16 = 40006;
pub const GONE_PORT: u16 = 40007;
/// Where every pod finds its xDS server.
pub const XDS: &str = "10.96.0.50";
/// An endpoint without a tunnel, of [`LB`] alone.
pub const UNTUNNELLED: &str = "172.16.0.9";
/// The set of source ranges of the service at port 443, with 203.0.113.0/28 in it.
pub const RANGES: u32 = 5;
/// Proxies as a client knows them: one behind another tunnel, one of another LoadBalancer, one behind a
/// tunnel without a far end, one behind a narrow tunnel, one whose tunnel is not there.
pub const PROXY_ELSEWHERE: &str = "100.64.0.2";
pub const PROXY_OF_OTHERS: &str = "100.64.0.4";
pub const PROXY_SILENT: &str = "100.64.0.5";
pub const PROXY_NARROW: &str = "100.64.0.6";
pub const PROXY_ABSENT: &str = "100.64.0.7";

/// Interfaces of a node besides [`IFINDEX`], and what its routing table says: the default route is `nic`'s,
/// pods are behind
/// `cni`.
#[derive(Debug, Clone, Copy)]
pub struct Routes {
    pub nic: u32,
    pub cni: u32,
}

impl Routes {
    /// Where the routing table leads a packet to `destination`.
    pub fn way(self, destination: Ip) -> Way {
        let address = u32::from_be(destination.v4_word());
        match address.to_be_bytes() {
            [127, ..] | [10, 244, 1, 1 | 255] | [198, 51, 100, 1 | 255] => Way::Inside,
            [10, 244, 1, _] => Way::Interface(self.cni),
            [192, 0, 2, 128..=255] => Way::Refused,
            _ => Way::Interface(self.nic),
        }
    }
}

/// Maps that can be filled: those of the kernel, or tables.
pub trait Put {
    /// Puts an entry into a HASH map.
    fn put<K: Pod, V: Pod>(&mut self, map: &str, key: K, value: V);
    /// Puts a Maglev table in place that has nothing but these proxies, in turn.
    fn put_maglev(&mut self, lb: Lb, proxies: &[u32]);
    /// Makes the counters of a tunnel.
    fn count_tunnel(&mut self, tunnel: u32);
    /// Admits an IPv4 network to a set of source ranges.
    fn admit(&mut self, set: u32, address: Ip, prefix: u32);
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

fn ipv6(text: &str) -> Ip {
    text.parse::<std::net::Ipv6Addr>().unwrap().into()
}

/// The configuration of the busy hosts. Programs that ask the routing table have their public interface among
/// the routes, the others where their packets come in.
pub fn busy_config(public: u32) -> Config {
    Config {
        public_ifindex: public,
        underlay_ifindex: public,
        proxies_v6: IpRange::new(ipv6(PROXIES_V6), 64),
        ..config()
    }
}

/// Configures a busy host for a program.
pub fn configure(to: &mut impl Put, program: Program, routes: Routes) {
    let public = if program == Program::FromPod { routes.nic } else { IFINDEX };
    to.put("config", CONFIG_KEY, busy_config(public));
}

/// Fills the maps of an EPIC node with more of everything.
pub fn busy_node(to: &mut impl Put) {
    node(to);
    to.put("config", CONFIG_KEY, busy_config(IFINDEX));
    let other =
        LbKeys { data: [key(1, &OTHER_KEY), KeySlot::default(), KeySlot::default()], ..LbKeys::default() };
    to.put("keys", OTHER_LB, other);
    let far = [KeySlot::default(), key(1, &FAR_KEY), KeySlot::default()];
    to.put("keys", FAR_LB, LbKeys { node: far, node_current: 1, ..LbKeys::default() });
    busy_services(to);
    to.put("proxies", 5u32, Proxy { lb: FAR_LB, node: ip(NODE2), ..Proxy::default() });
    let draining = Proxy { pod_v4: ip(DRAINING_POD), flags: PROXY_DRAINING, ..local_proxy() };
    to.put("proxies", 6u32, draining);
    to.put_maglev(OTHER_LB, &[4]);
    to.put_maglev(FAR_LB, &[5]);
    to.put("vips", ip(OTHER_VIP), Vip::default());
    to.put("vips", ipv6(VIP_V6), Vip { flags: VIP_OWNED });
    to.put("local_proxies", IFINDEX, LocalProxy { pod_v6: ipv6(POD_V6), ..listed_pod() });
    to.put("tunnels", SILENT, tunnel(NODE));
    to.count_tunnel(NARROW);
    to.put("tunnels", NARROW, Tunnel { mtu: NARROW_MTU, ..tunnel(NODE) });
    to.put("remotes", NARROW, remote(NAT_CLIENT, NAT_PORT, REMOTE_NAT));
    to.put("sources", source(NAT_CLIENT, NAT_PORT, LB), NARROW);
    let alias = |tunnel, address| Alias {
        tunnel,
        port: 8081,
        protocol: PROTOCOL_TCP,
        flags: 0,
        address: ip(address),
    };
    for (address, tunnel) in [(SILENT_ALIAS, SILENT), (ABSENT_ALIAS, ABSENT), (NARROW_ALIAS, NARROW)] {
        to.put("aliases", AliasKey { lb: LB, address: ip(address) }, alias(tunnel, NARROW_ENDPOINT));
    }
    let endpoint = EndpointAliasKey {
        tunnel: NARROW,
        address: ip(NARROW_ENDPOINT),
        port: 8081,
        protocol: PROTOCOL_TCP,
        _reserved: 0,
    };
    to.put("endp_aliases", endpoint, ip(NARROW_ALIAS));
    let pass =
        |lb, address, port, protocol| PassKey { lb, address: ip(address), port, protocol, _reserved: 0 };
    to.put("passes", pass(Lb::default(), XDS, 18000, PROTOCOL_TCP), 0u32);
    to.put("passes", pass(LB, UNTUNNELLED, 8080, PROTOCOL_TCP), 0u32);
    to.put("passes", pass(LB, UNTUNNELLED, 53, PROTOCOL_UDP), 0u32);
    to.admit(SET_OWN_PODS, ip("10.244.1.0"), 24);
    to.admit(SET_CLUSTER, ip("10.244.0.0"), 16);
    busy_flows(to);
}

fn busy_services(to: &mut impl Put) {
    let ranged = Service { listener_port: 10002, source_ranges: RANGES, ..service() };
    to.put("services", service_key(443), ranged);
    to.admit(RANGES, ip("203.0.113.0"), 28);
    to.put("services", service_key(8080), Service { lb: FAR_LB, ..service() });
    to.put("services", service_key(81), Service { lb: EMPTY_LB, ..service() });
    to.put("services", ServiceKey { protocol: PROTOCOL_UDP, ..service_key(53) }, service());
    let other = ServiceKey { address: ip(OTHER_VIP), ..service_key(80) };
    to.put("services", other, Service { lb: OTHER_LB, ..service() });
    let listener = ListenerKey { lb: LB, port: 10002, protocol: PROTOCOL_TCP, family: FAMILY_V4 };
    to.put("listeners", listener, Listener { address: ip(VIP), port: 443, flags: 0 });
}

/// The flows that the busy node has from the beginning, and has again once all have been forgotten.
pub fn busy_flows(to: &mut impl Put) {
    for (client_port, proxy) in [(DRAINING_PORT, 6), (GONE_PORT, 77)] {
        let key = FlowKey {
            client: ip(INTERNET),
            vip: ip(VIP),
            client_port,
            vip_port: 80,
            protocol: PROTOCOL_TCP,
            _reserved: [0; 3],
        };
        to.put("flows", key, Flow { proxy, lb: LB, created_nanos: 1 });
    }
}

/// Fills the maps of a client node with more of everything.
pub fn busy_client(to: &mut impl Put) {
    client(to);
    to.put("config", CONFIG_KEY, busy_config(IFINDEX));
    let other =
        LbKeys { data: [key(1, &OTHER_KEY), KeySlot::default(), KeySlot::default()], ..LbKeys::default() };
    to.put("keys", OTHER_LB, other);
    to.put("nodes", ip(NODE2), Node::default());
    to.put("sources", source(NODE2, 0, LB), NARROW);
    to.put("sources", source(NODE, 0, OTHER_LB), 13u32);
    to.put("tunnels", SILENT, tunnel(CLIENT));
    to.count_tunnel(NARROW);
    to.put("tunnels", NARROW, Tunnel { mtu: NARROW_MTU, ..tunnel(CLIENT) });
    to.put("remotes", NARROW, remote(NODE2, 6080, REMOTE_NAT));
    for (address, tunnel, lb) in [
        (PROXY_ELSEWHERE, NARROW, LB),
        (PROXY_OF_OTHERS, TUNNEL, OTHER_LB),
        (PROXY_SILENT, SILENT, LB),
        (PROXY_NARROW, NARROW, LB),
        (PROXY_ABSENT, ABSENT, LB),
    ] {
        to.put("routes", ip(address), Route { tunnel, lb });
    }
    let endpoint = EndpointKey {
        lb: LB,
        address: ip(NARROW_ENDPOINT),
        port: 8081,
        protocol: PROTOCOL_TCP,
        _reserved: 0,
    };
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

    fn admit(&mut self, set: u32, address: Ip, prefix: u32) {
        let [a, b, c, d] = address.words;
        // Bits of the set and of the v4-mapped prefix come before those of the network.
        let bits = 32 + 96 + prefix;
        Self::put(self, "source_ranges", bytes_of(&[bits, set, a, b, c, d]), bytes_of(&0u32));
    }
}

/// The bytes of a key or value.
pub fn bytes_of<T: Pod>(value: &T) -> &[u8] {
    // SAFETY: plain old data; the keys and values of maps have no padding (asserted where they are declared).
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast(), size_of::<T>()) }
}
