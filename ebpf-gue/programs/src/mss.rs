//! Lowering the MSS that a SYN or SYN-ACK announces, so that the answer fits the tunnel it will have to take.
//!
//! Three places need it, each proven by leaving it out: the proxy's SYN (limits endpoint → proxy), the endpoint's
//! SYN-ACK (proxy → endpoint), and the SYN-ACK to the internet, because packets from there may have to go on to
//! another node in GUE. A SYN without the option means 536 and needs nothing.

use aya_ebpf::{
    bindings::__sk_buff,
    helpers::generated::{bpf_l4_csum_replace, bpf_skb_load_bytes, bpf_skb_store_bytes},
    programs::TcContext,
};
use epic_abi::{drop::DropReason, stats::Event};

use crate::{
    count,
    packet::{ETH, IP, TCP, Tcp},
    verdict::{Step, refuse},
};

/// Where the options begin in the frame.
const OPTIONS: usize = ETH + IP + TCP;
/// Most bytes of options.
const MAX_OPTIONS: usize = 40;
/// End of the list.
const KIND_END: u8 = 0;
/// Padding of one byte.
const KIND_NOP: u8 = 1;
/// Maximum segment size.
const KIND_MSS: u8 = 2;
/// Length of that option.
const LEN_MSS: u8 = 4;

/// Lowers the MSS of the TCP packet at the start of the frame so that its answers are IP packets of at most `mtu`
/// bytes. Does nothing unless SYN is set.
#[inline(always)]
pub fn clamp(ctx: &TcContext, tcp: &Tcp, mtu: u32) -> Step<()> {
    if !tcp.is_syn() || tcp.options() < 4 {
        return Ok(());
    }
    let limit = mtu.saturating_sub((IP + TCP) as u32);
    if limit > 0xFFFF || lower(ctx.skb.skb, tcp.options(), limit as u16) == 0 {
        return Ok(());
    }
    refuse(DropReason::KernelRefused)
}

/// A function of its own for the verifier and the stack: only SYNs come here. 0 = done or nothing to do.
// A fixed symbol: mangled ones depend on where the source lies, and the object shall not.
#[unsafe(export_name = "epic_mss_lower")]
#[inline(never)]
fn lower(skb: *mut __sk_buff, options: usize, limit: u16) -> i32 {
    // As words: zeroing bytes would become a call of memset, byte by byte.
    let mut buffer = [0u64; 8];
    let bytes = buffer.as_mut_ptr().cast::<u8>();
    // Four bytes at a time: the verifier does not follow a length that came through arithmetic.
    for index in 0..MAX_OPTIONS / 4 {
        if index * 4 >= options {
            break;
        }
        // SAFETY: index * 4 + 4 <= 40 < 64.
        let rc = unsafe {
            let to = bytes.add(index * 4);
            bpf_skb_load_bytes(skb.cast_const().cast(), (OPTIONS + index * 4) as u32, to.cast(), 4)
        };
        if rc != 0 {
            return 1;
        }
    }
    // SAFETY: the index is below 64.
    let byte = |at: usize| unsafe { *bytes.add(at & 63) };
    let mut at = 0usize;
    // Every step takes at least one byte. Bytes behind the options are zero, which ends the list.
    for _ in 0..MAX_OPTIONS {
        if at + 4 > options {
            return 0;
        }
        match byte(at) {
            KIND_END => return 0,
            KIND_NOP => at += 1,
            KIND_MSS => {
                if byte(at + 1) != LEN_MSS {
                    return 0;
                }
                let old = u16::from_be_bytes([byte(at + 2), byte(at + 3)]);
                return if old > limit { replace(skb, at, old, limit) } else { 0 };
            }
            _ => {
                let step = byte(at + 1) as usize;
                if step < 2 {
                    return 0;
                }
                at += step & 63;
            }
        }
    }
    0
}

/// Writes the new value and mends the checksum.
#[inline(always)]
fn replace(skb: *mut __sk_buff, at: usize, old: u16, new: u16) -> i32 {
    let value = new.to_be_bytes();
    let (mut from, mut to) = (old.to_be() as u64, new.to_be() as u64);
    if at & 1 != 0 {
        // The checksum adds words at even offsets: at an odd one, the bytes of the value lie in two of them.
        from = (from as u16).swap_bytes() as u64;
        to = (to as u16).swap_bytes() as u64;
    }
    // SAFETY: the context is the kernel's, the value two bytes.
    unsafe {
        if bpf_l4_csum_replace(skb, (ETH + IP + 16) as u32, from, to, 2) != 0 {
            return 1;
        }
        if bpf_skb_store_bytes(skb, (OPTIONS + at + 2) as u32, value.as_ptr().cast(), 2, 0) != 0 {
            return 1;
        }
    }
    count::event(Event::MssClamped, 1);
    0
}
