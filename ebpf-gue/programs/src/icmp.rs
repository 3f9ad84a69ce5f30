//! ICMP errors of our own: "fragmentation needed" and "host unreachable".
//!
//! The packet that cannot be carried becomes the answer: cut behind its TCP header, 28 bytes put in front, sent back
//! the way it came. It must still be as its sender made it: a quote of translated addresses would teach the sender a
//! destination it never spoke to. One answer per packet, no bigger than it, so nothing is amplified.

use aya_ebpf::{
    bindings::bpf_adj_room_mode::BPF_ADJ_ROOM_MAC,
    helpers::generated::{bpf_redirect, bpf_skb_adjust_room, bpf_skb_change_tail},
    programs::TcContext,
};
use epic_abi::{PROTOCOL_ICMP, drop::DropReason, gue::OUTER_TTL, stats::Event};

use crate::{
    arp::write_mac,
    count,
    nat::fold,
    packet::{ETH, IP, TCP, linear, read, write},
    verdict::drop,
};

/// Bytes put in front of the quote: IPv4 and ICMP header.
const FRONT: usize = 28;
/// Bytes quoted: IP and TCP header. Fewer would do for the receiver, but the kernel refuses to cut a packet above
/// the checksum it has still to fill in.
const QUOTE: usize = IP + TCP;
/// Length of the answer, without Ethernet.
const TOTAL: u16 = (FRONT + QUOTE) as u16;
/// Where the quote begins in the finished frame.
const QUOTE_AT: usize = ETH + FRONT;
/// Where the checksum of the quoted TCP header lies.
const QUOTED_CHECK: usize = QUOTE_AT + IP + 16;

/// What to say.
pub enum Message {
    /// The packet is bigger than this (type 3, code 4).
    FragNeeded(u32),
    /// There is no way to the host (type 3, code 1).
    HostUnreachable,
}

/// Answers the packet at the start of the frame, and counts its drop for `reason`. `flags` are those of
/// `bpf_redirect`: 0 sends the answer out of the interface, BPF_F_INGRESS gives it to the host itself.
#[inline(always)]
pub fn answer(ctx: &TcContext, message: Message, reason: DropReason, flags: u64) -> i32 {
    let (rest, event) = match message {
        Message::FragNeeded(mtu) => (((4u32 << 16) | (3 << 24), mtu & 0xFFFF), Event::FragNeeded),
        Message::HostUnreachable => (((1u32 << 16) | (3 << 24), 0), Event::HostUnreachable),
    };
    count::drop(reason);
    if build(ctx.skb.skb, rest.0, rest.1) != 0 {
        return drop(DropReason::KernelRefused);
    }
    count::event(event, 1);
    // SAFETY: a field of the context, read only; the helper takes no pointers.
    unsafe { bpf_redirect((*ctx.skb.skb).ifindex, flags) as i32 }
}

/// Turns the frame into the answer. A function of its own for the verifier: it is used from four places.
// A fixed symbol: mangled ones depend on where the source lies, and the object shall not.
#[unsafe(export_name = "epic_icmp_build")]
#[inline(never)]
fn build(skb: *mut aya_ebpf::bindings::__sk_buff, kind: u32, rest: u32) -> i32 {
    let ctx = TcContext::new(skb);
    // SAFETY: the context is the kernel's.
    unsafe {
        if bpf_skb_change_tail(skb, (ETH + QUOTE) as u32, 0) != 0
            || bpf_skb_adjust_room(skb, FRONT as i32, BPF_ADJ_ROOM_MAC, 0) != 0
        {
            return 1;
        }
    }
    let Some(base) = linear(&ctx, ETH + FRONT + QUOTE) else { return 1 };
    // SAFETY: linear covers the whole answer.
    unsafe {
        let to: [u16; 3] = [read(base, 6), read(base, 8), read(base, 10)];
        let from: [u16; 3] = [read(base, 0), read(base, 2), read(base, 4)];
        write_mac(base, 0, to);
        write_mac(base, 6, from);
        let source: u32 = read(base, QUOTE_AT + 16);
        let destination: u32 = read(base, QUOTE_AT + 12);

        let first = (0x45C0_0000u32 | TOTAL as u32).to_be();
        let third = (((OUTER_TTL as u32) << 24) | ((PROTOCOL_ICMP as u32) << 16)).to_be();
        let check = !fold_long(first as u64 + third as u64 + source as u64 + destination as u64);
        write(base, ETH, first);
        write(base, ETH + 4, 0u32);
        write(base, ETH + 8, third);
        write(base, ETH + 10, check);
        write(base, ETH + 12, source);
        write(base, ETH + 16, destination);

        let kind = kind.to_be();
        let rest = rest.to_be();
        write(base, ETH + IP, kind);
        write(base, ETH + IP + 4, rest);

        // The quoted TCP checksum may still be filled in below us (CHECKSUM_PARTIAL stays with the packet): the sum
        // over the TCP header then turns from R + c into -c, R being everything but the field and c the field. Nobody
        // reads a checksum in a quote, so c is chosen such that both are the same: c = -R/2.
        write(base, QUOTED_CHECK, 0u16);
        let mut tcp = 0u64;
        for at in [0, 4, 8, 12, 16] {
            tcp += read::<u32>(base, QUOTE_AT + IP + at) as u64;
        }
        let tcp = fold_long(tcp);
        let negative = !tcp as u32;
        let half = if negative & 1 == 0 { negative >> 1 } else { (negative + 0xFFFF) >> 1 } as u16;
        write(base, QUOTED_CHECK, half);

        let mut sum = kind as u64 + rest as u64 + tcp as u64 + half as u64;
        for at in [0, 4, 8, 12, 16] {
            sum += read::<u32>(base, QUOTE_AT + at) as u64;
        }
        write(base, ETH + IP + 2, !fold_long(sum));
    }
    0
}

/// Folds a sum of words to 16 bits.
#[inline(always)]
fn fold_long(sum: u64) -> u16 {
    let sum = (sum & 0xFFFF_FFFF) + (sum >> 32);
    fold(((sum & 0xFFFF_FFFF) + (sum >> 32)) as u32)
}
