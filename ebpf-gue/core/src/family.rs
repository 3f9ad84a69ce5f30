//! The address families: what a header looks like, and which addresses are whose.

use epic_abi::{
    Ip, IpRange, Lb, PROTOCOL_UDP, flow,
    gue::{DATA_BYTE, FLAGS, KEY_LEN, Key, OUTER_TTL, OVERHEAD_V4, PROTOCOL_IPV4},
    maps::{Config, FAMILY_V4, LocalProxy, Proxy},
};

use crate::{Span, Window, checksum};

/// A family whose packets are recognised.
pub trait Family: Copy + 'static {
    /// An address as a packet has it.
    type Address: Copy + PartialEq;
    /// Bytes of a header without options.
    const LEN: usize;
    /// Ethertype as a frame has it, read as a native integer.
    const ETHERTYPE: u16;

    /// Source and destination of the header at `at`.
    fn addresses<S: Span>(window: &Window<'_, S>, at: usize) -> [Self::Address; 2];
    /// An address as maps have it.
    fn ip(address: Self::Address) -> Ip;
    /// The addresses of proxies.
    fn proxies(config: &Config) -> &IpRange;
    /// Whether the address lies in the range.
    fn is_in(range: &IpRange, address: Self::Address) -> bool;
}

/// A family whose packets are carried: through NAT, and inside and outside of tunnels.
pub trait Carried: Family {
    /// Bytes in front of an inner packet behind an outer header of this family.
    const OVERHEAD: usize;
    /// Protocol in the GUE header of an inner packet of this family.
    const INSIDE: u8;
    /// [`epic_abi::maps::ListenerKey::family`] of this family.
    const NUMBER: u8;

    /// The header at `at`.
    fn header<S: Span>(window: &Window<'_, S>, at: usize) -> Header<Self>;
    /// The address that a map has; `None` when it is of another family.
    fn of(ip: &Ip) -> Option<Self::Address>;
    /// The address of a proxy's pod.
    fn pod(proxy: &Proxy) -> &Ip;
    /// The address of a proxy's pod, and the proxy address, as its veth has them.
    fn own(proxy: &LocalProxy) -> [&Ip; 2];
    /// The addresses that stand for endpoints.
    fn aliases(config: &Config) -> &IpRange;
    /// Whether no packet from outside can have this source, whatever it is for: an alias, this node's GUE address
    /// (it has one, `locals` holds no other), or an address that is no single host's. Answered, it would lead through
    /// a tunnel into a tenant's network. Proxy addresses have a reason of their own and are asked for by the caller.
    fn is_martian(config: &Config, source: Self::Address) -> bool;
    /// Hash of a flow; frozen. Ports in host order.
    fn hash(seed: u32, addresses: [Self::Address; 2], ports: [u16; 2]) -> u32;
    /// What a change of addresses does to a checksum with a pseudo header.
    fn difference(old: [Self::Address; 2], new: [Self::Address; 2]) -> u32;
    /// Writes source and destination into the header at `at`, whose own checksum changes by `difference`.
    fn readdress<S: Span>(
        window: &mut Window<'_, S>,
        at: usize,
        addresses: [Self::Address; 2],
        difference: u32,
    );
    /// Writes IP, UDP and GUE header of an outer packet of this family at `at`.
    fn outer<S: Span>(window: &mut Window<'_, S>, at: usize, outer: &Outer<'_, Self>);
}

/// A header, read. Addresses as the packet has them, all else in host order.
#[derive(Clone, Copy)]
pub struct Header<I: Family> {
    /// Source.
    pub source: I::Address,
    /// Destination.
    pub destination: I::Address,
    /// Bytes of the packet, this header included.
    pub total: u16,
    /// Type of service: DSCP and ECN.
    pub tos: u8,
    /// What follows.
    pub protocol: u8,
    /// Whether the version is the family's.
    pub is_version: bool,
    /// Whether the header has no options (and is not shorter than a header).
    pub is_plain: bool,
    /// Whether this is a fragment, the first or a later one.
    pub is_fragment: bool,
    /// Whether this is a fragment behind the first.
    pub is_later_fragment: bool,
}

/// Everything in outer headers that differs from packet to packet.
pub struct Outer<'a, O: Family> {
    /// Source and destination.
    pub addresses: [O::Address; 2],
    /// UDP ports.
    pub ports: [u16; 2],
    /// Bytes of the outer packet.
    pub total: u16,
    /// Its type of service.
    pub tos: u8,
    /// Protocol in the GUE header.
    pub inside: u8,
    /// The LoadBalancer.
    pub lb: Lb,
    /// The key to send with.
    pub key: &'a Key,
}

/// IPv4. An address is the four bytes of a packet, read as one native word.
#[derive(Clone, Copy)]
pub struct V4;

/// IPv6. It is recognised and not carried yet.
#[derive(Clone, Copy)]
pub struct V6;

impl Family for V4 {
    type Address = u32;
    const LEN: usize = 20;
    const ETHERTYPE: u16 = 0x0800u16.to_be();

    #[inline(always)]
    fn addresses<S: Span>(window: &Window<'_, S>, at: usize) -> [u32; 2] {
        [window.get(at + 12), window.get(at + 16)]
    }

    #[inline(always)]
    fn ip(address: u32) -> Ip {
        Ip::from_v4_word(address)
    }

    #[inline(always)]
    fn proxies(config: &Config) -> &IpRange {
        &config.proxies_v4
    }

    #[inline(always)]
    fn is_in(range: &IpRange, address: u32) -> bool {
        range.contains_v4(address)
    }
}

impl Family for V6 {
    type Address = Ip;
    const LEN: usize = 40;
    const ETHERTYPE: u16 = 0x86DDu16.to_be();

    #[inline(always)]
    fn addresses<S: Span>(window: &Window<'_, S>, at: usize) -> [Ip; 2] {
        [window.get(at + 8), window.get(at + 24)]
    }

    #[inline(always)]
    fn ip(address: Ip) -> Ip {
        address
    }

    #[inline(always)]
    fn proxies(config: &Config) -> &IpRange {
        &config.proxies_v6
    }

    #[inline(always)]
    fn is_in(range: &IpRange, address: Ip) -> bool {
        range.contains(&address)
    }
}

/// First byte of the addresses of "this network" (RFC 1122).
const THIS_NETWORK: u32 = 0;
/// First byte of loopback addresses.
const LOOPBACK: u32 = 127;
/// First byte of the first multicast address; behind them are the reserved ones and broadcast.
const MULTICAST: u32 = 224;
/// Flags and fragment offset of an outer header: a fragment could be neither decapsulated nor even recognised.
const DONT_FRAGMENT: u16 = 0x4000;

impl Carried for V4 {
    const OVERHEAD: usize = OVERHEAD_V4 as usize;
    const INSIDE: u8 = PROTOCOL_IPV4;
    const NUMBER: u8 = FAMILY_V4;

    #[inline(always)]
    fn header<S: Span>(window: &Window<'_, S>, at: usize) -> Header<Self> {
        let first: u8 = window.get(at);
        let fragment = u16::from_be(window.get(at + 6));
        let [source, destination] = Self::addresses(window, at);
        Header {
            source,
            destination,
            total: u16::from_be(window.get(at + 2)),
            tos: window.get(at + 1),
            protocol: window.get(at + 9),
            is_version: first >> 4 == 4,
            is_plain: first == 0x45,
            is_fragment: fragment & 0x3FFF != 0,
            is_later_fragment: fragment & 0x1FFF != 0,
        }
    }

    #[inline(always)]
    fn of(ip: &Ip) -> Option<u32> {
        if ip.is_v4() { Some(ip.v4_word()) } else { None }
    }

    #[inline(always)]
    fn pod(proxy: &Proxy) -> &Ip {
        &proxy.pod_v4
    }

    #[inline(always)]
    fn own(proxy: &LocalProxy) -> [&Ip; 2] {
        [&proxy.pod_v4, &proxy.address_v4]
    }

    #[inline(always)]
    fn aliases(config: &Config) -> &IpRange {
        &config.aliases_v4
    }

    #[inline(always)]
    fn is_martian(config: &Config, source: u32) -> bool {
        let first = u32::from_be(source) >> 24;
        first == THIS_NETWORK
            || first == LOOPBACK
            || first >= MULTICAST
            || config.aliases_v4.contains_v4(source)
            || config.underlay == Ip::from_v4_word(source)
    }

    #[inline(always)]
    fn hash(seed: u32, [source, destination]: [u32; 2], [from, to]: [u16; 2]) -> u32 {
        flow::hash_v4(seed, source, destination, from, to)
    }

    #[inline(always)]
    fn difference(old: [u32; 2], new: [u32; 2]) -> u32 {
        checksum::difference(old, new)
    }

    #[inline(always)]
    fn readdress<S: Span>(window: &mut Window<'_, S>, at: usize, addresses: [u32; 2], difference: u32) {
        // The header sums to zero before and after, so a CHECKSUM_COMPLETE of the packet stays right.
        let check: u16 = window.get(at + 10);
        window.set(at + 10, !checksum::fold(!check as u32 + checksum::fold(difference) as u32));
        window.set(at + 12, addresses[0]);
        window.set(at + 16, addresses[1]);
    }

    #[inline(always)]
    fn outer<S: Span>(window: &mut Window<'_, S>, at: usize, outer: &Outer<'_, Self>) {
        let [source, destination] = outer.addresses;
        let first = word(0x4500 | outer.tos as u16, outer.total);
        let second = word(0, DONT_FRAGMENT);
        let third = word(((OUTER_TTL as u16) << 8) | PROTOCOL_UDP as u16, 0);
        let sum = first as u64 + second as u64 + third as u64 + source as u64 + destination as u64;
        window.set(at, first);
        window.set(at + 4, second);
        window.set(at + 8, third | word(0, u16::from_be(!checksum::fold_words(sum))));
        window.set(at + 12, source);
        window.set(at + 16, destination);
        udp_and_gue(window, at + Self::LEN, outer);
    }
}

/// UDP header without a checksum, which IPv4 allows and the inner checksums make up for, and GUE header.
#[inline(always)]
fn udp_and_gue<O: Carried, S: Span>(window: &mut Window<'_, S>, at: usize, outer: &Outer<'_, O>) {
    window.set(at, word(outer.ports[0], outer.ports[1]));
    window.set(at + 4, word(outer.total - O::LEN as u16, 0));
    window.set(at + 8, word(((DATA_BYTE as u16) << 8) | outer.inside as u16, FLAGS));
    window.set(at + 12, word(outer.lb.group, outer.lb.service));
    let key = &outer.key.0;
    for part in [0, 4, 8, 12] {
        let bytes = [key[part], key[part + 1], key[part + 2], key[part + 3]];
        window.set(at + 16 + part, u32::from_ne_bytes(bytes));
    }
    const { assert!(KEY_LEN == 16) }
}

/// Two halves as the word they make in a packet.
#[inline(always)]
const fn word(high: u16, low: u16) -> u32 {
    (((high as u32) << 16) | low as u32).to_be()
}
