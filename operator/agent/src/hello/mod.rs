//! Clients call home: by hello messages an EPIC node learns where a tunnel's other end is.
//!
//! Two pure state machines and one socket. [`responder`] is the EPIC side: it proves that a sender receives at the
//! address it sends from (a stateless cookie) and that it knows the tunnel's hello key, and only then says that
//! the tunnel's remote is to be moved. [`caller`] is the client side: it says hello, answers challenges, measures
//! round trips and says when a tunnel is up. [`socket`] moves bytes between them and UDP.
//!
//! Invariant: nothing is learned from one packet alone. A replayed or spoofed hello lacks a cookie for the
//! address it comes from; a cookie that was overheard is good for that address and session only.
//!
//! Time is a parameter: nanoseconds of CLOCK_BOOTTIME, so neither a wall clock that jumps nor a suspended host
//! makes a tunnel look alive.

pub mod caller;
pub mod responder;
pub mod silence;
pub mod socket;
#[cfg(test)]
mod tests;

use std::net::{IpAddr, SocketAddr};

use epic_abi::Ip;
use epic_abi::hello::{Entry, HEADER_LEN, Header, MAX_LEN, encode, encode_header};
use epic_abi::keys::{HELLO_KEY_LEN, entry_mac};
use nix::time::{ClockId, clock_gettime};

/// Nanoseconds of CLOCK_BOOTTIME.
pub type Nanos = u64;

/// Nanoseconds in a second.
pub const SECOND: Nanos = 1_000_000_000;

/// A silent tunnel counts as down after this many of its client's periods.
pub const SILENT_PERIODS: u64 = 4;

/// The clock of this module, for the callers at the edge.
pub fn now() -> Nanos {
    // CLOCK_BOOTTIME exists on every kernel that has tcx; a clock stuck at zero only ages nothing.
    clock_gettime(ClockId::CLOCK_BOOTTIME)
        .map_or(0, |t| t.tv_sec().unsigned_abs() * SECOND + t.tv_nsec().unsigned_abs())
}

/// A message to send, without the GUE control header.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Outgoing {
    /// Where to.
    pub to: SocketAddr,
    /// The message.
    pub bytes: Vec<u8>,
}

/// The message of `header` and `entries`; entries with a key are authenticated with it, the others carry a zero MAC.
fn seal(header: &Header, entries: &[(Entry, Option<[u8; HELLO_KEY_LEN]>)]) -> Vec<u8> {
    let count = u8::try_from(entries.len()).unwrap_or(u8::MAX);
    let head: [u8; HEADER_LEN] = encode_header(header, count);
    let sealed: Vec<Entry> = entries
        .iter()
        .map(|(entry, key)| Entry { mac: key.map_or([0; 16], |key| entry_mac(&key, &head, entry)), ..*entry })
        .collect();
    let mut bytes = vec![0; MAX_LEN];
    // Callers chunk by MAX_ENTRIES, so the message always fits; an empty one is not sent.
    let length = encode(header, &sealed, &mut bytes).unwrap_or(0);
    bytes.truncate(length);
    bytes
}

/// Socket addresses as the codec and the maps have them.
fn split(address: SocketAddr) -> (Ip, u16) {
    (Ip::from(address.ip().to_canonical()), address.port())
}

/// The inverse of [`split`].
fn join(ip: Ip, port: u16) -> SocketAddr {
    SocketAddr::new(IpAddr::from(ip), port)
}
