//! Receiving GUE: is it for us, is it whole, and does it know the key.

use core::hint::black_box;

use epic_abi::{
    Lb, PROTOCOL_UDP,
    drop::DropReason,
    gue::{CONTROL_BIT, DATA_BYTE, FLAGS, KEY_LEN, PROTOCOL_IPV4, PROTOCOL_IPV6, VERSION_MASK},
    maps::{Config, KeySlot, LbKeys, SourceKey},
};

use crate::{
    Bare, Carried, Frame, Header, Maps, Step, Within,
    packet::{Behind, ETH, Packet, header},
};

/// Bytes of a UDP header.
const UDP: usize = 8;

/// What arrived at the GUE port of this host.
pub(crate) enum Arrived<O: Carried> {
    /// A control message.
    Control,
    /// A data packet.
    Data(Data<O>),
}

/// A data packet whose headers are whole. Nothing is proven yet.
pub(crate) struct Data<O: Carried> {
    /// Outer source address.
    pub(crate) source: O::Address,
    /// Outer source port.
    source_port: u16,
    /// The LoadBalancer it names.
    pub(crate) lb: Lb,
    /// The key it brings, as words.
    key: [u32; KEY_LEN / 4],
    /// Where the outer packet ends in the frame.
    end: usize,
}

/// Whether `ip` is UDP to the GUE port of an address of this host.
///
/// A packet with options in the outer header is not recognised: the stack has it, and at the socket it is no control
/// message.
#[inline(always)]
pub(crate) fn is_addressed_to_us<O: Carried, F: Frame, M: Maps>(
    frame: &mut F,
    maps: &M,
    config: &Config,
    ip: &Header<O>,
) -> bool {
    if ip.protocol != PROTOCOL_UDP || !ip.is_plain || ip.is_later_fragment {
        return false;
    }
    let Some(window) = frame.window::<Behind<Bare, O, UDP>>() else { return false };
    let port = u16::from_be(window.get(ETH + O::LEN + 2));
    port == config.gue_port && maps.locals(&O::ip(ip.destination)).is_some()
}

/// Reads a GUE packet that [`is_addressed_to_us`].
#[inline(always)]
pub(crate) fn read<O: Carried, F: Frame>(frame: &mut F, ip: &Header<O>) -> Step<Arrived<O>> {
    if ip.is_fragment {
        return Err(DropReason::OuterFragment);
    }
    let end = ETH + ip.total as usize;
    if end > frame.length() {
        return Err(DropReason::Malformed);
    }
    let udp = ETH + O::LEN;
    let gue = udp + UDP;
    let Some(window) = frame.window::<Behind<Bare, O, { UDP + 4 }>>() else {
        return Err(DropReason::Malformed);
    };
    let first: u8 = window.get(gue);
    // What is shorter than a GUE header ends before its first byte: there is the padding of the frame.
    if u16::from_be(window.get(udp + 4)) as usize + udp != end || end < gue + 4 {
        return Err(DropReason::Malformed);
    }
    if first & VERSION_MASK != 0 {
        return Err(DropReason::GueHeader);
    }
    if first & CONTROL_BIT != 0 {
        return Ok(Arrived::Control);
    }
    let (inside, flags): (u8, u16) = (window.get(gue + 1), window.get(gue + 2));
    if first != DATA_BYTE || flags != FLAGS.to_be() {
        return Err(DropReason::GueHeader);
    }
    if inside != PROTOCOL_IPV4 {
        return Err(if inside == PROTOCOL_IPV6 { DropReason::Ipv6 } else { DropReason::GueHeader });
    }
    // Up to the end of an inner IPv4 header, which every data packet has room for.
    let Some(window) = frame.window::<Behind<Bare, O, { UDP + 24 + 20 }>>() else {
        return Err(DropReason::Malformed);
    };
    Ok(Arrived::Data(Data {
        source: ip.source,
        source_port: u16::from_be(window.get(udp)),
        lb: Lb::new(u16::from_be(window.get(gue + 4)), u16::from_be(window.get(gue + 6))),
        key: [window.get(gue + 8), window.get(gue + 12), window.get(gue + 16), window.get(gue + 20)],
        end,
    }))
}

/// Which key a packet knows.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Proof {
    /// The one between EPIC nodes and clients.
    Data,
    /// The one between EPIC nodes.
    Node,
}

impl<O: Carried> Data<O> {
    /// Compares the key with every accepted one. All bytes of all keys are compared, whatever the first ones say.
    #[inline(always)]
    pub(crate) fn prove<M: Maps>(&self, maps: &M) -> Step<Proof> {
        let Some(keys) = maps.keys(&self.lb) else { return Err(DropReason::UnknownService) };
        let LbKeys { data, node, .. } = keys;
        let data = self.is(&data[0]) | self.is(&data[1]) | self.is(&data[2]);
        let node = self.is(&node[0]) | self.is(&node[1]) | self.is(&node[2]);
        if data != 0 {
            Ok(Proof::Data)
        } else if node != 0 {
            Ok(Proof::Node)
        } else {
            Err(DropReason::Key)
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
        barrier(difference as u64 | absent).wrapping_sub(1) >> 63
    }

    /// The tunnel whose far end is where this packet comes from.
    #[inline(always)]
    pub(crate) fn tunnel<M: Maps>(&self, maps: &M) -> Step<u32> {
        // The exact port first: behind one NAT there may be a client without NAT too.
        let mut key =
            SourceKey { address: O::ip(self.source), port: self.source_port, _reserved: 0, lb: self.lb };
        if let Some(tunnel) = maps.sources(&key) {
            return Ok(*tunnel);
        }
        key.port = 0;
        match maps.sources(&key) {
            Some(tunnel) => Ok(*tunnel),
            None => Err(DropReason::OuterSource),
        }
    }

    /// The packet inside.
    #[inline(always)]
    pub(crate) fn inner<I: Carried, F: Frame>(&self, frame: &mut F) -> Step<Packet<I>> {
        match header::<Within<O>, I, F>(frame) {
            Some(ip) => Packet::read::<Within<O>, F>(frame, &ip, self.end),
            None => Err(DropReason::Malformed),
        }
    }
}

/// A value of which the compiler knows nothing any more, in a register.
#[inline(always)]
fn barrier(value: u64) -> u64 {
    black_box(value)
}
