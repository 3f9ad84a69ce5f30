//! Packets that are carried, as they lie at some offset of a frame.

use core::marker::PhantomData;

use epic_abi::{PROTOCOL_ICMP, PROTOCOL_TCP, drop::DropReason};

use crate::{Carried, Family, Frame, Header, Span, Step};

/// Length of an Ethernet header.
pub const ETH: usize = 14;
/// Length of a TCP header without options.
pub(crate) const TCP: usize = 20;
/// SYN in the flags byte of TCP.
const FLAG_SYN: u8 = 0x02;
/// ACK in the flags byte of TCP.
const FLAG_ACK: u8 = 0x10;

/// Where a packet begins in its frame.
pub trait Place {
    /// Offset of its IP header.
    const AT: usize;
    /// Whether it lies in a tunnel's packet.
    const IN_TUNNEL: bool;
}

/// A packet behind the Ethernet header.
pub struct Bare;

impl Place for Bare {
    const AT: usize = ETH;
    const IN_TUNNEL: bool = false;
}

/// A packet in a GUE packet whose outer header is of family `O`.
pub struct Within<O>(PhantomData<O>);

impl<O: Carried> Place for Within<O> {
    const AT: usize = ETH + O::OVERHEAD;
    const IN_TUNNEL: bool = true;
}

/// The Ethernet header.
pub(crate) struct Ethernet;

impl Span for Ethernet {
    const LEN: usize = ETH;
}

/// A frame up to `MORE` bytes behind the IP header of family `I` at `P`.
pub(crate) struct Behind<P, I, const MORE: usize>(PhantomData<(P, I)>);

impl<P: Place, I: Family, const MORE: usize> Span for Behind<P, I, MORE> {
    const LEN: usize = P::AT + I::LEN + MORE;
}

/// A TCP packet. Ports in host order, addresses as the packet has them.
#[derive(Clone, Copy)]
pub(crate) struct Packet<I: Family> {
    pub(crate) source: I::Address,
    pub(crate) destination: I::Address,
    pub(crate) source_port: u16,
    pub(crate) destination_port: u16,
    pub(crate) protocol: u8,
    /// Bytes of the IP packet.
    pub(crate) total: u16,
    /// Type of service.
    pub(crate) tos: u8,
    /// Data offset of TCP in the upper half.
    pub(crate) offset: u8,
    /// Flags of TCP.
    pub(crate) flags: u8,
}

impl<I: Carried> Packet<I> {
    /// Takes the packet whose IP header is `ip` and that may reach up to `end` in the frame.
    ///
    /// Refuses what this version does not carry, each with its reason: fragments, options, other protocols, and
    /// lengths that contradict each other. Inside a tunnel the packet must end exactly at `end`: more bytes would be
    /// several datagrams that a NIC has merged (UDP GRO), of which only the first could be read. A bare frame may be
    /// padded.
    #[inline(always)]
    pub(crate) fn read<P: Place, F: Frame>(frame: &mut F, ip: &Header<I>, end: usize) -> Step<Self> {
        if !ip.is_version {
            return Err(DropReason::Malformed);
        }
        if !ip.is_plain {
            return Err(DropReason::IpOptions);
        }
        let own_end = P::AT + ip.total as usize;
        if own_end > end || (P::IN_TUNNEL && own_end != end) {
            return Err(DropReason::Malformed);
        }
        if ip.is_fragment {
            return Err(DropReason::Fragment);
        }
        if ip.protocol != PROTOCOL_TCP {
            return Err(not_tcp::<P, I, F>(frame, ip));
        }
        let at = P::AT + I::LEN;
        let Some(window) = frame.window::<Behind<P, I, TCP>>() else { return Err(DropReason::Malformed) };
        let packet = Self {
            source: ip.source,
            destination: ip.destination,
            source_port: u16::from_be(window.get(at)),
            destination_port: u16::from_be(window.get(at + 2)),
            protocol: PROTOCOL_TCP,
            total: ip.total,
            tos: ip.tos,
            offset: window.get(at + 12),
            flags: window.get(at + 13),
        };
        if packet.offset < 0x50 || packet.headers() > packet.total {
            return Err(DropReason::Malformed);
        }
        Ok(packet)
    }

    /// Bytes of IP and TCP header.
    #[inline(always)]
    fn headers(&self) -> u16 {
        I::LEN as u16 + (self.offset >> 4) as u16 * 4
    }

    /// Bytes of TCP options.
    #[inline(always)]
    pub(crate) fn options(&self) -> usize {
        ((self.offset >> 4) as usize * 4).wrapping_sub(TCP)
    }

    /// Whether SYN is set.
    #[inline(always)]
    pub(crate) fn is_syn(&self) -> bool {
        self.flags & FLAG_SYN != 0
    }

    /// Whether this begins a connection: SYN without ACK.
    #[inline(always)]
    pub(crate) fn is_opening(&self) -> bool {
        self.flags & (FLAG_SYN | FLAG_ACK) == FLAG_SYN
    }

    /// Bytes of the biggest IP packet that this is on the wire. Of a super-packet only its segments count.
    #[inline(always)]
    pub(crate) fn biggest<F: Frame>(&self, frame: &F) -> u32 {
        match frame.segment() {
            0 => self.total as u32,
            segment => segment + self.headers() as u32,
        }
    }

    /// Packets and bytes that this is on the wire.
    #[inline(always)]
    pub(crate) fn on_the_wire<F: Frame>(&self, frame: &F) -> (u32, u32) {
        let packets = frame.packets();
        (packets, self.total as u32 + (packets - 1) * self.headers() as u32)
    }

    /// Source and destination.
    #[inline(always)]
    pub(crate) fn addresses(&self) -> [I::Address; 2] {
        [self.source, self.destination]
    }

    /// Both ports as the word they are in the packet.
    #[inline(always)]
    pub(crate) fn ports(&self) -> u32 {
        (((self.source_port as u32) << 16) | self.destination_port as u32).to_be()
    }

    /// Hash of the flow.
    #[inline(always)]
    pub(crate) fn hash(&self, seed: u32) -> u32 {
        I::hash(seed, self.addresses(), [self.source_port, self.destination_port])
    }
}

/// Errors are told apart from other ICMP.
#[inline(always)]
fn not_tcp<P: Place, I: Carried, F: Frame>(frame: &mut F, ip: &Header<I>) -> DropReason {
    if ip.protocol == PROTOCOL_ICMP
        && let Some(window) = frame.window::<Behind<P, I, 1>>()
        // Destination unreachable, source quench, redirect; time exceeded, parameter problem.
        && matches!(window.get::<u8>(P::AT + I::LEN), 3 | 4 | 5 | 11 | 12)
    {
        return DropReason::IcmpError;
    }
    DropReason::Protocol
}

/// The IP header at `P`; `None` when the frame is shorter.
#[inline(always)]
pub(crate) fn header<P: Place, I: Carried, F: Frame>(frame: &mut F) -> Option<Header<I>> {
    let window = frame.window::<Behind<P, I, 0>>()?;
    Some(I::header(&window, P::AT))
}

/// Destination port of a bare UDP packet; `None` when the frame is shorter.
#[inline(always)]
pub(crate) fn udp_port<I: Carried, F: Frame>(frame: &mut F) -> Option<u16> {
    let window = frame.window::<Behind<Bare, I, 8>>()?;
    Some(u16::from_be(window.get(ETH + I::LEN + 2)))
}
