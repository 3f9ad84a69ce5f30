//! ARP: answers to requests for VIPs that this node owns, and what pods may say of themselves.
//!
//! VIPs are on no interface, so the kernel would not answer. Gratuitous ARP on takeover is the agent's.

use epic_abi::{
    Ip,
    drop::DropReason,
    maps::{Config, LocalProxy, VIP_OWNED},
    stats::Event,
};

use crate::{Act, Frame, Maps, Span, Step, Verdict, packet::ETH};

/// Ethertype of ARP, as the frame has it.
pub(crate) const ETHERTYPE: u16 = 0x0806u16.to_be();

/// A frame with an ARP packet for IPv4 over Ethernet.
struct Message;

impl Span for Message {
    const LEN: usize = ETH + 28;
}

/// Hardware type Ethernet, protocol type IPv4, as the packet has them.
const ETHERNET_IPV4: u32 = 0x0001_0800u32.to_be();
/// Address lengths 6 and 4, operation request, as the packet has them.
const REQUEST: u32 = 0x0604_0001u32.to_be();
/// The same, operation reply.
const REPLY: u32 = 0x0604_0002u32.to_be();

/// Rewrites a request for an owned VIP into its answer and sends it back; everything else goes on.
#[inline(always)]
pub(crate) fn answer<F: Frame, M: Maps>(frame: &mut F, maps: &M, config: &Config) -> Verdict {
    let ifindex = frame.ifindex();
    if ifindex != config.public_ifindex {
        return Verdict::NEXT;
    }
    let Some(mut window) = frame.window::<Message>() else { return Verdict::NEXT };
    if window.get::<u32>(ETH) != ETHERNET_IPV4 || window.get::<u32>(ETH + 4) != REQUEST {
        return Verdict::NEXT;
    }
    let (sender, target): (u32, u32) = (window.get(ETH + 14), window.get(ETH + 24));
    // Sender and target alike is an announcement (gratuitous ARP), perhaps of the node that takes the VIP over.
    // An answer would tell the network to come back here.
    if sender == target {
        return Verdict::NEXT;
    }
    match maps.vips(&Ip::from_v4_word(target)) {
        Some(vip) if vip.flags & VIP_OWNED != 0 => {}
        _ => return Verdict::NEXT,
    }
    let asker: [u16; 3] = window.get(ETH + 8);
    let own = mac(config);
    window.set(0, asker);
    window.set(6, own);
    window.set(ETH + 4, REPLY);
    window.set(ETH + 8, own);
    window.set(ETH + 14, target);
    window.set(ETH + 18, asker);
    window.set(ETH + 24, sender);
    Verdict::counted(Act::Back(ifindex), Event::ArpAnswered, 1)
}

/// What a pod says by ARP. It finds its gateway by it, and may speak for its own address alone: a proxy that claims its
/// neighbour's would get the neighbour's packets. (The address of a pod that is not listed is not known here.)
#[inline(always)]
pub(crate) fn from_pod<F: Frame>(frame: &mut F, proxy: Option<&LocalProxy>) -> Step<Verdict> {
    let Some(window) = frame.window::<Message>() else { return Err(DropReason::Malformed) };
    let (format, sender): (u32, u32) = (window.get(ETH), window.get(ETH + 14));
    if format != ETHERNET_IPV4 {
        return Err(DropReason::Protocol);
    }
    match proxy {
        // An empty sender asks whether somebody has the address (RFC 5227).
        Some(proxy) if sender != 0 && Ip::from_v4_word(sender) != proxy.pod_v4 => Err(DropReason::PodSource),
        _ => Ok(Verdict::NEXT),
    }
}

/// The MAC address of the configuration, as frames are written.
#[inline(always)]
pub(crate) fn mac(config: &Config) -> [u16; 3] {
    let mac = config.mac;
    [
        u16::from_ne_bytes([mac[0], mac[1]]),
        u16::from_ne_bytes([mac[2], mac[3]]),
        u16::from_ne_bytes([mac[4], mac[5]]),
    ]
}
