//! Maps of an EPIC node: from a VIP to a proxy, from a proxy to an endpoint, and back.

use super::layout;
use crate::{Ip, Lb};

/// Entries of maps with one entry a public port.
pub const MAX_SERVICES: usize = 65_536;
/// Entries of `source_ranges`.
pub const MAX_SOURCE_RANGES: usize = 16_384;
/// Entries of `proxies`.
pub const MAX_PROXIES: usize = 65_536;
/// Entries of `local_proxies`.
pub const MAX_LOCAL_PROXIES: usize = 4_096;
/// Entries of maps with one entry an endpoint.
pub const MAX_ENDPOINTS: usize = 131_072;
/// Entries of `flows`.
pub const MAX_FLOWS: usize = 262_144;
/// Slots of a Maglev table: prime, and over 100 for each of the 20 proxies an account may have by default.
pub const MAGLEV_SLOTS: u32 = 2_039;

layout! {
    /// A public address.
    pub struct Vip {
        /// [`VIP_OWNED`].
        pub flags: u32,
    }

    /// A public port.
    pub struct ServiceKey {
        /// The VIP.
        pub address: Ip,
        /// Public port.
        pub port: u16,
        /// IP protocol number.
        pub protocol: u8,
        /// Zero.
        pub _reserved: u8,
    }

    /// What a public port leads to.
    pub struct Service {
        /// The LoadBalancer.
        pub lb: Lb,
        /// Port its proxies listen on: 10000 + slot.
        pub listener_port: u16,
        /// None defined.
        pub flags: u16,
        /// Set in `source_ranges` the client must be in; 0 = everybody may.
        pub source_ranges: u32,
        /// Seconds of client affinity; 0 = none. Not read by this version.
        pub affinity_seconds: u32,
    }

    /// A network in a set of source ranges: what follows the prefix length in the key of the trie. The prefix
    /// counts 32 bits for the set, then those of the network (96 more for IPv4).
    pub struct SourceRangeKey {
        /// The set, as it stands in [`Service::source_ranges`], or [`SET_OWN_PODS`], [`SET_CLUSTER`].
        pub set: u32,
        /// The network.
        pub address: Ip,
    }

    /// A network that may.
    pub struct SourceRange {
        /// None defined.
        pub flags: u32,
    }

    /// A flow from the internet to a VIP.
    pub struct FlowKey {
        /// The client.
        pub client: Ip,
        /// The VIP.
        pub vip: Ip,
        /// Port of the client.
        pub client_port: u16,
        /// Public port.
        pub vip_port: u16,
        /// IP protocol number.
        pub protocol: u8,
        /// Zero.
        pub _reserved: [u8; 3],
    }

    /// The proxy a flow was given to.
    pub struct Flow {
        /// Proxy id. The entry counts only while `proxies` has it, with the same LoadBalancer as the service.
        pub proxy: u32,
        /// The LoadBalancer at that time.
        pub lb: Lb,
        /// When the flow began, nanoseconds of CLOCK_MONOTONIC.
        pub created_nanos: u64,
    }

    /// How many flows this CPU has entered in the running second.
    pub struct FlowBudget {
        /// Begin of that second, nanoseconds of CLOCK_MONOTONIC.
        pub window_nanos: u64,
        /// Flows entered since.
        pub used: u64,
    }

    /// A proxy anywhere.
    pub struct Proxy {
        /// The LoadBalancer it serves.
        pub lb: Lb,
        /// Host side of its veth when it runs on this node, else 0.
        pub ifindex: u32,
        /// [`PROXY_DRAINING`].
        pub flags: u32,
        /// GUE address of its node, for proxies on other nodes.
        pub node: Ip,
        /// IPv4 address of the pod, when it runs on this node.
        pub pod_v4: Ip,
        /// IPv6 address of the pod, when it runs on this node and has one.
        pub pod_v6: Ip,
    }

    /// A proxy on this node, seen from its veth.
    pub struct LocalProxy {
        /// Proxy id.
        pub proxy: u32,
        /// The LoadBalancer it serves.
        pub lb: Lb,
        /// None defined.
        pub flags: u32,
        /// IPv4 address of the pod.
        pub pod_v4: Ip,
        /// IPv6 address of the pod, or unspecified.
        pub pod_v6: Ip,
        /// Its proxy address.
        pub address_v4: Ip,
        /// Its IPv6 proxy address, or unspecified.
        pub address_v6: Ip,
    }

    /// A port a LoadBalancer's proxies listen on.
    pub struct ListenerKey {
        /// The LoadBalancer.
        pub lb: Lb,
        /// Port of the listener.
        pub port: u16,
        /// IP protocol number.
        pub protocol: u8,
        /// [`FAMILY_V4`] or [`FAMILY_V6`].
        pub family: u8,
    }

    /// The public side of a listener.
    pub struct Listener {
        /// The VIP.
        pub address: Ip,
        /// Public port.
        pub port: u16,
        /// None defined.
        pub flags: u16,
    }

    /// An alias of an endpoint. Its port is not part of the key: it is checked against the value.
    pub struct AliasKey {
        /// The LoadBalancer of the proxy that sends.
        pub lb: Lb,
        /// The alias.
        pub address: Ip,
    }

    /// What an alias stands for.
    pub struct Alias {
        /// Tunnel from this node to the endpoint's node.
        pub tunnel: u32,
        /// Port of the endpoint; other ports of the alias are dropped.
        pub port: u16,
        /// IP protocol number of the endpoint; others are dropped.
        pub protocol: u8,
        /// None defined.
        pub flags: u8,
        /// Real address of the endpoint.
        pub address: Ip,
    }

    /// An endpoint as the packets of a tunnel show it.
    pub struct EndpointAliasKey {
        /// Tunnel id.
        pub tunnel: u32,
        /// Real address of the endpoint.
        pub address: Ip,
        /// Port of the endpoint.
        pub port: u16,
        /// IP protocol number.
        pub protocol: u8,
        /// Zero.
        pub _reserved: u8,
    }

    /// A destination a proxy may reach without a tunnel.
    pub struct PassKey {
        /// The LoadBalancer of the proxy; zero = all.
        pub lb: Lb,
        /// Destination address.
        pub address: Ip,
        /// Destination port.
        pub port: u16,
        /// IP protocol number.
        pub protocol: u8,
        /// Zero.
        pub _reserved: u8,
    }

    /// That it may.
    pub struct Pass {
        /// None defined.
        pub flags: u32,
    }
}

/// Set of `source_ranges`: networks of this node's own pods. Whoever calls from there has not called by a VIP.
pub const SET_OWN_PODS: u32 = u32::MAX;
/// Set of `source_ranges`: networks of all pods and the addresses of all nodes of the EPIC cluster, from where proxies are
/// scraped.
pub const SET_CLUSTER: u32 = u32::MAX - 1;
/// This node answers ARP for the VIP on its public interface.
pub const VIP_OWNED: u32 = 1;
/// The proxy keeps the flows it has; a new connection that reuses the ports of an old flow goes elsewhere.
pub const PROXY_DRAINING: u32 = 1;
/// [`ListenerKey::family`] of IPv4.
pub const FAMILY_V4: u8 = 4;
/// [`ListenerKey::family`] of IPv6.
pub const FAMILY_V6: u8 = 6;
