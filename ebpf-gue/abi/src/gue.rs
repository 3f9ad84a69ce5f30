//! The GUE header (draft-ietf-intarea-gue, variant 0) as EPIC uses it.
//!
//! Data: `05 04 A0 00 | group u16 | service u16 | key[16]` for IPv4 inside, `05 29 …` for IPv6; big-endian.
//! `hlen` (the low five bits of the first byte, in words of 32 bits) is true to the bytes present: 20. The flags
//! say "group id" (32 bits: our group and service) and "128-bit cookie" (our key). Control messages have the C
//! bit, no flags, and carry [`crate::hello`].
//!
//! Nothing else is accepted: a header that differs in version, length, flags or protocol is an [`Error`], which
//! receivers drop and count. [`FLAG_TAG`] is reserved for a keyed tag behind the key, and refused today.

use crate::Lb;

/// UDP port of GUE unless configured otherwise.
pub const DEFAULT_PORT: u16 = 6080;
/// Bytes of a data header.
pub const HEADER_LEN: usize = 24;
/// Bytes of a control header.
pub const CONTROL_HEADER_LEN: usize = 4;
/// Bytes of the key in a data header.
pub const KEY_LEN: usize = 16;
/// First byte of a data header: version 0, no control bit, 5 words behind the first.
pub const DATA_BYTE: u8 = 0x05;
/// First byte of a control header: version 0, control bit, nothing behind the first word.
pub const CONTROL_BYTE: u8 = 0x20;
/// The control bit in the first byte.
pub const CONTROL_BIT: u8 = 0x20;
/// The version bits in the first byte.
pub const VERSION_MASK: u8 = 0xC0;
/// Flags of a data header: group id present, 128-bit cookie present.
pub const FLAGS: u16 = 0xA000;
/// Reserved: a keyed tag follows the key. Not sent and not accepted by this version.
pub const FLAG_TAG: u16 = 0x0001;
/// Protocol byte: IPv4 inside.
pub const PROTOCOL_IPV4: u8 = 4;
/// Protocol byte: IPv6 inside.
pub const PROTOCOL_IPV6: u8 = 41;
/// Control type of a hello message (one of the unassigned values).
pub const CONTROL_TYPE_HELLO: u8 = 0x48;
/// Bytes in front of the inner packet with an IPv4 outer header: IPv4 20, UDP 8, GUE 24.
pub const OVERHEAD_V4: u16 = 52;
/// Bytes in front of the inner packet with an IPv6 outer header: IPv6 40, UDP 8, GUE 24.
pub const OVERHEAD_V6: u16 = 72;
/// TTL or hop limit of outer headers.
pub const OUTER_TTL: u8 = 64;

/// Family of the packet inside.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Inner {
    /// IPv4.
    V4,
    /// IPv6.
    V6,
}

/// A data key: a bearer token, so it is never printed.
#[repr(transparent)]
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key(pub [u8; KEY_LEN]);

impl core::fmt::Debug for Key {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str("Key(..)")
    }
}

/// A data header.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// Family of the packet inside.
    pub inner: Inner,
    /// The LoadBalancer the packet belongs to.
    pub lb: Lb,
    /// The key that proves it.
    pub key: Key,
}

/// What a GUE packet is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Packet {
    /// A data packet; the inner packet starts at [`HEADER_LEN`].
    Data(Header),
    /// A control message of this type; the message starts at [`CONTROL_HEADER_LEN`].
    Control(u8),
}

/// Why a header was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Fewer bytes than the header needs.
    Truncated,
    /// Another version than 0.
    Version,
    /// `hlen` is not what the flags ask for.
    Length,
    /// Flags other than [`FLAGS`] (data) or 0 (control).
    Flags,
    /// Neither IPv4 nor IPv6 inside.
    Protocol,
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        f.write_str(match self {
            Self::Truncated => "the packet ends within its GUE header",
            Self::Version => "GUE version is not 0",
            Self::Length => "GUE header length does not agree with its flags",
            Self::Flags => "GUE flags are not the ones of EPIC",
            Self::Protocol => "GUE payload is neither IPv4 nor IPv6",
        })
    }
}

impl core::error::Error for Error {}

/// The bytes of a data header.
pub fn encode(header: &Header) -> [u8; HEADER_LEN] {
    let mut bytes = [0; HEADER_LEN];
    bytes[0] = DATA_BYTE;
    bytes[1] = match header.inner {
        Inner::V4 => PROTOCOL_IPV4,
        Inner::V6 => PROTOCOL_IPV6,
    };
    bytes[2..4].copy_from_slice(&FLAGS.to_be_bytes());
    bytes[4..6].copy_from_slice(&header.lb.group.to_be_bytes());
    bytes[6..8].copy_from_slice(&header.lb.service.to_be_bytes());
    bytes[8..].copy_from_slice(&header.key.0);
    bytes
}

/// The bytes of a control header.
pub const fn encode_control(kind: u8) -> [u8; CONTROL_HEADER_LEN] {
    [CONTROL_BYTE, kind, 0, 0]
}

/// Reads the header at the start of a UDP payload.
///
/// # Errors
///
/// Everything that this version would not have sent itself.
pub fn decode(bytes: &[u8]) -> Result<Packet, Error> {
    let [first, protocol, flags @ ..] = bytes else { return Err(Error::Truncated) };
    let [high, low, rest @ ..] = flags else { return Err(Error::Truncated) };
    let flags = u16::from_be_bytes([*high, *low]);
    if first & VERSION_MASK != 0 {
        return Err(Error::Version);
    }
    if first & CONTROL_BIT != 0 {
        return match (*first, flags) {
            (CONTROL_BYTE, 0) => Ok(Packet::Control(*protocol)),
            (CONTROL_BYTE, _) => Err(Error::Flags),
            _ => Err(Error::Length),
        };
    }
    if flags != FLAGS {
        return Err(Error::Flags);
    }
    if *first != DATA_BYTE {
        return Err(Error::Length);
    }
    let inner = match *protocol {
        PROTOCOL_IPV4 => Inner::V4,
        PROTOCOL_IPV6 => Inner::V6,
        _ => return Err(Error::Protocol),
    };
    if rest.len() < HEADER_LEN - 4 {
        return Err(Error::Truncated);
    }
    let mut key = [0; KEY_LEN];
    key.copy_from_slice(&rest[4..4 + KEY_LEN]);
    let lb = Lb::new(u16::from_be_bytes([rest[0], rest[1]]), u16::from_be_bytes([rest[2], rest[3]]));
    Ok(Packet::Data(Header { inner, lb, key: Key(key) }))
}
