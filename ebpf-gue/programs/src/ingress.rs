//! `epic_ingress`: everything that arrives at an EPIC node.

use aya_ebpf::programs::TcContext;
use epic_abi::{
    Ip, Lb, PROTOCOL_TCP,
    drop::DropReason,
    maps::{Config, EndpointAliasKey, Proxy},
    stats::Event,
};

use crate::{
    arp, count, frame,
    gue::{self, Arrived, Data, Proof},
    maps, nat,
    packet::{ETH, ETH_ARP, ETH_IPV4, ETH_IPV6, IP, Ipv4, Tcp, linear, read},
    source, tunnel,
    verdict::{NEXT, PASS, Step, drop, refuse},
    vip,
};

/// Length of an IPv6 header.
pub const IP6: usize = 40;

/// The program.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    if frame::is_tagged(ctx) || frame::is_foreign(ctx) {
        return NEXT;
    }
    let Some(config) = maps::config() else { return NEXT };
    let Some(base) = linear(ctx, ETH) else { return NEXT };
    // SAFETY: linear covers the Ethernet header.
    match unsafe { read::<u16>(base, 12) } {
        ETH_IPV4 => v4(ctx, config),
        ETH_ARP => arp::answer(ctx, config),
        ETH_IPV6 => v6(ctx, config),
        _ => NEXT,
    }
}

#[inline(always)]
fn v4(ctx: &TcContext, config: &Config) -> i32 {
    let Some(base) = linear(ctx, ETH + IP) else { return NEXT };
    // SAFETY: linear covers the IP header.
    let ip = unsafe { Ipv4::read(base, ETH) };
    if gue::addressed_to_us(ctx, config, &ip) {
        return match tunnelled(ctx, config, &ip) {
            Ok(verdict) | Err(verdict) => verdict,
        };
    }
    // To a VIP, too: a proxy's own packets come out of a tunnel or a veth, never from the network.
    if config.proxies_v4.contains_v4(ip.source) || config.proxies_v4.contains_v4(ip.destination) {
        return drop(DropReason::BareProxyAddress);
    }
    if maps::get(&maps::VIPS, &Ip::from_v4_word(ip.destination)).is_some() {
        return vip::arrive(ctx, config, &ip);
    }
    NEXT
}

/// IPv6 is carried by a later version; what is EPIC's must not reach the stack even so.
#[inline(always)]
fn v6(ctx: &TcContext, config: &Config) -> i32 {
    let Some(base) = linear(ctx, ETH + IP6) else { return NEXT };
    // SAFETY: linear covers the IPv6 header.
    let (source, destination) = unsafe { (v6_address(base, ETH + 8), v6_address(base, ETH + 24)) };
    if maps::get(&maps::VIPS, &destination).is_some() {
        return drop(DropReason::Ipv6);
    }
    if config.proxies_v6.contains(&source) || config.proxies_v6.contains(&destination) {
        return drop(DropReason::BareProxyAddress);
    }
    NEXT
}

/// Reads an IPv6 address.
///
/// # Safety
///
/// As for [`read`].
#[inline(always)]
pub unsafe fn v6_address(base: *mut u8, at: usize) -> Ip {
    // SAFETY: the caller's.
    unsafe { Ip { words: [read(base, at), read(base, at + 4), read(base, at + 8), read(base, at + 12)] } }
}

/// GUE to this node.
#[inline(always)]
fn tunnelled(ctx: &TcContext, config: &Config, ip: &Ipv4) -> Step<i32> {
    let data = match gue::read_packet(ctx, ip)? {
        // To the agent's socket. It believes nothing without a cookie and a MAC.
        Arrived::Control => {
            count::event(Event::Control, 1);
            return Ok(PASS);
        }
        Arrived::Data(data) => data,
    };
    match data.prove()? {
        Proof::Data => from_client(ctx, config, &data),
        Proof::Node => from_node(ctx, config, &data),
    }
}

/// From an endpoint to a proxy: the source becomes the endpoint's alias.
#[inline(always)]
fn from_client(ctx: &TcContext, config: &Config, data: &Data) -> Step<i32> {
    let tunnel = data.tunnel()?;
    let tcp = data.inner(ctx)?;
    let key = EndpointAliasKey {
        tunnel,
        address: Ip::from_v4_word(tcp.source),
        port: tcp.source_port,
        protocol: PROTOCOL_TCP,
        _reserved: 0,
    };
    let alias = match maps::get(&maps::ENDPOINT_ALIASES, &key) {
        Some(alias) if alias.is_v4() => alias.v4_word(),
        _ => return refuse(DropReason::InnerSource),
    };
    let proxy = local_proxy(config, data.lb, tcp.destination)?;
    count::received(ctx, tunnel, &tcp);
    deliver(ctx, &tcp, alias, proxy)
}

/// From another node, which has chosen the proxy: deliver or drop.
#[inline(always)]
fn from_node(ctx: &TcContext, config: &Config, data: &Data) -> Step<i32> {
    if maps::get(&maps::NODES, &data.source).is_none() {
        return refuse(DropReason::OuterSource);
    }
    let tcp = data.inner(ctx)?;
    // The other node has asked the same of a client's packet, but for this node's address, which it cannot tell.
    if config.proxies_v4.contains_v4(tcp.source) || source::is_martian(config, tcp.source) {
        return refuse(DropReason::Martian);
    }
    let proxy = local_proxy(config, data.lb, tcp.destination)?;
    count::event(Event::FromNode, count::packets(ctx));
    deliver(ctx, &tcp, tcp.source, proxy)
}

/// The proxy with this proxy address, if it serves `lb` and runs here.
#[inline(always)]
fn local_proxy(config: &Config, lb: Lb, address: u32) -> Step<&'static Proxy> {
    if !config.proxies_v4.contains_v4(address) {
        return refuse(DropReason::InnerDestination);
    }
    let id = config.proxies_v4.index_v4(address);
    match maps::get(&maps::PROXIES, &id) {
        Some(proxy) if proxy.lb == lb => {
            if proxy.ifindex == 0 || !proxy.pod_v4.is_v4() {
                return refuse(DropReason::ProxyElsewhere);
            }
            Ok(proxy)
        }
        _ => refuse(DropReason::InnerDestination),
    }
}

/// Out of the tunnel, into the pod.
#[inline(always)]
fn deliver(ctx: &TcContext, tcp: &Tcp, source: u32, proxy: &Proxy) -> Step<i32> {
    let to = Tcp { source, destination: proxy.pod_v4.v4_word(), ..*tcp };
    tunnel::decapsulate(ctx)?;
    nat::rewrite(ctx, tcp, &to)?;
    Ok(vip::into_pod(proxy.ifindex))
}
