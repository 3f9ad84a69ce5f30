//! ARP: answers to requests for VIPs that this node owns, and what pods may say of themselves.
//!
//! VIPs are on no interface, so the kernel would not answer. Gratuitous ARP on takeover is the agent's.

use aya_ebpf::{helpers::generated::bpf_redirect, programs::TcContext};
use epic_abi::{
    Ip,
    drop::DropReason,
    maps::{Config, LocalProxy, VIP_OWNED},
    stats::Event,
};

use crate::{
    count, maps,
    packet::{ETH, linear, read, write},
    verdict::{NEXT, drop},
};

/// Length of a frame with an ARP packet for IPv4 over Ethernet.
const LEN: usize = ETH + 28;
/// Hardware type Ethernet, protocol type IPv4, as the packet has them.
const ETHERNET_IPV4: u32 = 0x0001_0800u32.to_be();
/// Address lengths 6 and 4, operation request, as the packet has them.
const REQUEST: u32 = 0x0604_0001u32.to_be();
/// The same, operation reply.
const REPLY: u32 = 0x0604_0002u32.to_be();

/// Rewrites a request for an owned VIP into its answer and sends it back; everything else goes on.
#[inline(always)]
pub fn answer(ctx: &TcContext, config: &Config) -> i32 {
    // SAFETY: a field of the context, read only.
    let ifindex = unsafe { (*ctx.skb.skb).ifindex };
    if ifindex != config.public_ifindex {
        return NEXT;
    }
    let Some(base) = linear(ctx, LEN) else { return NEXT };
    // SAFETY: linear covers the whole ARP packet.
    unsafe {
        if read::<u32>(base, ETH) != ETHERNET_IPV4 || read::<u32>(base, ETH + 4) != REQUEST {
            return NEXT;
        }
        let (sender, target): (u32, u32) = (read(base, ETH + 14), read(base, ETH + 24));
        // Sender and target alike is an announcement (gratuitous ARP), perhaps of the node that takes the VIP over.
        // An answer would tell the network to come back here.
        if sender == target {
            return NEXT;
        }
        match maps::get(&maps::VIPS, &Ip::from_v4_word(target)) {
            Some(vip) if vip.flags & VIP_OWNED != 0 => {}
            _ => return NEXT,
        }
        let asker: [u16; 3] = [read(base, ETH + 8), read(base, ETH + 10), read(base, ETH + 12)];
        let mac = config.mac;
        let own = [
            u16::from_ne_bytes([mac[0], mac[1]]),
            u16::from_ne_bytes([mac[2], mac[3]]),
            u16::from_ne_bytes([mac[4], mac[5]]),
        ];
        write_mac(base, 0, asker);
        write_mac(base, 6, own);
        write(base, ETH + 4, REPLY);
        write_mac(base, ETH + 8, own);
        write(base, ETH + 14, target);
        write_mac(base, ETH + 18, asker);
        write(base, ETH + 24, sender);
        count::event(Event::ArpAnswered, 1);
        bpf_redirect(ifindex, 0) as i32
    }
}

/// What a pod says by ARP. It finds its gateway by it, and may speak for its own address alone: a proxy that claims its
/// neighbour's would get the neighbour's packets. (The address of a pod that is not listed is not known here.)
#[inline(always)]
pub fn from_pod(ctx: &TcContext, proxy: Option<&LocalProxy>) -> i32 {
    let Some(base) = linear(ctx, LEN) else { return drop(DropReason::Malformed) };
    // SAFETY: linear covers the whole ARP packet.
    let (format, sender): (u32, u32) = unsafe { (read(base, ETH), read(base, ETH + 14)) };
    if format != ETHERNET_IPV4 {
        return drop(DropReason::Protocol);
    }
    match proxy {
        // An empty sender asks whether somebody has the address (RFC 5227).
        Some(proxy) if sender != 0 && Ip::from_v4_word(sender) != proxy.pod_v4 => drop(DropReason::PodSource),
        _ => NEXT,
    }
}

/// Writes a MAC address at `at`.
///
/// # Safety
///
/// As for [`write`].
#[inline(always)]
pub unsafe fn write_mac(base: *mut u8, at: usize, mac: [u16; 3]) {
    // SAFETY: the caller's.
    unsafe {
        write(base, at, mac[0]);
        write(base, at + 2, mac[1]);
        write(base, at + 4, mac[2]);
    }
}
