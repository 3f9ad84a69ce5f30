//! Hello messages: how clients call home (payload of a GUE control packet of type `H`).
//!
//! A client sends [`Kind::Hello`] from its GUE port every few seconds. An EPIC node that does not know the
//! observed source answers [`Kind::Challenge`] with a cookie made of that source; a hello that brings the cookie
//! back is learned and answered with [`Kind::Answer`]. A message never causes a longer one, and nothing is
//! remembered before the cookie has come back, so spoofed sources cost nothing and move nothing.
//!
//! One format for all three, big-endian:
//!
//! ```text
//!  0  version = 1 | kind | entries | zero
//!  4  sequence u32            counts up within a session; answers repeat it
//!  8  session u64             drawn at random when the client starts; answers repeat it
//! 16  address [16]            hello: the sender's own; otherwise: the source EPIC observed (IPv4 v4-mapped)
//! 32  port u16                like the address
//! 34  period u16              hello: milliseconds to the next; otherwise 0
//! 36  round trip u32          hello: microseconds, as last measured, 0 = not yet; otherwise 0
//! 40  cookie [16]             zero while unknown
//! 56  entries of 28 bytes:    tunnel u32 | generation u32 | status u8, zero [3] | mac [16]
//! ```
//!
//! The MAC of an entry covers the whole header and the entry before it ([`mac_input`]), with the hello key of the
//! tunnel's LoadBalancer in the generation named. A challenge has no entries and is not authenticated: it is
//! bound to the client's random session, and a wrong cookie only costs another challenge.
//!
//! Not done here: keys and cookies ([`crate::keys`]), sockets, and the decision what to learn.

use crate::Ip;

/// Version of the message format.
pub const VERSION: u8 = 1;
/// Bytes before the entries.
pub const HEADER_LEN: usize = 56;
/// Bytes of an entry.
pub const ENTRY_LEN: usize = 28;
/// Bytes of an entry that its MAC covers.
pub const ENTRY_MAC_INPUT_LEN: usize = 12;
/// Bytes of a MAC.
pub const MAC_LEN: usize = 16;
/// Bytes of a cookie.
pub const COOKIE_LEN: usize = 16;
/// Most entries in a message: it stays below 1,232 bytes, so it needs no fragments on any IPv6 path either.
pub const MAX_ENTRIES: usize = 40;
/// Bytes of the longest message, without the GUE control header.
pub const MAX_LEN: usize = HEADER_LEN + MAX_ENTRIES * ENTRY_LEN;
/// Bytes that a MAC is computed over.
pub const MAC_INPUT_LEN: usize = HEADER_LEN + ENTRY_MAC_INPUT_LEN;

/// What a message is.
#[repr(u8)]
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Client to EPIC: here I am.
    Hello = 1,
    /// EPIC to client: prove that you receive at the address you send from.
    Challenge = 2,
    /// EPIC to client: what became of each entry.
    Answer = 3,
}

/// What became of an entry; 0 in a hello.
#[repr(u8)]
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Status {
    /// Learned (in an answer), or not said (in a hello).
    #[default]
    Up = 0,
    /// No such tunnel on this node. The answer cannot be authenticated and carries a zero MAC.
    UnknownTunnel = 1,
    /// No key of that generation here. The answer carries a zero MAC.
    UnknownGeneration = 2,
    /// The MAC is wrong. The answer carries a zero MAC.
    WrongMac = 3,
    /// The observed address is not one this account's clients may have.
    AddressRefused = 4,
    /// Another tunnel of the same LoadBalancer has this very address and port.
    AddressTaken = 5,
}

impl Status {
    /// The status with this number; unknown numbers count as refused.
    pub const fn from_byte(byte: u8) -> Self {
        match byte {
            0 => Self::Up,
            1 => Self::UnknownTunnel,
            2 => Self::UnknownGeneration,
            3 => Self::WrongMac,
            5 => Self::AddressTaken,
            _ => Self::AddressRefused,
        }
    }
}

/// Everything before the entries.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Header {
    /// What the message is.
    pub kind: Kind,
    /// Counts up within a session; an answer repeats the number of its hello.
    pub sequence: u32,
    /// Random number of the client's process.
    pub session: u64,
    /// The sender's own address (hello) or the observed one (challenge, answer). They differ behind a NAT.
    pub address: Ip,
    /// The UDP port that belongs to the address.
    pub port: u16,
    /// Milliseconds to the next hello; 0 in messages of EPIC.
    pub period_millis: u16,
    /// Round trip as the client last measured it, in microseconds; 0 = not yet.
    pub round_trip_micros: u32,
    /// The cookie of the last challenge or answer; zero while unknown.
    pub cookie: [u8; COOKIE_LEN],
}

/// One tunnel in a message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Entry {
    /// Tunnel id.
    pub tunnel: u32,
    /// Generation of the key the MAC is made with.
    pub generation: u32,
    /// What became of it.
    pub status: Status,
    /// Proof of the hello key, over [`mac_input`].
    pub mac: [u8; MAC_LEN],
}

/// Why a message was refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Error {
    /// Fewer or more bytes than header and entries need.
    Length,
    /// A version this code does not know.
    Version(u8),
    /// A kind this code does not know.
    Kind(u8),
    /// A hello or answer without entries, a challenge with some, or more than [`MAX_ENTRIES`].
    Entries(u8),
    /// A byte that must be zero is not.
    Reserved,
}

impl core::fmt::Display for Error {
    fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
        match self {
            Self::Length => f.write_str("the message is not as long as its entries say"),
            Self::Version(v) => write!(f, "message version {v} is not {VERSION}; upgrade the older side"),
            Self::Kind(k) => write!(f, "unknown message kind {k}"),
            Self::Entries(n) => write!(f, "{n} entries do not fit this kind of message"),
            Self::Reserved => f.write_str("a reserved byte is not zero"),
        }
    }
}

impl core::error::Error for Error {}

/// The 56 bytes of a header for a message with `entries` entries.
pub fn encode_header(header: &Header, entries: u8) -> [u8; HEADER_LEN] {
    let mut b = [0; HEADER_LEN];
    b[..4].copy_from_slice(&[VERSION, header.kind as u8, entries, 0]);
    b[4..8].copy_from_slice(&header.sequence.to_be_bytes());
    b[8..16].copy_from_slice(&header.session.to_be_bytes());
    b[16..32].copy_from_slice(&header.address.octets());
    b[32..34].copy_from_slice(&header.port.to_be_bytes());
    b[34..36].copy_from_slice(&header.period_millis.to_be_bytes());
    b[36..40].copy_from_slice(&header.round_trip_micros.to_be_bytes());
    b[40..].copy_from_slice(&header.cookie);
    b
}

/// What the MAC of `entry` is computed over: the encoded header and the entry without its MAC.
pub fn mac_input(header: &[u8; HEADER_LEN], entry: &Entry) -> [u8; MAC_INPUT_LEN] {
    let mut b = [0; MAC_INPUT_LEN];
    b[..HEADER_LEN].copy_from_slice(header);
    b[HEADER_LEN..].copy_from_slice(&entry_head(entry));
    b
}

fn entry_head(entry: &Entry) -> [u8; ENTRY_MAC_INPUT_LEN] {
    let mut b = [0; ENTRY_MAC_INPUT_LEN];
    b[..4].copy_from_slice(&entry.tunnel.to_be_bytes());
    b[4..8].copy_from_slice(&entry.generation.to_be_bytes());
    b[8] = entry.status as u8;
    b
}

/// Writes a message (without the GUE control header) to the start of `out` and returns its length.
/// The MACs of the entries are taken as they are.
///
/// # Errors
///
/// [`Error::Entries`] when their number does not fit the kind, [`Error::Length`] when `out` is too short.
pub fn encode(header: &Header, entries: &[Entry], out: &mut [u8]) -> Result<usize, Error> {
    let count = u8::try_from(entries.len()).unwrap_or(u8::MAX);
    check_count(header.kind, count)?;
    let len = HEADER_LEN + entries.len() * ENTRY_LEN;
    let out = out.get_mut(..len).ok_or(Error::Length)?;
    let (head, body) = out.split_at_mut(HEADER_LEN);
    head.copy_from_slice(&encode_header(header, count));
    for (entry, bytes) in entries.iter().zip(body.chunks_exact_mut(ENTRY_LEN)) {
        bytes[..ENTRY_MAC_INPUT_LEN].copy_from_slice(&entry_head(entry));
        bytes[ENTRY_MAC_INPUT_LEN..].copy_from_slice(&entry.mac);
    }
    Ok(len)
}

/// A decoded message: borrows the entries from the received bytes.
#[derive(Clone, Copy, Debug)]
pub struct Message<'a> {
    /// Everything before the entries.
    pub header: Header,
    head: &'a [u8; HEADER_LEN],
    entries: &'a [u8],
}

impl<'a> Message<'a> {
    /// The entries in the order of the message.
    pub fn entries(&self) -> impl ExactSizeIterator<Item = Entry> + 'a {
        self.entries.chunks_exact(ENTRY_LEN).map(|b| Entry {
            tunnel: be32(b, 0),
            generation: be32(b, 4),
            status: Status::from_byte(b[8]),
            mac: array(b, ENTRY_MAC_INPUT_LEN),
        })
    }

    /// The header as it was received, for [`mac_input`].
    pub const fn header_bytes(&self) -> &'a [u8; HEADER_LEN] {
        self.head
    }
}

/// Reads a message (without the GUE control header).
///
/// # Errors
///
/// Everything that [`encode`] of this version would not have produced.
pub fn decode(bytes: &[u8]) -> Result<Message<'_>, Error> {
    let Some((head, entries)) = bytes.split_first_chunk::<HEADER_LEN>() else { return Err(Error::Length) };
    let [version, kind, count, reserved, ..] = *head;
    if version != VERSION {
        return Err(Error::Version(version));
    }
    let kind = match kind {
        1 => Kind::Hello,
        2 => Kind::Challenge,
        3 => Kind::Answer,
        other => return Err(Error::Kind(other)),
    };
    check_count(kind, count)?;
    if entries.len() != usize::from(count) * ENTRY_LEN {
        return Err(Error::Length);
    }
    if reserved != 0 || entries.chunks_exact(ENTRY_LEN).any(|e| e[9..12] != [0; 3]) {
        return Err(Error::Reserved);
    }
    let header = Header {
        kind,
        sequence: be32(head, 4),
        session: u64::from_be_bytes(array(head, 8)),
        address: Ip::v6(array(head, 16)),
        port: u16::from_be_bytes(array(head, 32)),
        period_millis: u16::from_be_bytes(array(head, 34)),
        round_trip_micros: be32(head, 36),
        cookie: array(head, 40),
    };
    Ok(Message { header, head, entries })
}

fn check_count(kind: Kind, count: u8) -> Result<(), Error> {
    let fits = match kind {
        Kind::Challenge => count == 0,
        Kind::Hello | Kind::Answer => count > 0 && usize::from(count) <= MAX_ENTRIES,
    };
    if fits { Ok(()) } else { Err(Error::Entries(count)) }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&bytes[at..at + N]);
    out
}

fn be32(bytes: &[u8], at: usize) -> u32 {
    u32::from_be_bytes(array(bytes, at))
}
