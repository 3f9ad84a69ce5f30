//! The hosts that all tests play on, and their maps.
//!
//! Node 198.51.100.1 has proxy 1 (pod 10.244.1.7, proxy address 100.64.0.1); node 198.51.100.3 has proxy 3. The
//! LoadBalancer 3/7 has VIP 192.0.2.7:80 and an endpoint 10.244.1.5:8080, alias 100.127.0.7, at client 198.51.100.2
//! behind tunnel 9.

use epic_abi::{Ip, IpRange, Lb, PROTOCOL_TCP, gue::Key, maps::*};
use epic_testnet::Netns;

use crate::kernel::{IFINDEX, Kernel};

pub(crate) const LB: Lb = Lb::new(3, 7);
pub(crate) const OTHER_LB: Lb = Lb::new(4, 7);
pub(crate) const TUNNEL: u32 = 9;
pub(crate) const DATA_KEY: [u8; 16] = *b"data key of now!";
pub(crate) const OLD_KEY: [u8; 16] = *b"earlier data key";
pub(crate) const NEXT_KEY: [u8; 16] = *b"DATA KEY OF NEXT";
pub(crate) const NODE_KEY: [u8; 16] = *b"node key of gen2";

pub(crate) const NODE: &str = "198.51.100.1";
pub(crate) const NODE2: &str = "198.51.100.3";
pub(crate) const CLIENT: &str = "198.51.100.2";
pub(crate) const VIP: &str = "192.0.2.7";
pub(crate) const POD: &str = "10.244.1.7";
pub(crate) const PROXY: &str = "100.64.0.1";
pub(crate) const ALIAS: &str = "100.127.0.7";
pub(crate) const ENDPOINT: &str = "10.244.1.5";
pub(crate) const INTERNET: &str = "203.0.113.10";
pub(crate) const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x11];

pub(crate) fn ip(text: &str) -> Ip {
    text.parse::<std::net::Ipv4Addr>().unwrap().into()
}

pub(crate) fn key(generation: u32, key: &[u8; 16]) -> KeySlot {
    KeySlot { generation, key: Key(*key) }
}

pub(crate) fn config() -> Config {
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

pub(crate) fn tunnel(local: &str) -> Tunnel {
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

pub(crate) fn remote(address: &str, port: u16, flags: u16) -> Remote {
    Remote { address: ip(address), port, flags, ..Remote::default() }
}

pub(crate) fn source(address: &str, port: u16, lb: Lb) -> SourceKey {
    SourceKey { address: ip(address), port, _reserved: 0, lb }
}

pub(crate) fn service_key(port: u16) -> ServiceKey {
    ServiceKey { address: ip(VIP), port, protocol: PROTOCOL_TCP, _reserved: 0 }
}

pub(crate) fn service() -> Service {
    Service { lb: LB, listener_port: 10001, ..Service::default() }
}

pub(crate) fn local_proxy() -> Proxy {
    Proxy { lb: LB, ifindex: IFINDEX, pod_v4: ip(POD), ..Proxy::default() }
}

/// Proxy 1, seen from its veth.
pub(crate) fn listed_pod() -> LocalProxy {
    LocalProxy { proxy: 1, lb: LB, pod_v4: ip(POD), address_v4: ip(PROXY), ..LocalProxy::default() }
}

/// An EPIC node with everything in its maps.
pub(crate) fn node() -> Kernel {
    node_in(Kernel::load(Side::Node))
}

/// The same in programs that are loaded already.
pub(crate) fn node_in(mut kernel: Kernel) -> Kernel {
    kernel.set("config", CONFIG_KEY, config());
    kernel.set("locals", ip(NODE), Local { ifindex: IFINDEX });
    kernel.set("nodes", ip(NODE2), Node::default());
    let keys = LbKeys {
        data: [key(1, &OLD_KEY), key(2, &DATA_KEY), key(3, &NEXT_KEY)],
        node: [key(2, &NODE_KEY), KeySlot::default(), KeySlot::default()],
        node_current: 0,
    };
    kernel.set("keys", LB, keys);
    kernel.count_tunnel(TUNNEL);
    kernel.set("tunnels", TUNNEL, tunnel(NODE));
    kernel.set("remotes", TUNNEL, remote(CLIENT, 6080, 0));
    kernel.set("sources", source(CLIENT, 0, LB), TUNNEL);
    let endpoint = EndpointAliasKey {
        tunnel: TUNNEL,
        address: ip(ENDPOINT),
        port: 8080,
        protocol: PROTOCOL_TCP,
        _reserved: 0,
    };
    kernel.set("endp_aliases", endpoint, ip(ALIAS));
    kernel.set("proxies", 1u32, local_proxy());
    kernel.set("proxies", 3u32, Proxy { lb: LB, node: ip(NODE2), ..Proxy::default() });
    kernel.set("proxies", 4u32, Proxy { lb: OTHER_LB, ..local_proxy() });
    kernel.set("local_proxies", IFINDEX, listed_pod());
    let alias = Alias { tunnel: TUNNEL, port: 8080, protocol: PROTOCOL_TCP, flags: 0, address: ip(ENDPOINT) };
    kernel.set("aliases", AliasKey { lb: LB, address: ip(ALIAS) }, alias);
    kernel.set_maglev(LB, &[1]);
    kernel.set("services", service_key(80), service());
    let listener = ListenerKey { lb: LB, port: 10001, protocol: PROTOCOL_TCP, family: FAMILY_V4 };
    kernel.set("listeners", listener, Listener { address: ip(VIP), port: 80, flags: 0 });
    kernel.set("vips", ip(VIP), Vip { flags: VIP_OWNED });
    kernel
}

/// A client node with everything in its maps.
pub(crate) fn client() -> Kernel {
    client_in(Kernel::load(Side::Client))
}

/// The same in programs that are loaded already.
pub(crate) fn client_in(mut kernel: Kernel) -> Kernel {
    kernel.set("config", CONFIG_KEY, config());
    kernel.set("locals", ip(CLIENT), Local { ifindex: IFINDEX });
    kernel.set("nodes", ip(NODE), Node::default());
    let data = [key(1, &OLD_KEY), key(2, &DATA_KEY), key(3, &NEXT_KEY)];
    kernel.set("keys", LB, LbKeys { data, ..LbKeys::default() });
    kernel.count_tunnel(TUNNEL);
    kernel.set("tunnels", TUNNEL, tunnel(CLIENT));
    kernel.set("remotes", TUNNEL, remote(NODE, 6080, 0));
    kernel.set("sources", source(NODE, 0, LB), TUNNEL);
    kernel.set("routes", ip(PROXY), Route { tunnel: TUNNEL, lb: LB });
    let endpoint =
        EndpointKey { lb: LB, address: ip(ENDPOINT), port: 8080, protocol: PROTOCOL_TCP, _reserved: 0 };
    kernel.set("endpoints", endpoint, Endpoint::default());
    kernel
}

/// A kernel in a namespace whose default route is interface `nic`, and whose pods are behind `cni`.
pub(crate) fn routed<T: Send>(work: impl FnOnce(&mut Kernel) -> T + Send) -> T {
    in_netns(|nic| work(&mut routed_in(node(), nic)))
}

/// The same in programs that are loaded already, in such a namespace.
pub(crate) fn routed_in(mut kernel: Kernel, nic: u32) -> Kernel {
    kernel.set("config", CONFIG_KEY, Config { public_ifindex: nic, underlay_ifindex: nic, ..config() });
    kernel
}

/// Such a namespace; `work` is told the index of `nic`.
pub(crate) fn in_netns<T: Send>(work: impl FnOnce(u32) -> T + Send) -> T {
    let netns = Netns::new("bpf-unit");
    netns.ip("link add nic type veth peer name wire");
    netns.ip("link add cni type veth peer name pod");
    for device in ["lo", "nic", "wire", "cni", "pod"] {
        netns.ip(&format!("link set {device} up"));
    }
    netns.ip("address add 198.51.100.1/24 dev nic");
    netns.ip("address add 10.244.1.1/24 dev cni");
    netns.ip("route add default via 198.51.100.254 dev nic");
    netns.ip("route add blackhole 192.0.2.128/25");
    netns.sysctl("net/ipv4/ip_forward", "1");
    let nic = netns.ip("-o link show nic");
    let nic: u32 = nic.split(':').next().unwrap().trim().parse().unwrap();
    netns.run(|| work(nic))
}
