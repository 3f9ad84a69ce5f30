//! Neighbour discovery of pods: what stays on the link and may pass.

use epic_abi::{Ip, drop::DropReason, maps::LocalProxy};

use crate::{
    Bare, Family, Frame, Step, V6, Verdict,
    packet::{Behind, ETH},
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

/// IPv6 of a pod: neighbour discovery passes. Nothing else: a node listens on its link-local addresses too.
#[inline(always)]
pub(crate) fn from_pod<F: Frame>(frame: &mut F, proxy: Option<&LocalProxy>) -> Step<Verdict> {
    let Some(window) = frame.window::<Behind<Bare, V6, 8>>() else { return Err(DropReason::Ipv6) };
    let (next, kind): (u8, u8) = (window.get(ETH + 6), window.get(ETH + V6::LEN));
    let [_, destination] = V6::addresses(&window, ETH);
    match (next, kind) {
        (ICMPV6, ROUTER_SOLICITATION) => Ok(Verdict::NEXT),
        (ICMPV6, SOLICITATION | ADVERTISEMENT) => speaks_for_itself(frame, proxy, kind),
        // Reports to the link's multicast routers, without which a snooping bridge brings the pod no solicitation.
        (HOP_BY_HOP, _) if destination.words == MULTICAST_ROUTERS => Ok(Verdict::NEXT),
        _ => Err(DropReason::Ipv6),
    }
}

/// Fenced as [`crate::arp::from_pod`]: receivers learn the MAC address of an advertisement's target and of a
/// solicitation's source, so both must be the pod's own. Link-local addresses are not known here, and no packet that may
/// pass has one.
#[inline(always)]
fn speaks_for_itself<F: Frame>(frame: &mut F, proxy: Option<&LocalProxy>, kind: u8) -> Step<Verdict> {
    let Some(proxy) = proxy else { return Ok(Verdict::NEXT) };
    let Some(window) = frame.window::<Behind<Bare, V6, 24>>() else { return Err(DropReason::Malformed) };
    let [source, _] = V6::addresses(&window, ETH);
    let target: Ip = window.get(ETH + V6::LEN + 8);
    let solicits = kind == SOLICITATION;
    let is_own = if source.is_unspecified() {
        // Asks whether somebody has the address (RFC 4862), and tells nobody a MAC address.
        solicits
    } else {
        source == proxy.pod_v6 && (solicits || target == proxy.pod_v6)
    };
    if is_own { Ok(Verdict::NEXT) } else { Err(DropReason::PodSource) }
}
