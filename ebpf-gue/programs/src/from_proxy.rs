//! `epic_from_proxy`: everything a tenant's pod sends.
//!
//! A proxy may reach the endpoints of its LoadBalancer, the clients of its listeners and what is written down for it;
//! everything else it may try ends here. A pod without an entry, because it is not listed as a proxy yet or no more,
//! answers its probes and reaches xDS.

use aya_ebpf::programs::TcContext;
use epic_abi::{
    Ip, Lb, PROTOCOL_TCP, PROTOCOL_UDP,
    drop::DropReason,
    maps::{AliasKey, Config, FAMILY_V4, Listener, ListenerKey, LocalProxy, PassKey},
    stats::Event,
};

use crate::{
    arp, count,
    fib::{self, Way},
    frame,
    icmp::{self, Message},
    ingress::{IP6, v6_address},
    maps, mss, nat,
    packet::{ETH, ETH_ARP, ETH_IPV4, ETH_IPV6, IP, Ipv4, Tcp, linear, read},
    tunnel,
    verdict::{NEXT, Step, drop, next, refuse},
};

/// Next header ICMPv6.
const ICMPV6: u8 = 58;
/// ICMPv6: router solicitation, neighbour solicitation, neighbour advertisement.
const ROUTER_SOLICITATION: u8 = 133;
const SOLICITATION: u8 = 135;
const ADVERTISEMENT: u8 = 136;
/// Next header hop-by-hop options.
const HOP_BY_HOP: u8 = 0;
/// ff02::16, as the packet has it.
const MULTICAST_ROUTERS: [u32; 4] = [0xFF02_0000u32.to_be(), 0, 0, 0x16u32.to_be()];
/// The LoadBalancer of entries that are written for every proxy.
const FOR_ALL: Lb = Lb::new(0, 0);

/// The program.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    // A tag would stay on what goes into a tunnel or to the internet: the pod would choose a VLAN of the node's link.
    if frame::is_tagged(ctx) {
        return drop(DropReason::Protocol);
    }
    // SAFETY: a field of the context, read only.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    let Some(config) = maps::config() else { return drop(DropReason::NotConfigured) };
    let proxy = maps::get(&maps::LOCAL_PROXIES, &ifindex);
    let Some(base) = linear(ctx, ETH) else { return drop(DropReason::Malformed) };
    // SAFETY: linear covers the Ethernet header.
    match unsafe { read::<u16>(base, 12) } {
        ETH_IPV4 => match v4(ctx, config, proxy) {
            Ok(verdict) | Err(verdict) => verdict,
        },
        ETH_ARP => arp::from_pod(ctx, proxy),
        ETH_IPV6 => v6(ctx, proxy),
        _ => drop(DropReason::Protocol),
    }
}

/// Neighbour discovery stays on the link and may pass. Nothing else: a node listens on its link-local addresses too.
#[inline(always)]
fn v6(ctx: &TcContext, proxy: Option<&LocalProxy>) -> i32 {
    let Some(base) = linear(ctx, ETH + IP6 + 8) else { return drop(DropReason::Ipv6) };
    // SAFETY: linear covers the IPv6 header and what follows it for eight bytes.
    let (next, kind, destination): (u8, u8, Ip) =
        unsafe { (read(base, ETH + 6), read(base, ETH + IP6), v6_address(base, ETH + 24)) };
    match (next, kind) {
        (ICMPV6, ROUTER_SOLICITATION) => NEXT,
        (ICMPV6, SOLICITATION | ADVERTISEMENT) => neighbour(ctx, proxy, kind),
        // Reports to the link's multicast routers, without which a snooping bridge brings the pod no solicitation.
        (HOP_BY_HOP, _) if destination.words == MULTICAST_ROUTERS => NEXT,
        _ => drop(DropReason::Ipv6),
    }
}

/// What a pod says by neighbour discovery, fenced as [`arp::from_pod`]: receivers learn the MAC address of an
/// advertisement's target and of a solicitation's source, so both must be the pod's own. Link-local addresses are not
/// known here, and no packet that may pass has one.
#[inline(always)]
fn neighbour(ctx: &TcContext, proxy: Option<&LocalProxy>, kind: u8) -> i32 {
    let Some(proxy) = proxy else { return NEXT };
    let Some(base) = linear(ctx, ETH + IP6 + 24) else { return drop(DropReason::Malformed) };
    // SAFETY: linear covers the IPv6 header and the message up to the end of its target.
    let (source, target) = unsafe { (v6_address(base, ETH + 8), v6_address(base, ETH + IP6 + 8)) };
    let solicits = kind == SOLICITATION;
    let is_own = if source.is_unspecified() {
        // Asks whether somebody has the address (RFC 4862), and tells nobody a MAC address.
        solicits
    } else {
        source == proxy.pod_v6 && (solicits || target == proxy.pod_v6)
    };
    if is_own { NEXT } else { drop(DropReason::PodSource) }
}

#[inline(always)]
fn v4(ctx: &TcContext, config: &Config, proxy: Option<&LocalProxy>) -> Step<i32> {
    let Some(base) = linear(ctx, ETH + IP) else { return refuse(DropReason::Malformed) };
    // SAFETY: linear covers the IP header; a field of the context is read.
    let (ip, frame) = unsafe { (Ipv4::read(base, ETH), (*ctx.skb.skb).len as usize) };
    let Some(proxy) = proxy else { return not_listed(ctx, config, &Tcp::read::<ETH>(ctx, &ip, frame)?) };
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
    // What is left are replies. Whoever takes over a proxy may bind any port, but a reply opens no connection.
    if tcp.is_opening() {
        return refuse(DropReason::ProxyNotAllowed);
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

/// A tenant's pod that is not listed as a proxy: xDS, and answers to its probes.
#[inline(always)]
fn not_listed(ctx: &TcContext, config: &Config, tcp: &Tcp) -> Step<i32> {
    if is_written(FOR_ALL, tcp.destination, tcp.destination_port, PROTOCOL_TCP) {
        return Ok(next(Event::Passed));
    }
    if tcp.source_port == config.ops_port && !tcp.is_opening() {
        return from_ops(ctx, config, tcp);
    }
    refuse(DropReason::NotListed)
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
    is_written(proxy.lb, address, port, protocol) || is_written(FOR_ALL, address, port, protocol)
}

#[inline(always)]
fn is_written(lb: Lb, address: u32, port: u16, protocol: u8) -> bool {
    let key = PassKey { lb, address: Ip::from_v4_word(address), port, protocol, _reserved: 0 };
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
