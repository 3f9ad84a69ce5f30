//! Reading headers, directly.
//!
//! The verifier wants every access to follow a comparison with the end of the linear part; [`linear`] makes it, and
//! pulls bytes that are still in fragments. Frames start with Ethernet at offset 0 at all our hooks. Headers are read
//! in words at offsets that are odd multiples of two: BPF on our targets does unaligned access, and reading bytes one
//! by one would cost more than the rest of the program.

use aya_ebpf::{helpers::generated::bpf_skb_pull_data, programs::TcContext};
use epic_abi::{PROTOCOL_ICMP, PROTOCOL_TCP, drop::DropReason};

use crate::verdict::{Step, refuse};

/// Length of an Ethernet header.
pub const ETH: usize = 14;
/// Length of an IPv4 header without options.
pub const IP: usize = 20;
/// Length of a TCP header without options.
pub const TCP: usize = 20;
/// Ethertype of IPv4, as the packet has it.
pub const ETH_IPV4: u16 = 0x0800u16.to_be();
/// Ethertype of ARP, as the packet has it.
pub const ETH_ARP: u16 = 0x0806u16.to_be();
/// Ethertype of IPv6, as the packet has it.
pub const ETH_IPV6: u16 = 0x86DDu16.to_be();
/// SYN in the flags byte of TCP.
const FLAG_SYN: u8 = 0x02;
/// ACK in the flags byte of TCP.
const FLAG_ACK: u8 = 0x10;

/// The first `len` bytes of the frame, if it has that many.
#[inline(always)]
pub fn linear(ctx: &TcContext, len: usize) -> Option<*mut u8> {
    let data = ctx.data();
    if data + len <= ctx.data_end() {
        return Some(data as *mut u8);
    }
    // SAFETY: the context is the kernel's.
    if unsafe { bpf_skb_pull_data(ctx.skb.skb, len as u32) } != 0 {
        return None;
    }
    let data = ctx.data();
    if data + len <= ctx.data_end() { Some(data as *mut u8) } else { None }
}

/// Reads a `T` at `at`.
///
/// # Safety
///
/// `base` comes from [`linear`] with at least `at + size_of::<T>()`.
#[inline(always)]
pub unsafe fn read<T: Copy>(base: *mut u8, at: usize) -> T {
    // SAFETY: the caller's; alignment see the module.
    unsafe { *base.add(at).cast::<T>() }
}

/// Writes a `T` at `at`.
///
/// # Safety
///
/// As for [`read`].
#[inline(always)]
pub unsafe fn write<T: Copy>(base: *mut u8, at: usize, value: T) {
    // SAFETY: the caller's.
    unsafe { *base.add(at).cast::<T>() = value };
}

/// An IPv4 header.
#[derive(Clone, Copy)]
pub struct Ipv4 {
    /// First byte: version and header length.
    first: u8,
    /// Type of service: DSCP and ECN.
    pub tos: u8,
    /// Total length, host order.
    pub total: u16,
    /// Flags and fragment offset, host order.
    fragment: u16,
    /// Protocol.
    pub protocol: u8,
    /// Source, network bytes.
    pub source: u32,
    /// Destination, network bytes.
    pub destination: u32,
}

impl Ipv4 {
    /// Reads the header at `at`.
    ///
    /// # Safety
    ///
    /// `base` comes from [`linear`] with at least `at + IP`.
    #[inline(always)]
    pub unsafe fn read(base: *mut u8, at: usize) -> Self {
        // SAFETY: the caller's.
        unsafe {
            Self {
                first: read(base, at),
                tos: read(base, at + 1),
                total: u16::from_be(read(base, at + 2)),
                fragment: u16::from_be(read(base, at + 6)),
                protocol: read(base, at + 9),
                source: read(base, at + 12),
                destination: read(base, at + 16),
            }
        }
    }

    /// Whether the version says IPv4.
    #[inline(always)]
    pub fn is_v4(&self) -> bool {
        self.first >> 4 == 4
    }

    /// Whether the header has no options (and is not shorter than a header).
    #[inline(always)]
    pub fn is_plain(&self) -> bool {
        self.first == 0x45
    }

    /// Whether this is a fragment, the first or a later one.
    #[inline(always)]
    pub fn is_fragment(&self) -> bool {
        self.fragment & 0x3FFF != 0
    }

    /// Whether this is a fragment behind the first.
    #[inline(always)]
    pub fn is_later_fragment(&self) -> bool {
        self.fragment & 0x1FFF != 0
    }
}

/// A TCP packet over IPv4, as it lies at some offset of the frame. Ports in host order, addresses in network bytes.
#[derive(Clone, Copy)]
pub struct Tcp {
    /// Source address.
    pub source: u32,
    /// Destination address.
    pub destination: u32,
    /// Source port.
    pub source_port: u16,
    /// Destination port.
    pub destination_port: u16,
    /// Length of the IP packet.
    pub total: u16,
    /// Type of service.
    pub tos: u8,
    /// Data offset in the upper half.
    pub offset: u8,
    /// Flags.
    pub flags: u8,
}

impl Tcp {
    /// Takes the packet whose IP header `ip` lies at offset `AT` and that may reach up to `end`.
    ///
    /// Refuses what this version does not carry, each with its reason: fragments, options, other protocols, and
    /// lengths that contradict each other. Inside a tunnel the packet must end exactly at `end`: more bytes would be
    /// several datagrams that a NIC has merged (UDP GRO), of which only the first could be read. A bare frame may be
    /// padded.
    #[inline(always)]
    pub fn read<const AT: usize>(ctx: &TcContext, ip: &Ipv4, end: usize) -> Step<Self> {
        if !ip.is_v4() {
            return refuse(DropReason::Malformed);
        }
        if !ip.is_plain() {
            return refuse(DropReason::IpOptions);
        }
        let own_end = AT + ip.total as usize;
        if own_end > end || (AT != ETH && own_end != end) {
            return refuse(DropReason::Malformed);
        }
        if ip.is_fragment() {
            return refuse(DropReason::Fragment);
        }
        if ip.protocol != PROTOCOL_TCP {
            return Err(Self::not_tcp::<AT>(ctx, ip));
        }
        let Some(base) = linear(ctx, AT + IP + TCP) else { return refuse(DropReason::Malformed) };
        // SAFETY: linear covers IP and TCP header.
        let tcp = unsafe {
            Self {
                source: ip.source,
                destination: ip.destination,
                source_port: u16::from_be(read(base, AT + IP)),
                destination_port: u16::from_be(read(base, AT + IP + 2)),
                total: ip.total,
                tos: ip.tos,
                offset: read(base, AT + IP + 12),
                flags: read(base, AT + IP + 13),
            }
        };
        if tcp.offset < 0x50 || tcp.headers() > tcp.total {
            return refuse(DropReason::Malformed);
        }
        Ok(tcp)
    }

    /// Errors are told apart from other ICMP: they are what roadmap work translates.
    #[inline(always)]
    fn not_tcp<const AT: usize>(ctx: &TcContext, ip: &Ipv4) -> i32 {
        if ip.protocol == PROTOCOL_ICMP
            && let Some(base) = linear(ctx, AT + IP + 1)
        {
            // SAFETY: linear covers the type.
            let kind: u8 = unsafe { read(base, AT + IP) };
            // Destination unreachable, source quench, redirect; time exceeded, parameter problem.
            if matches!(kind, 3 | 4 | 5 | 11 | 12) {
                return crate::verdict::drop(DropReason::IcmpError);
            }
        }
        crate::verdict::drop(DropReason::Protocol)
    }

    /// Bytes of IP and TCP header.
    #[inline(always)]
    pub fn headers(&self) -> u16 {
        IP as u16 + (self.offset >> 4) as u16 * 4
    }

    /// Bytes of TCP options.
    #[inline(always)]
    pub fn options(&self) -> usize {
        ((self.offset >> 4) as usize * 4).wrapping_sub(TCP)
    }

    /// Whether SYN is set.
    #[inline(always)]
    pub fn is_syn(&self) -> bool {
        self.flags & FLAG_SYN != 0
    }

    /// Whether this begins a connection: SYN without ACK.
    #[inline(always)]
    pub fn is_opening(&self) -> bool {
        self.flags & (FLAG_SYN | FLAG_ACK) == FLAG_SYN
    }

    /// Size of the biggest IP packet this is on the wire. Of a super-packet only its segments count.
    #[inline(always)]
    pub fn on_the_wire(&self, ctx: &TcContext) -> u32 {
        // SAFETY: a field of the context, read only.
        match unsafe { (*ctx.skb.skb).gso_size } {
            0 => self.total as u32,
            segment => segment + self.headers() as u32,
        }
    }

    /// Hash of the flow.
    #[inline(always)]
    pub fn hash(&self, seed: u32) -> u32 {
        epic_abi::flow::hash_v4(seed, self.source, self.destination, self.source_port, self.destination_port)
    }
}
