//! `epic_from_proxy`: everything a proxy sends.
//!
//! A proxy may reach the endpoints of its LoadBalancer, the clients of its listeners and what is written down for it;
//! everything else it may try ends here.

use aya_ebpf::programs::TcContext;
use epic_abi::{
    Ip, PROTOCOL_TCP, PROTOCOL_UDP,
    drop::DropReason,
    maps::{AliasKey, Config, FAMILY_V4, Listener, ListenerKey, LocalProxy, PassKey},
    stats::Event,
};

use crate::{
    count,
    fib::{self, Way},
    icmp::{self, Message},
    ingress::v6_address,
    maps, mss, nat,
    packet::{ETH, ETH_ARP, ETH_IPV4, ETH_IPV6, IP, Ipv4, Tcp, linear, read},
    tunnel,
    verdict::{NEXT, Step, drop, next, refuse},
};

/// The program.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    // SAFETY: a field of the context, read only.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let (Some(config), Some(proxy)) = (maps::config(), maps::get(&maps::LOCAL_PROXIES, &ifindex)) else {
        return drop(DropReason::NotConfigured);
    };
    let Some(base) = linear(ctx, ETH) else { return drop(DropReason::Malformed) };
    // SAFETY: linear covers the Ethernet header.
    match unsafe { read::<u16>(base, 12) } {
        ETH_IPV4 => match v4(ctx, config, proxy) {
            Ok(verdict) | Err(verdict) => verdict,
        },
        // The pod finds its gateway by it. It cannot reach a VIP's or alias's owner that way: both are off-link.
        ETH_ARP => NEXT,
        ETH_IPV6 => v6(ctx),
        _ => drop(DropReason::Protocol),
    }
}

/// Neighbour discovery and the like stay on the link and may pass; the rest is for a later version.
#[inline(always)]
fn v6(ctx: &TcContext) -> i32 {
    let Some(base) = linear(ctx, ETH + 40) else { return drop(DropReason::Malformed) };
    // SAFETY: linear covers the IPv6 header.
    let destination = unsafe { v6_address(base, ETH + 24) };
    let head = u32::from_be(destination.words[0]);
    // ff00::/8 multicast, fe80::/10 link-local.
    if head >> 24 == 0xFF || head >> 22 == 0xFE80 >> 6 { NEXT } else { drop(DropReason::Ipv6) }
}

#[inline(always)]
fn v4(ctx: &TcContext, config: &Config, proxy: &LocalProxy) -> Step<i32> {
    let Some(base) = linear(ctx, ETH + IP) else { return refuse(DropReason::Malformed) };
    // SAFETY: linear covers the IP header; a field of the context is read.
    let (ip, frame) = unsafe { (Ipv4::read(base, ETH), (*ctx.skb.skb).len as usize) };
    if !proxy.pod_v4.is_v4() || ip.source != proxy.pod_v4.v4_word() {
        return refuse(DropReason::PodSource);
    }
    if ip.protocol == PROTOCOL_UDP && ip.is_plain() && !ip.is_fragment() {
        return udp(ctx, config, proxy, &ip);
    }
    let tcp = Tcp::read::<ETH>(ctx, &ip, frame)?;
    if config.aliases_v4.contains_v4(tcp.destination) {
        return to_endpoint(ctx, config, proxy, &tcp);
    }
    if is_passed(proxy, tcp.destination, tcp.destination_port, PROTOCOL_TCP) {
        return Ok(next(Event::Passed));
    }
    if tcp.source_port == config.ops_port {
        return from_ops(ctx, config, &tcp);
    }
    let key = ListenerKey { lb: proxy.lb, port: tcp.source_port, protocol: PROTOCOL_TCP, family: FAMILY_V4 };
    match maps::get(&maps::LISTENERS, &key) {
        Some(listener) => reply(ctx, config, listener, &tcp),
        None => refuse(DropReason::ProxyNotAllowed),
    }
}

/// UDP goes where it is explicitly allowed, and nowhere else yet.
#[inline(always)]
fn udp(ctx: &TcContext, config: &Config, proxy: &LocalProxy, ip: &Ipv4) -> Step<i32> {
    let Some(base) = linear(ctx, ETH + IP + 8) else { return refuse(DropReason::Malformed) };
    // SAFETY: linear covers the UDP header.
    let port = u16::from_be(unsafe { read(base, ETH + IP + 2) });
    if config.aliases_v4.contains_v4(ip.destination) {
        return refuse(DropReason::Protocol);
    }
    if is_passed(proxy, ip.destination, port, PROTOCOL_UDP) {
        return Ok(next(Event::Passed));
    }
    refuse(DropReason::ProxyNotAllowed)
}

/// Whether the destination is written down for this proxy's LoadBalancer or for all.
#[inline(always)]
fn is_passed(proxy: &LocalProxy, address: u32, port: u16, protocol: u8) -> bool {
    let mut key = PassKey { lb: proxy.lb, address: Ip::from_v4_word(address), port, protocol, _reserved: 0 };
    if maps::get(&maps::PASSES, &key).is_some() {
        return true;
    }
    key.lb = epic_abi::Lb::new(0, 0);
    maps::get(&maps::PASSES, &key).is_some()
}

/// To an alias: through the tunnel to the endpoint behind it.
#[inline(always)]
fn to_endpoint(ctx: &TcContext, config: &Config, proxy: &LocalProxy, tcp: &Tcp) -> Step<i32> {
    let key = AliasKey { lb: proxy.lb, address: Ip::from_v4_word(tcp.destination) };
    let alias = match maps::get(&maps::ALIASES, &key) {
        Some(alias) if alias.port == tcp.destination_port && alias.protocol == PROTOCOL_TCP => alias,
        _ => return refuse(DropReason::UnknownAlias),
    };
    if !alias.address.is_v4() || !proxy.address_v4.is_v4() {
        return refuse(DropReason::Ipv6);
    }
    let Some(entry) = maps::get(&maps::TUNNELS, &alias.tunnel) else { return refuse(DropReason::NoTunnel) };
    // Both refusals before any NAT: they quote the packet, and the proxy must recognise it.
    let Some(remote) = maps::get(&maps::REMOTES, &alias.tunnel) else {
        return Err(icmp::answer(ctx, Message::HostUnreachable, DropReason::NoRemote, 0));
    };
    let limit = tunnel::inner_mtu(entry.mtu);
    if tcp.on_the_wire(ctx) > limit {
        return Err(icmp::answer(ctx, Message::FragNeeded(limit), DropReason::TooBigForTunnel, 0));
    }
    let to = Tcp { source: proxy.address_v4.v4_word(), destination: alias.address.v4_word(), ..*tcp };
    nat::rewrite(ctx, tcp, &to)?;
    mss::clamp(ctx, &to, limit)?;
    tunnel::send(ctx, alias.tunnel, entry, remote, &to, config.gue_port)
}

/// From the bootstrap's readiness and stats listener: kubelet and scrapers are on the node or in the pod network.
#[inline(always)]
fn from_ops(ctx: &TcContext, config: &Config, tcp: &Tcp) -> Step<i32> {
    match fib::way(ctx, tcp, config.public_ifindex) {
        Way::Inside => Ok(next(Event::PassedOps)),
        Way::Interface(ifindex) if ifindex != config.public_ifindex && ifindex != config.underlay_ifindex => {
            Ok(next(Event::PassedOps))
        }
        _ => refuse(DropReason::ProxyNotAllowed),
    }
}

/// The reply of a listener, to a client out there. Sent on directly: the stack would see a source that is not ours on
/// the way out and, half a connection, call it invalid.
#[inline(always)]
fn reply(ctx: &TcContext, config: &Config, listener: &Listener, tcp: &Tcp) -> Step<i32> {
    match fib::way(ctx, tcp, config.public_ifindex) {
        Way::Interface(ifindex) if ifindex == config.public_ifindex => {}
        Way::Refused => return refuse(DropReason::NoRoute),
        // A client of the pod's own address, on the node or in the pod network: it does not know the VIP.
        _ => return refuse(DropReason::ReplyNotPublic),
    }
    let to = Tcp { source: listener.address.v4_word(), source_port: listener.port, ..*tcp };
    let packets = count::packets(ctx);
    nat::rewrite(ctx, tcp, &to)?;
    // The client's packets may arrive at another node and have to come here in GUE.
    mss::clamp(ctx, &to, tunnel::inner_mtu(config.underlay_mtu))?;
    count::event(Event::Reply, packets);
    Ok(tunnel::leave(config.public_ifindex))
}
