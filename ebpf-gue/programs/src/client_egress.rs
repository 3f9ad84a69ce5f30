//! `epic_client_egress`: what leaves a client node by `epic0`, the device that the proxy addresses are routed to.
//!
//! Nothing passes: a packet goes into its tunnel or is dropped, so none leaves in clear whatever the host's routes.

use aya_ebpf::{bindings::BPF_F_INGRESS, helpers::generated::bpf_ktime_get_ns, programs::TcContext};
use epic_abi::{Ip, drop::DropReason};

use crate::{
    icmp::{self, Message},
    maps, mss,
    packet::{ETH, ETH_IPV4, ETH_IPV6, IP, Ipv4, Tcp, linear, read},
    tunnel,
    verdict::{Step, drop, refuse},
};

/// The program.
#[inline(always)]
pub fn run(ctx: &TcContext) -> i32 {
    match send(ctx) {
        Ok(verdict) | Err(verdict) => verdict,
    }
}

#[inline(always)]
fn send(ctx: &TcContext) -> Step<i32> {
    let Some(config) = maps::config() else { return refuse(DropReason::NotConfigured) };
    let Some(base) = linear(ctx, ETH + IP) else { return refuse(DropReason::Malformed) };
    // SAFETY: linear covers Ethernet and IP header; a field of the context is read.
    let (kind, ip, frame) =
        unsafe { (read::<u16>(base, 12), Ipv4::read(base, ETH), (*ctx.skb.skb).len as usize) };
    if kind != ETH_IPV4 {
        // Router solicitations and the like of a device that has nobody to talk to.
        return Err(drop(if kind == ETH_IPV6 { DropReason::Ipv6 } else { DropReason::Protocol }));
    }
    let Some(id) = tunnel_to(ip.destination) else { return refuse(DropReason::NoProxyRoute) };
    let tcp = Tcp::read::<ETH>(ctx, &ip, frame)?;
    let Some(entry) = maps::get(&maps::TUNNELS, &id) else { return refuse(DropReason::NoTunnel) };
    let Some(remote) = maps::get(&maps::REMOTES, &id) else { return refuse(DropReason::NoRemote) };
    let limit = tunnel::inner_mtu(entry.mtu);
    if tcp.on_the_wire(ctx) > limit {
        // The MTU of the device makes the kernel say so itself, unless this tunnel is narrower than others.
        let message = Message::FragNeeded(limit);
        return Err(icmp::answer(ctx, message, DropReason::TooBigForTunnel, BPF_F_INGRESS as u64));
    }
    mss::clamp(ctx, &tcp, limit)?;
    tunnel::send(ctx, id, entry, remote, &tcp, config.gue_port)
}

/// The tunnel to the node of a proxy.
#[inline(always)]
fn tunnel_to(proxy: u32) -> Option<u32> {
    let address = Ip::from_v4_word(proxy);
    if let Some(route) = maps::get(&maps::ROUTES, &address) {
        return Some(route.tunnel);
    }
    // SAFETY: the value is copied before anything else happens to the map; the helper has no arguments.
    unsafe {
        let learned = maps::LEARNED_PROXIES.get(&address).copied()?;
        if learned.expires_nanos > bpf_ktime_get_ns() { Some(learned.tunnel) } else { None }
    }
}
