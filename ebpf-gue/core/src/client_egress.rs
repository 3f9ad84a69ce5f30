//! `epic_client_egress`: what leaves a client node by `epic0`, the device that the proxy addresses are routed to.
//!
//! Nothing passes: a packet goes into its tunnel or is dropped, so none leaves in clear whatever the host's routes.

use epic_abi::{
    drop::DropReason,
    maps::{CONFIG_KEY, Config},
};

use crate::{
    Bare, Carried, Family, Frame, Maps, Step, V4, V6, Verdict,
    encapsulate::{self, inner_mtu},
    icmp::{self, Message, Sender},
    mss,
    packet::{Ethernet, Packet, header},
};

/// The program.
///
/// # Errors
/// The reason for which the packet is dropped.
#[inline(always)]
pub fn run<F: Frame, M: Maps>(frame: &mut F, maps: &M) -> Step<Verdict> {
    let Some(config) = maps.config(&CONFIG_KEY) else { return Err(DropReason::NotConfigured) };
    let Some(window) = frame.window::<Ethernet>() else { return Err(DropReason::Malformed) };
    match window.get::<u16>(12) {
        V4::ETHERTYPE => carried::<V4, V4, F, M>(frame, maps, config),
        // Router solicitations and the like of a device that has nobody to talk to.
        V6::ETHERTYPE => Err(DropReason::Ipv6),
        _ => Err(DropReason::Protocol),
    }
}

/// A packet of a family that is carried, by outer packets of family `O`.
#[inline(always)]
fn carried<O: Carried, I: Carried, F: Frame, M: Maps>(
    frame: &mut F,
    maps: &M,
    config: &Config,
) -> Step<Verdict> {
    let Some(ip) = header::<Bare, I, F>(frame) else { return Err(DropReason::Malformed) };
    let Some(id) = tunnel_to::<I, F, M>(frame, maps, ip.destination) else {
        return Err(DropReason::NoProxyRoute);
    };
    let end = frame.length();
    let packet = Packet::read::<Bare, F>(frame, &ip, end)?;
    let Some(tunnel) = maps.tunnels(&id) else { return Err(DropReason::NoTunnel) };
    let Some(remote) = maps.remotes(&id) else { return Err(DropReason::NoRemote) };
    let limit = inner_mtu::<O>(tunnel.mtu);
    if packet.biggest(frame) > limit {
        // The MTU of the device makes the kernel say so itself, unless this tunnel is narrower than others.
        return icmp::answer(frame, Message::FragNeeded(limit), DropReason::TooBigForTunnel, Sender::Host);
    }
    mss::clamp(frame, maps, &packet, limit)?;
    let act = encapsulate::send::<O, I, F, M>(frame, maps, config, (id, tunnel, remote), &packet)?;
    Ok(Verdict { act, ..Verdict::NEXT })
}

/// The tunnel to the node of a proxy.
#[inline(always)]
fn tunnel_to<I: Family, F: Frame, M: Maps>(frame: &F, maps: &M, proxy: I::Address) -> Option<u32> {
    let address = I::ip(proxy);
    if let Some(route) = maps.routes(&address) {
        return Some(route.tunnel);
    }
    let learned = maps.learned_proxy(&address)?;
    if learned.expires_nanos > frame.now() { Some(learned.tunnel) } else { None }
}
