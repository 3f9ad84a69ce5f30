//! Into a GUE tunnel and out of it.

use aya_ebpf::{
    bindings::{
        BPF_F_ADJ_ROOM_ENCAP_L3_IPV4, BPF_F_ADJ_ROOM_ENCAP_L4_UDP, BPF_F_ADJ_ROOM_FIXED_GSO,
        BPF_F_INVALIDATE_HASH, bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    },
    helpers::generated::{bpf_redirect_neigh, bpf_skb_adjust_room, bpf_skb_change_tail, bpf_skb_store_bytes},
    programs::TcContext,
};
use epic_abi::{
    Ip, Lb, PROTOCOL_UDP,
    drop::DropReason,
    gue::{DATA_BYTE, FLAGS, Key, OUTER_TTL, OVERHEAD_V4, PROTOCOL_IPV4},
    maps::{REMOTE_FIXED_PORTS, Remote, Tunnel},
};

use crate::{
    count,
    nat::fold,
    packet::{ETH, Tcp},
    verdict::{Step, drop, refuse},
};

/// Bytes of outer IPv4, UDP and GUE header.
const OVERHEAD: usize = OVERHEAD_V4 as usize;
/// The headers as words.
const WORDS: usize = OVERHEAD / 4;
/// The kernel's answer when the packet is encapsulated already: it keeps that mark of a packet that came through a
/// tunnel on a virtual link.
const EALREADY: i64 = -114;

/// Everything in the outer headers that differs from packet to packet.
pub struct Outer<'a> {
    /// Source address.
    pub source: &'a Ip,
    /// Destination address.
    pub destination: &'a Ip,
    /// UDP source port.
    pub source_port: u16,
    /// UDP destination port.
    pub destination_port: u16,
    /// The LoadBalancer.
    pub lb: Lb,
    /// The key to send with.
    pub key: &'a Key,
}

/// Size that inner packets may have in a tunnel whose outer packets may have `mtu`.
#[inline(always)]
pub fn inner_mtu(mtu: u32) -> u32 {
    mtu.saturating_sub(OVERHEAD_V4 as u32)
}

/// Puts the TCP packet at the start of the frame into a GUE packet.
///
/// Outer: don't-fragment, as a fragment could be neither decapsulated nor even recognised at the other end; DSCP of
/// the inner packet, no ECN (receivers of this version do not hand congestion marks inwards); UDP checksum 0, which
/// IPv4 allows and the inner checksums make up for.
#[inline(always)]
pub fn encapsulate(ctx: &TcContext, tcp: &Tcp, outer: &Outer<'_>) -> Step<()> {
    if !outer.source.is_v4() || !outer.destination.is_v4() {
        return refuse(DropReason::Ipv6);
    }
    let total = tcp.total as u32 + OVERHEAD as u32;
    if total > 0xFFFF {
        return refuse(DropReason::KernelRefused);
    }
    let skb = ctx.skb.skb;
    let end = ETH as u32 + tcp.total as u32;
    // SAFETY: the context is the kernel's.
    unsafe {
        // Short frames come padded from a NIC. Inside a tunnel the padding would belong to the UDP payload.
        if (*skb).gso_size == 0 && (*skb).len > end && bpf_skb_change_tail(skb, end, 0) != 0 {
            return refuse(DropReason::KernelRefused);
        }
        // FIXED_GSO: segments keep their size (lowering it wastes bytes and refuses UDP segmentation).
        let plain = BPF_F_ADJ_ROOM_FIXED_GSO as u64;
        let flags = plain | (BPF_F_ADJ_ROOM_ENCAP_L3_IPV4 | BPF_F_ADJ_ROOM_ENCAP_L4_UDP) as u64;
        let mut rc = bpf_skb_adjust_room(skb, OVERHEAD as i32, BPF_ADJ_ROOM_MAC, flags) as i64;
        if rc == EALREADY && (*skb).gso_size == 0 {
            // Without segmentation to come, the kernel need not know that this is a tunnel.
            rc = bpf_skb_adjust_room(skb, OVERHEAD as i32, BPF_ADJ_ROOM_MAC, plain) as i64;
        }
        if rc != 0 {
            return refuse(DropReason::KernelRefused);
        }
        let header = headers(tcp, total, outer);
        let rc = bpf_skb_store_bytes(
            skb,
            ETH as u32,
            header.as_ptr().cast(),
            OVERHEAD as u32,
            // The hash of the inner flow would choose queues for the outer one.
            BPF_F_INVALIDATE_HASH as u64,
        );
        if rc != 0 {
            return refuse(DropReason::KernelRefused);
        }
    }
    Ok(())
}

/// Two halves as the word they make in a packet.
#[inline(always)]
const fn word(high: u16, low: u16) -> u32 {
    (((high as u32) << 16) | low as u32).to_be()
}

/// The outer headers.
#[inline(always)]
fn headers(tcp: &Tcp, total: u32, outer: &Outer<'_>) -> [u32; WORDS] {
    const DONT_FRAGMENT: u16 = 0x4000;
    let (source, destination) = (outer.source.v4_word(), outer.destination.v4_word());
    let first = word(0x4500 | (tcp.tos & 0xFC) as u16, total as u16);
    let second = word(0, DONT_FRAGMENT);
    let third = word(((OUTER_TTL as u16) << 8) | PROTOCOL_UDP as u16, 0);
    let sum = first as u64 + second as u64 + third as u64 + source as u64 + destination as u64;
    let sum = (sum & 0xFFFF_FFFF) + (sum >> 32);
    let check = !fold(((sum & 0xFFFF_FFFF) + (sum >> 32)) as u32);
    let key = &outer.key.0;
    let part = |at: usize| u32::from_ne_bytes([key[at], key[at + 1], key[at + 2], key[at + 3]]);
    [
        first,
        second,
        third | word(0, u16::from_be(check)),
        source,
        destination,
        word(outer.source_port, outer.destination_port),
        word(total as u16 - 20, 0),
        word(((DATA_BYTE as u16) << 8) | PROTOCOL_IPV4 as u16, FLAGS),
        word(outer.lb.group, outer.lb.service),
        part(0),
        part(4),
        part(8),
        part(12),
    ]
}

/// Encapsulates into `tunnel` towards `remote`, counts, and sends on by the neighbour of the outer destination.
///
/// The neighbour decides the MAC, not the frame: what a frame carried belonged to the inner next hop.
#[inline(always)]
pub fn send(
    ctx: &TcContext,
    id: u32,
    tunnel: &Tunnel,
    remote: &Remote,
    tcp: &Tcp,
    gue_port: u16,
) -> Step<i32> {
    let source_port = if remote.flags & REMOTE_FIXED_PORTS != 0 {
        gue_port
    } else {
        epic_abi::flow::source_port(tcp.hash(0))
    };
    count::sent(ctx, id, tcp);
    encapsulate(
        ctx,
        tcp,
        &Outer {
            source: &tunnel.local,
            destination: &remote.address,
            source_port,
            destination_port: remote.port,
            lb: tunnel.lb,
            key: &tunnel.key,
        },
    )?;
    Ok(leave(tunnel.ifindex))
}

/// Sends the frame out of `ifindex`, to the neighbour its destination address needs.
#[inline(always)]
pub fn leave(ifindex: u32) -> i32 {
    // SAFETY: no parameters: the kernel looks the next hop up itself.
    unsafe { bpf_redirect_neigh(ifindex, core::ptr::null_mut(), 0, 0) as i32 }
}

/// Takes the outer headers off.
#[inline(always)]
pub fn decapsulate(ctx: &TcContext) -> Step<()> {
    // SAFETY: the context is the kernel's.
    let rc = unsafe {
        bpf_skb_adjust_room(
            ctx.skb.skb,
            -(OVERHEAD as i32),
            BPF_ADJ_ROOM_MAC,
            BPF_F_ADJ_ROOM_FIXED_GSO as u64,
        )
    };
    if rc == 0 { Ok(()) } else { Err(drop(DropReason::KernelRefused)) }
}
