//! Receiving GUE: is it for us, is it whole, and does it know the key.

use core::hint::black_box;

use aya_ebpf::programs::TcContext;
use epic_abi::{
    Ip, Lb,
    drop::DropReason,
    gue::{CONTROL_BIT, DATA_BYTE, FLAGS, KEY_LEN, OVERHEAD_V4, PROTOCOL_IPV4, PROTOCOL_IPV6, VERSION_MASK},
    maps::{Config, KeySlot, LbKeys, SourceKey},
};

use crate::{
    maps,
    packet::{ETH, IP, Ipv4, Tcp, linear, read},
    verdict::{Step, refuse},
};

/// Where the UDP header of an outer packet begins.
const UDP: usize = ETH + IP;
/// Where the GUE header begins.
const GUE: usize = UDP + 8;
/// Where the inner packet begins.
pub const INNER: usize = ETH + OVERHEAD_V4 as usize;

/// What arrived at the GUE port of this host.
pub enum Arrived {
    /// A control message.
    Control,
    /// A data packet.
    Data(Data),
}

/// A data packet whose headers are whole. Nothing is proven yet.
pub struct Data {
    /// Outer source address.
    pub source: Ip,
    /// Outer source port.
    pub source_port: u16,
    /// The LoadBalancer it names.
    pub lb: Lb,
    /// The key it brings, as words.
    key: [u32; KEY_LEN / 4],
    /// Where the outer packet ends in the frame.
    end: usize,
}

/// Whether `ip` is UDP to the GUE port of an address of this host; then its UDP ports.
///
/// A packet with options in the outer header is not recognised: the stack has it, and at the socket it is no control
/// message.
#[inline(always)]
pub fn addressed_to_us(ctx: &TcContext, config: &Config, ip: &Ipv4) -> bool {
    if ip.protocol != epic_abi::PROTOCOL_UDP || !ip.is_plain() || ip.is_later_fragment() {
        return false;
    }
    let Some(base) = linear(ctx, GUE) else { return false };
    // SAFETY: linear covers the UDP header.
    let port = u16::from_be(unsafe { read(base, UDP + 2) });
    port == config.gue_port && maps::get(&maps::LOCALS, &Ip::from_v4_word(ip.destination)).is_some()
}

/// Reads a GUE packet that [`addressed_to_us`].
#[inline(always)]
pub fn read_packet(ctx: &TcContext, ip: &Ipv4) -> Step<Arrived> {
    if ip.is_fragment() {
        return refuse(DropReason::OuterFragment);
    }
    // SAFETY: a field of the context, read only.
    let frame = unsafe { (*ctx.skb.skb).len } as usize;
    let end = ETH + ip.total as usize;
    if end > frame {
        return refuse(DropReason::Malformed);
    }
    let Some(base) = linear(ctx, GUE + 4) else { return refuse(DropReason::Malformed) };
    // SAFETY: linear covers the first word of GUE.
    let (first, udp_len): (u8, u16) = unsafe { (read(base, GUE), u16::from_be(read(base, UDP + 4))) };
    if udp_len as usize + UDP != end {
        return refuse(DropReason::Malformed);
    }
    if first & VERSION_MASK != 0 {
        return refuse(DropReason::GueHeader);
    }
    if first & CONTROL_BIT != 0 {
        return Ok(Arrived::Control);
    }
    // SAFETY: linear covers the first word of GUE.
    let (protocol, flags): (u8, u16) = unsafe { (read(base, GUE + 1), read(base, GUE + 2)) };
    if first != DATA_BYTE || flags != FLAGS.to_be() {
        return refuse(DropReason::GueHeader);
    }
    if protocol != PROTOCOL_IPV4 {
        return refuse(if protocol == PROTOCOL_IPV6 { DropReason::Ipv6 } else { DropReason::GueHeader });
    }
    let Some(base) = linear(ctx, INNER + IP) else { return refuse(DropReason::Malformed) };
    // SAFETY: linear covers everything up to the end of the inner IP header.
    unsafe {
        Ok(Arrived::Data(Data {
            source: Ip::from_v4_word(ip.source),
            source_port: u16::from_be(read(base, UDP)),
            lb: Lb::new(u16::from_be(read(base, GUE + 4)), u16::from_be(read(base, GUE + 6))),
            key: [read(base, GUE + 8), read(base, GUE + 12), read(base, GUE + 16), read(base, GUE + 20)],
            end,
        }))
    }
}

/// Which key a packet knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub enum Proof {
    /// The one between EPIC nodes and clients.
    Data,
    /// The one between EPIC nodes.
    Node,
}

impl Data {
    /// Compares the key with every accepted one. All bytes of all keys are compared, whatever the first ones say.
    #[inline(always)]
    pub fn prove(&self) -> Step<Proof> {
        let Some(keys) = maps::get(&maps::KEYS, &self.lb) else { return refuse(DropReason::UnknownService) };
        let LbKeys { data, node, .. } = keys;
        let data = self.is(&data[0]) | self.is(&data[1]) | self.is(&data[2]);
        let node = self.is(&node[0]) | self.is(&node[1]) | self.is(&node[2]);
        if data != 0 {
            Ok(Proof::Data)
        } else if node != 0 {
            Ok(Proof::Node)
        } else {
            refuse(DropReason::Key)
        }
    }

    /// 1 when the slot holds a key and it is this one, else 0; the same instructions either way.
    #[inline(always)]
    fn is(&self, slot: &KeySlot) -> u64 {
        let key = slot.key.0.as_ptr();
        // SAFETY: the key lies at offset 4 of a struct that is aligned to 4, and has four words.
        let word = |at: usize| unsafe { *key.add(at * 4).cast::<u32>() };
        let difference = (self.key[0] ^ word(0))
            | (self.key[1] ^ word(1))
            | (self.key[2] ^ word(2))
            | (self.key[3] ^ word(3));
        // A slot without a key differs from everything: this underflows for generation 0 alone.
        let absent = (slot.generation as u64).wrapping_sub(1) >> 32;
        // Left to itself, the compiler makes branches of the comparison: a timing, and 2^6 paths to verify.
        black_box(difference as u64 | absent).wrapping_sub(1) >> 63
    }

    /// The tunnel whose far end is where this packet comes from.
    #[inline(always)]
    pub fn tunnel(&self) -> Step<u32> {
        // The exact port first: behind one NAT there may be a client without NAT too.
        let mut key = SourceKey { address: self.source, port: self.source_port, _reserved: 0, lb: self.lb };
        if let Some(tunnel) = maps::get(&maps::SOURCES, &key) {
            return Ok(*tunnel);
        }
        key.port = 0;
        match maps::get(&maps::SOURCES, &key) {
            Some(tunnel) => Ok(*tunnel),
            None => refuse(DropReason::OuterSource),
        }
    }

    /// The TCP packet inside.
    #[inline(always)]
    pub fn inner(&self, ctx: &TcContext) -> Step<Tcp> {
        let Some(base) = linear(ctx, INNER + IP) else { return refuse(DropReason::Malformed) };
        // SAFETY: linear covers the inner IP header.
        let ip = unsafe { Ipv4::read(base, INNER) };
        Tcp::read::<INNER>(ctx, &ip, self.end)
    }
}
