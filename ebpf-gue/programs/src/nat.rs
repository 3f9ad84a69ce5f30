//! Rewriting addresses and ports of the TCP packet at the start of a frame.

use aya_ebpf::{bindings::BPF_F_PSEUDO_HDR, helpers::generated::bpf_l4_csum_replace, programs::TcContext};
use epic_abi::drop::DropReason;

use crate::{
    packet::{ETH, IP, TCP, Tcp, linear, read, write},
    verdict::{Step, refuse},
};

/// Offset of the TCP checksum in the frame.
const TCP_CHECK: u32 = (ETH + IP + 16) as u32;

/// Ones' complement sum that turns a checksum over `old` into one over `new`.
#[inline(always)]
fn difference(old: [u32; 2], new: [u32; 2]) -> u32 {
    let sum = !old[0] as u64 + new[0] as u64 + !old[1] as u64 + new[1] as u64;
    let sum = (sum & 0xFFFF_FFFF) + (sum >> 32);
    ((sum & 0xFFFF_FFFF) + (sum >> 32)) as u32
}

/// Folds a sum to 16 bits.
#[inline(always)]
pub fn fold(sum: u32) -> u16 {
    let sum = (sum & 0xFFFF) + (sum >> 16);
    ((sum & 0xFFFF) + (sum >> 16)) as u16
}

/// Both ports as the word they are in the packet.
#[inline(always)]
fn ports(tcp: &Tcp) -> u32 {
    (((tcp.source_port as u32) << 16) | tcp.destination_port as u32).to_be()
}

/// Makes the packet at the start of the frame, which is `from`, into `to`: addresses, ports and all checksums.
#[inline(always)]
pub fn rewrite(ctx: &TcContext, from: &Tcp, to: &Tcp) -> Step<()> {
    let Some(base) = linear(ctx, ETH + IP + TCP) else { return refuse(DropReason::Malformed) };
    let addresses = difference([from.source, from.destination], [to.source, to.destination]);
    let (old_ports, new_ports) = (ports(from), ports(to));
    // SAFETY: linear covers both headers.
    unsafe {
        let check: u16 = read(base, ETH + 10);
        // The IP header sums to zero before and after, so a CHECKSUM_COMPLETE of the packet stays right.
        let sum = !check as u32 + fold(addresses) as u32;
        write(base, ETH + 10, !fold(sum));
        write(base, ETH + 12, to.source);
        write(base, ETH + 16, to.destination);
        write(base, ETH + IP, new_ports);
    }
    let skb = ctx.skb.skb;
    // The addresses are part of the pseudo header. Without the flag a CHECKSUM_PARTIAL packet, whose field holds only
    // the pseudo header's sum, would be left as it is and leave with a wrong checksum. Size 0: `to` is a difference.
    // SAFETY: the context is the kernel's.
    if unsafe { bpf_l4_csum_replace(skb, TCP_CHECK, 0, addresses as u64, BPF_F_PSEUDO_HDR as u64) } != 0 {
        return refuse(DropReason::KernelRefused);
    }
    if old_ports != new_ports {
        // SAFETY: the context is the kernel's.
        let rc = unsafe { bpf_l4_csum_replace(skb, TCP_CHECK, old_ports as u64, new_ports as u64, 4) };
        if rc != 0 {
            return refuse(DropReason::KernelRefused);
        }
    }
    Ok(())
}
