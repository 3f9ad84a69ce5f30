//! A decoder of tunnelled packets written from the drafts, to check what the data plane really sends.
//!
//! It shares no code and no constant with the data plane. Sources: draft-ietf-intarea-gue-09 (header, variant 0,
//! `hlen`), draft-ietf-intarea-gue-extensions-06 (group identifier, security cookie), RFC 791, 768, 9293, 1071.
//! EPIC's own reading of the two extensions is the only thing taken from its design: the 32 bits of the group
//! identifier are a group id and a service id, the 128-bit cookie is the key.
//!
//! Whatever the drafts forbid is a [`Fault`]; nothing is repaired. Checksums of the inner packet are reported
//! rather than required, for a capture on the sending host sees them before the device has filled them in.

use std::fmt;
use std::net::Ipv4Addr;

/// Why bytes are not what they should be, in words with the numbers found.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault(String);

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Fault {}

fn fault<T>(text: impl Into<String>) -> Result<T, Fault> {
    Err(Fault(text.into()))
}

/// An IPv4 packet (RFC 791), its header checksum verified.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Ipv4<'a> {
    /// Source address.
    pub source: Ipv4Addr,
    /// Destination address.
    pub destination: Ipv4Addr,
    /// Protocol number.
    pub protocol: u8,
    /// Time to live.
    pub ttl: u8,
    /// Type of service: DSCP and ECN.
    pub tos: u8,
    /// Identification.
    pub id: u16,
    /// Don't fragment.
    pub dont_fragment: bool,
    /// More fragments follow, or this is not the first.
    pub fragment: bool,
    /// Total length field, in bytes.
    pub total_length: u16,
    /// What follows the header.
    pub payload: &'a [u8],
}

impl<'a> Ipv4<'a> {
    /// Reads a packet; bytes after its total length (link-layer padding) are ignored.
    ///
    /// # Errors
    /// Not IPv4, truncated, or a wrong header checksum.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        if bytes.len() < 20 {
            return fault(format!("{} bytes are too few for an IPv4 header", bytes.len()));
        }
        let header_length = usize::from(bytes[0] & 0x0f) * 4;
        if bytes[0] >> 4 != 4 || header_length < 20 {
            return fault(format!("first byte {:02x} is no IPv4 header", bytes[0]));
        }
        let total_length = be16(bytes, 2);
        let total = usize::from(total_length);
        if total < header_length || total > bytes.len() {
            return fault(format!("IPv4 total length {total} with {} bytes present", bytes.len()));
        }
        if sum(0, &bytes[..header_length]) != 0xffff {
            return fault("wrong IPv4 header checksum");
        }
        let flags = be16(bytes, 6);
        Ok(Self {
            source: address(bytes, 12),
            destination: address(bytes, 16),
            protocol: bytes[9],
            ttl: bytes[8],
            tos: bytes[1],
            id: be16(bytes, 4),
            dont_fragment: flags & 0x4000 != 0,
            fragment: flags & 0x3fff != 0,
            total_length,
            payload: &bytes[header_length..total],
        })
    }

    /// Sum over the pseudo header of TCP and UDP.
    fn pseudo_sum(&self) -> u16 {
        let length = u16::try_from(self.payload.len()).unwrap_or(u16::MAX);
        let start = u32::from(self.protocol) + u32::from(length);
        let with_source = sum(start, &self.source.octets());
        sum(u32::from(with_source), &self.destination.octets())
    }

    /// Whether the checksum of the TCP or UDP segment inside is right. `None` for other protocols, for fragments,
    /// and for a UDP checksum of zero, which says that there is none.
    pub fn transport_checksum_holds(&self) -> Option<bool> {
        let field = match self.protocol {
            6 => 16,
            17 => 6,
            _ => return None,
        };
        if self.fragment || self.payload.len() < field + 2 {
            return None;
        }
        if self.protocol == 17 && be16(self.payload, field) == 0 {
            return None;
        }
        Some(sum(u32::from(self.pseudo_sum()), self.payload) == 0xffff)
    }
}

/// A TCP segment (RFC 9293) as far as the tests look into it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tcp<'a> {
    /// Source port.
    pub source: u16,
    /// Destination port.
    pub destination: u16,
    /// Flag byte: FIN 1, SYN 2, RST 4, PSH 8, ACK 16.
    pub flags: u8,
    /// Maximum segment size option, if present.
    pub mss: Option<u16>,
    /// Data.
    pub payload: &'a [u8],
}

impl<'a> Tcp<'a> {
    /// Reads a segment.
    ///
    /// # Errors
    /// Truncated, or options that do not fit their header.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        if bytes.len() < 20 {
            return fault(format!("{} bytes are too few for a TCP header", bytes.len()));
        }
        let header_length = usize::from(bytes[12] >> 4) * 4;
        if header_length < 20 || header_length > bytes.len() {
            return fault(format!("TCP data offset {header_length} with {} bytes present", bytes.len()));
        }
        let mut mss = None;
        let mut options = &bytes[20..header_length];
        while let Some((&kind, rest)) = options.split_first() {
            options = match kind {
                0 => break,
                1 => rest,
                _ => {
                    let length = rest.first().map_or(0, |length| usize::from(*length));
                    if length < 2 || length > options.len() {
                        return fault(format!("TCP option {kind} of length {length}"));
                    }
                    if kind == 2 && length == 4 {
                        mss = Some(be16(options, 2));
                    }
                    &options[length..]
                }
            };
        }
        Ok(Self {
            source: be16(bytes, 0),
            destination: be16(bytes, 2),
            flags: bytes[13],
            mss,
            payload: &bytes[header_length..],
        })
    }
}

/// The security cookie of the extensions draft, by the length its three flag bits announce.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Cookie {
    /// `SEC` 000.
    Absent,
    /// `SEC` 001.
    Bits64([u8; 8]),
    /// `SEC` 010: EPIC's key.
    Bits128([u8; 16]),
    /// `SEC` 011.
    Bits256([u8; 32]),
}

/// A GUE header of variant 0 and what it carries.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Gue<'a> {
    /// The C bit: `protocol` is a control type and the payload a control message.
    pub control: bool,
    /// Bytes of the header after the first four: what `hlen` says, in bytes.
    pub extension_length: usize,
    /// IP protocol of the payload (4: IPv4, 41: IPv6), or the control type.
    pub protocol: u8,
    /// The flag field.
    pub flags: u16,
    /// Group identifier, if the G flag is set.
    pub group_identifier: Option<u32>,
    /// Security cookie.
    pub cookie: Cookie,
    /// Private data: what is left of `hlen` after the extensions.
    pub private: &'a [u8],
    /// What follows the header.
    pub payload: &'a [u8],
}

const FLAG_GROUP: u16 = 0x8000;
const FLAGS_SECURITY: u16 = 0x7000;

impl<'a> Gue<'a> {
    /// Reads the payload of a UDP datagram.
    ///
    /// # Errors
    /// Another variant, flags without a meaning here, or an `hlen` that disagrees with the flags or the bytes.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, Fault> {
        if bytes.len() < 4 {
            return fault(format!("{} bytes are too few for a GUE header", bytes.len()));
        }
        let variant = bytes[0] >> 6;
        if variant != 0 {
            return fault(format!("GUE variant {variant}"));
        }
        let extension_length = usize::from(bytes[0] & 0x1f) * 4;
        let Some(mut rest) = bytes[4..].get(..extension_length) else {
            return fault(format!("GUE hlen says {extension_length} bytes, {} follow", bytes.len() - 4));
        };
        let flags = be16(bytes, 2);
        let unknown = flags & !(FLAG_GROUP | FLAGS_SECURITY);
        if unknown != 0 {
            return fault(format!("GUE flags {unknown:04x} stand for extensions that nobody agreed on"));
        }
        let group_identifier = match flags & FLAG_GROUP {
            0 => None,
            _ => Some(u32::from_be_bytes(take(&mut rest, "the group identifier")?)),
        };
        let cookie = match (flags & FLAGS_SECURITY) >> 12 {
            0 => Cookie::Absent,
            1 => Cookie::Bits64(take(&mut rest, "a 64-bit cookie")?),
            2 => Cookie::Bits128(take(&mut rest, "a 128-bit cookie")?),
            3 => Cookie::Bits256(take(&mut rest, "a 256-bit cookie")?),
            other => return fault(format!("GUE security type {other} is reserved")),
        };
        Ok(Self {
            control: bytes[0] & 0x20 != 0,
            extension_length,
            protocol: bytes[1],
            flags,
            group_identifier,
            cookie,
            private: rest,
            payload: &bytes[4 + extension_length..],
        })
    }

    /// The first half of the group identifier: EPIC's group id.
    pub fn group(&self) -> Option<u16> {
        self.group_identifier.map(|both| (both >> 16) as u16)
    }

    /// The second half of the group identifier: EPIC's service id.
    pub fn service(&self) -> Option<u16> {
        self.group_identifier.map(|both| both as u16)
    }

    /// The key, when the cookie has its length.
    pub fn key(&self) -> Option<[u8; 16]> {
        match self.cookie {
            Cookie::Bits128(key) => Some(key),
            _ => None,
        }
    }
}

/// A GUE packet from the outer IP header to the inner one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tunnelled<'a> {
    /// The outer header.
    pub outer: Ipv4<'a>,
    /// UDP source port.
    pub source_port: u16,
    /// UDP destination port.
    pub destination_port: u16,
    /// UDP checksum field; zero means none.
    pub udp_checksum: u16,
    /// The GUE header.
    pub gue: Gue<'a>,
    /// The packet inside; `None` for control messages.
    pub inner: Option<Ipv4<'a>>,
}

/// Reads an outer IPv4 packet that carries GUE over UDP port `port`. `Ok(None)` when it is something else.
///
/// # Errors
/// It claims to be GUE and breaks a rule: a fragment, a UDP length or checksum that is wrong, a header the draft
/// forbids, or an inner packet whose length differs from what is there.
pub fn decode(packet: &[u8], port: u16) -> Result<Option<Tunnelled<'_>>, Fault> {
    let outer = Ipv4::parse(packet)?;
    if outer.protocol != 17 || outer.payload.len() < 8 || be16(outer.payload, 2) != port {
        return Ok(None);
    }
    if outer.fragment {
        return fault("the outer packet is a fragment");
    }
    let udp = outer.payload;
    let length = usize::from(be16(udp, 4));
    if length != udp.len() {
        return fault(format!("UDP length {length} in an IP payload of {}", udp.len()));
    }
    if outer.transport_checksum_holds() == Some(false) {
        return fault("wrong UDP checksum");
    }
    let gue = Gue::parse(&udp[8..])?;
    let inner = if gue.control {
        None
    } else {
        if gue.protocol != 4 {
            return fault(format!("GUE protocol {} inside IPv4-in-IPv4 traffic", gue.protocol));
        }
        let inner = Ipv4::parse(gue.payload)?;
        if usize::from(inner.total_length) != gue.payload.len() {
            return fault(format!(
                "the inner packet says {} bytes, {} are there",
                inner.total_length,
                gue.payload.len()
            ));
        }
        Some(inner)
    };
    Ok(Some(Tunnelled {
        source_port: be16(udp, 0),
        destination_port: be16(udp, 2),
        udp_checksum: be16(udp, 6),
        gue,
        inner,
        outer,
    }))
}

fn take<const N: usize>(rest: &mut &[u8], what: &str) -> Result<[u8; N], Fault> {
    match rest.split_first_chunk::<N>() {
        Some((head, tail)) => {
            *rest = tail;
            Ok(*head)
        }
        None => fault(format!("GUE hlen has no room for {what}: {} of {N} bytes", rest.len())),
    }
}

fn be16(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

fn address(bytes: &[u8], at: usize) -> Ipv4Addr {
    Ipv4Addr::new(bytes[at], bytes[at + 1], bytes[at + 2], bytes[at + 3])
}

/// Ones' complement sum of RFC 1071, continued from `start`. Over data with a right checksum it is `0xffff`.
fn sum(start: u32, bytes: &[u8]) -> u16 {
    let mut total = u64::from(start);
    for pair in bytes.chunks(2) {
        total += u64::from(pair[0]) << 8 | pair.get(1).map_or(0, |low| u64::from(*low));
    }
    while total > 0xffff {
        total = (total & 0xffff) + (total >> 16);
    }
    total as u16
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Outer 192.0.2.1 → 192.0.2.2, UDP 50000 → 6080, GUE of EPIC with group 0x0102, service 0x0304 and key
    /// 00..0f, inner ICMP echo 10.0.0.1 → 10.0.0.2. Assembled by hand.
    fn sample() -> Vec<u8> {
        let mut inner = vec![0x45, 0, 0, 28, 0, 1, 0, 0, 64, 1, 0, 0, 10, 0, 0, 1, 10, 0, 0, 2];
        fill(&mut inner);
        inner.extend([8, 0, 0xf7, 0xfd, 0, 1, 0, 1]);
        let mut udp = vec![0xc3, 0x50, 0x17, 0xc0, 0, 60, 0, 0];
        udp.extend([0x05, 0x04, 0xa0, 0x00, 0x01, 0x02, 0x03, 0x04]);
        udp.extend(0..16);
        udp.extend(&inner);
        let mut packet = vec![0x45, 0, 0, 80, 0, 0, 0x40, 0, 64, 17, 0, 0, 192, 0, 2, 1, 192, 0, 2, 2];
        fill(&mut packet);
        packet.extend(&udp);
        packet
    }

    fn fill(header: &mut [u8]) {
        let checksum = !sum(0, header);
        header[10..12].copy_from_slice(&checksum.to_be_bytes());
    }

    #[test]
    fn a_packet_in_order_is_read_to_the_inner_header() {
        let packet = sample();
        let read = decode(&packet, 6080).unwrap().unwrap();
        assert!(read.outer.dont_fragment && !read.outer.fragment);
        assert_eq!((read.source_port, read.destination_port, read.udp_checksum), (50000, 6080, 0));
        assert_eq!((read.gue.flags, read.gue.extension_length), (0xa000, 20));
        assert_eq!((read.gue.group(), read.gue.service()), (Some(0x0102), Some(0x0304)));
        assert_eq!(read.gue.key().unwrap()[15], 15);
        assert_eq!(read.inner.unwrap().destination, Ipv4Addr::new(10, 0, 0, 2));
    }

    #[test]
    fn an_hlen_without_its_bytes_is_a_fault() {
        let mut packet = sample();
        packet[28] = 0x01;
        let fault = decode(&packet, 6080).unwrap_err().to_string();
        assert!(fault.contains("no room for a 128-bit cookie"), "{fault}");
        packet[28] = 0x1f;
        let fault = decode(&packet, 6080).unwrap_err().to_string();
        assert!(fault.contains("hlen says 124 bytes"), "{fault}");
    }

    #[test]
    fn another_variant_and_unknown_flags_are_faults() {
        let mut packet = sample();
        packet[28] |= 0x40;
        assert_eq!(decode(&packet, 6080).unwrap_err().to_string(), "GUE variant 1");
        let mut packet = sample();
        packet[31] = 0x01;
        assert!(decode(&packet, 6080).unwrap_err().to_string().contains("flags 0001"));
    }

    #[test]
    fn a_damaged_outer_header_and_a_wrong_inner_length_are_faults() {
        let mut packet = sample();
        packet[8] = 63;
        assert_eq!(decode(&packet, 6080).unwrap_err().to_string(), "wrong IPv4 header checksum");
        let mut packet = sample();
        packet[55] = 27;
        packet[62..64].fill(0);
        let (_, inner) = packet.split_at_mut(52);
        fill(&mut inner[..20]);
        assert!(decode(&packet, 6080).unwrap_err().to_string().contains("the inner packet says 27 bytes"));
    }

    #[test]
    fn other_traffic_is_not_gue() {
        let packet = sample();
        assert_eq!(decode(&packet, 6081).unwrap(), None);
    }

    #[test]
    fn the_mss_is_found_behind_other_options() {
        let mut segment = vec![0, 80, 0x12, 0x34, 0, 0, 0, 0, 0, 0, 0, 0, 0x80, 0x12, 0, 0, 0, 0, 0, 0];
        segment.extend([1, 1, 4, 2, 2, 4, 0x05, 0x80, 0, 0, 0, 0]);
        assert_eq!(Tcp::parse(&segment).unwrap().mss, Some(1408));
    }
}
