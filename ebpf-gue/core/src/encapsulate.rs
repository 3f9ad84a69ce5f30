//! Into a GUE tunnel.

use core::marker::PhantomData;

use epic_abi::{
    drop::DropReason,
    flow,
    maps::{Config, REMOTE_FIXED_PORT, REMOTE_NAT, Remote, Tunnel},
};

use crate::{
    Act, Carried, Frame, Maps, Span, Step,
    family::Outer,
    packet::{ETH, Packet},
};

/// Bytes that inner packets may have in a tunnel whose outer packets may have `mtu`.
#[inline(always)]
pub(crate) fn inner_mtu<O: Carried>(mtu: u32) -> u32 {
    mtu.saturating_sub(O::OVERHEAD as u32)
}

/// A frame up to the end of the outer headers.
struct Headers<O>(PhantomData<O>);

impl<O: Carried> Span for Headers<O> {
    const LEN: usize = ETH + O::OVERHEAD;
}

/// Bytes of the packet once it is in a tunnel.
///
/// # Errors
/// No IP packet is so big.
#[inline(always)]
pub(crate) fn total<O: Carried, I: Carried>(packet: &Packet<I>) -> Step<u16> {
    let total = packet.total as u32 + O::OVERHEAD as u32;
    if total > 0xFFFF { Err(DropReason::KernelRefused) } else { Ok(total as u16) }
}

/// Type of service of the outer packet: DSCP of the inner one, no ECN, as receivers of this version do not hand congestion
/// marks inwards.
#[inline(always)]
pub(crate) fn tos<I: Carried>(packet: &Packet<I>) -> u8 {
    packet.tos & 0xFC
}

/// Puts the packet behind the Ethernet header into a GUE packet.
#[inline(always)]
pub(crate) fn encapsulate<O: Carried, I: Carried, F: Frame>(
    frame: &mut F,
    packet: &Packet<I>,
    outer: &Outer<'_, O>,
) -> Step<()> {
    frame.push::<O>(ETH + packet.total as usize)?;
    let Some(mut window) = frame.window::<Headers<O>>() else { return Err(DropReason::KernelRefused) };
    O::outer(&mut window, ETH, outer);
    Ok(())
}

/// Encapsulates into the tunnel `id` towards `remote`, counts, and sends on by the neighbour of the outer destination.
///
/// The neighbour decides the MAC address, not the frame: what a frame carried belonged to the inner next hop.
#[inline(always)]
pub(crate) fn send<O: Carried, I: Carried, F: Frame, M: Maps>(
    frame: &mut F,
    maps: &M,
    config: &Config,
    (id, tunnel, remote): (u32, &Tunnel, &Remote),
    packet: &Packet<I>,
) -> Step<Act> {
    let (packets, bytes) = packet.on_the_wire(frame);
    maps.sent(id, packets, bytes);
    let (Some(source), Some(destination)) = (O::of(&tunnel.local), O::of(&remote.address)) else {
        return Err(DropReason::Ipv6);
    };
    let source_port = if remote.flags & (REMOTE_NAT | REMOTE_FIXED_PORT) != 0 {
        config.gue_port
    } else {
        flow::source_port(packet.hash(0))
    };
    let outer = Outer::<O> {
        addresses: [source, destination],
        ports: [source_port, remote.port],
        total: total::<O, I>(packet)?,
        tos: tos(packet),
        inside: I::INSIDE,
        lb: tunnel.lb,
        key: &tunnel.key,
    };
    encapsulate(frame, packet, &outer)?;
    Ok(Act::Neighbour(tunnel.ifindex))
}
