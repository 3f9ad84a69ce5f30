//! Addresses of both families in one representation.
//!
//! IPv4 is kept v4-mapped (`::ffff:a.b.c.d`), so that every map has one key form and the family follows from
//! the address. A real IPv6 packet never carries a v4-mapped address; programs drop those that claim to.

use core::{
    fmt,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
};

/// An IPv4 (v4-mapped) or IPv6 address: 16 bytes, as four words each in network byte order.
#[repr(C)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Ip {
    /// The address as it lies in memory and on the wire; a word holds the bytes in network order.
    pub words: [u32; 4],
}

/// The third word of every v4-mapped address, as it lies in memory.
const V4_MAPPED: u32 = u32::from_ne_bytes([0, 0, 0xff, 0xff]);

impl Ip {
    /// No address. Stands for "absent" wherever an address is optional.
    pub const UNSPECIFIED: Self = Self { words: [0; 4] };

    /// An IPv4 address from its four bytes as they are in a packet, read as one native word.
    #[inline(always)]
    pub const fn from_v4_word(word: u32) -> Self {
        Self { words: [0, 0, V4_MAPPED, word] }
    }

    /// An IPv4 address.
    pub const fn v4(octets: [u8; 4]) -> Self {
        Self::from_v4_word(u32::from_ne_bytes(octets))
    }

    /// An IPv6 address.
    pub const fn v6(o: [u8; 16]) -> Self {
        Self {
            words: [
                u32::from_ne_bytes([o[0], o[1], o[2], o[3]]),
                u32::from_ne_bytes([o[4], o[5], o[6], o[7]]),
                u32::from_ne_bytes([o[8], o[9], o[10], o[11]]),
                u32::from_ne_bytes([o[12], o[13], o[14], o[15]]),
            ],
        }
    }

    /// Whether this is an IPv4 address.
    #[inline(always)]
    pub const fn is_v4(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == V4_MAPPED
    }

    /// Whether no address is meant.
    #[inline(always)]
    pub const fn is_unspecified(&self) -> bool {
        self.words[0] == 0 && self.words[1] == 0 && self.words[2] == 0 && self.words[3] == 0
    }

    /// The IPv4 address as the packet has it, one native word; meaningless unless [`Self::is_v4`].
    #[inline(always)]
    pub const fn v4_word(&self) -> u32 {
        self.words[3]
    }

    /// The 16 bytes in network order.
    pub const fn octets(&self) -> [u8; 16] {
        let (a, b, c, d) = (
            self.words[0].to_ne_bytes(),
            self.words[1].to_ne_bytes(),
            self.words[2].to_ne_bytes(),
            self.words[3].to_ne_bytes(),
        );
        [a[0], a[1], a[2], a[3], b[0], b[1], b[2], b[3], c[0], c[1], c[2], c[3], d[0], d[1], d[2], d[3]]
    }

    /// `self` plus `offset` in the last 32 bits: how proxy addresses and aliases follow from their ids.
    /// The caller has checked that the id fits into the range.
    pub const fn offset(&self, offset: u32) -> Self {
        let last = u32::from_be(self.words[3]).wrapping_add(offset);
        Self { words: [self.words[0], self.words[1], self.words[2], last.to_be()] }
    }
}

impl From<IpAddr> for Ip {
    fn from(address: IpAddr) -> Self {
        match address {
            IpAddr::V4(v4) => v4.into(),
            IpAddr::V6(v6) => v6.into(),
        }
    }
}

impl From<Ipv4Addr> for Ip {
    fn from(address: Ipv4Addr) -> Self {
        Self::v4(address.octets())
    }
}

impl From<Ipv6Addr> for Ip {
    fn from(address: Ipv6Addr) -> Self {
        Self::v6(address.octets())
    }
}

impl From<Ip> for IpAddr {
    fn from(ip: Ip) -> Self {
        let octets = ip.octets();
        if ip.is_v4() {
            IpAddr::V4(Ipv4Addr::new(octets[12], octets[13], octets[14], octets[15]))
        } else {
            IpAddr::V6(Ipv6Addr::from(octets))
        }
    }
}

impl fmt::Display for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(&IpAddr::from(*self), f)
    }
}

impl fmt::Debug for Ip {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// A prefix: an address belongs to it when `address & mask == base`. All zero means "no range".
#[repr(C)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IpRange {
    /// First address of the range.
    pub base: Ip,
    /// Network mask in the same form; the 96 bits before an IPv4 address are set.
    pub mask: Ip,
}

impl IpRange {
    /// The range `address/prefix`, prefix in bits of the address's own family. Host bits are cleared.
    pub const fn new(address: Ip, prefix: u8) -> Self {
        let bits = if address.is_v4() { prefix as u32 + 96 } else { prefix as u32 };
        let mask = if bits == 0 { 0u128 } else { u128::MAX << (128 - if bits > 128 { 128 } else { bits }) };
        let mask = Ip::v6(mask.to_be_bytes());
        let (a, m) = (address.words, mask.words);
        Self { base: Ip { words: [a[0] & m[0], a[1] & m[1], a[2] & m[2], a[3] & m[3]] }, mask }
    }

    /// Whether an IPv4 address (native word of network bytes) lies in this range.
    #[inline(always)]
    pub const fn contains_v4(&self, word: u32) -> bool {
        self.base.is_v4() && word & self.mask.words[3] == self.base.words[3]
    }

    /// Whether `ip` lies in this range; never for the empty range.
    #[inline(always)]
    pub const fn contains(&self, ip: &Ip) -> bool {
        let (i, b, m) = (&ip.words, &self.base.words, &self.mask.words);
        !self.base.is_unspecified()
            && i[0] & m[0] == b[0]
            && i[1] & m[1] == b[1]
            && i[2] & m[2] == b[2]
            && i[3] & m[3] == b[3]
    }

    /// Distance of an IPv4 address from the base: the proxy id. Meaningless outside the range.
    #[inline(always)]
    pub const fn index_v4(&self, word: u32) -> u32 {
        u32::from_be(word).wrapping_sub(u32::from_be(self.base.words[3]))
    }

    /// Distance of `ip` from the base in the last 32 bits: the proxy id. Meaningless outside the range.
    #[inline(always)]
    pub const fn index(&self, ip: &Ip) -> u32 {
        self.index_v4(ip.words[3])
    }
}
