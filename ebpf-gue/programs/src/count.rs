//! Counters: drops by reason, events, traffic of tunnels. All per CPU, so no atomics and no lost increments.

use aya_ebpf::programs::TcContext;
use epic_abi::{drop::DropReason, stats::Event};

use crate::{maps, packet::Tcp};

/// One packet dropped.
#[inline(always)]
pub fn drop(reason: DropReason) {
    if let Some(counter) = maps::DROPS.get_ptr_mut(reason as u32) {
        // SAFETY: this CPU's own slot; programs of one CPU do not run at the same time on it.
        unsafe { *counter += 1 };
    }
}

/// `packets` packets met with `event`.
#[inline(always)]
pub fn event(event: Event, packets: u64) {
    if let Some(counter) = maps::STATS.get_ptr_mut(event as u32) {
        // SAFETY: as above.
        unsafe { *counter += packets };
    }
}

/// Packets and bytes that `tcp` is on the wire: a super-packet is cut into segments that repeat its headers.
#[inline(always)]
fn on_the_wire(ctx: &TcContext, tcp: &Tcp) -> (u64, u64) {
    // SAFETY: a field of the context, read only.
    let segments = unsafe { (*ctx.skb.skb).gso_segs } as u64;
    let packets = if segments > 1 { segments } else { 1 };
    (packets, tcp.total as u64 + (packets - 1) * tcp.headers() as u64)
}

/// Number of packets `ctx` is on the wire.
#[inline(always)]
pub fn packets(ctx: &TcContext) -> u64 {
    // SAFETY: a field of the context, read only.
    let segments = unsafe { (*ctx.skb.skb).gso_segs } as u64;
    if segments > 1 { segments } else { 1 }
}

/// An inner packet goes into the tunnel.
#[inline(always)]
pub fn sent(ctx: &TcContext, tunnel: u32, tcp: &Tcp) {
    if let Some(stats) = maps::TUNNEL_STATS.get_ptr_mut(tunnel) {
        let (packets, bytes) = on_the_wire(ctx, tcp);
        // SAFETY: this CPU's own value.
        unsafe {
            (*stats).tx_packets += packets;
            (*stats).tx_bytes += bytes;
        }
    }
}

/// An inner packet came out of the tunnel.
#[inline(always)]
pub fn received(ctx: &TcContext, tunnel: u32, tcp: &Tcp) {
    if let Some(stats) = maps::TUNNEL_STATS.get_ptr_mut(tunnel) {
        let (packets, bytes) = on_the_wire(ctx, tcp);
        // SAFETY: this CPU's own value.
        unsafe {
            (*stats).rx_packets += packets;
            (*stats).rx_bytes += bytes;
        }
    }
}
