//! The frame that a packet lies in.

use crate::{Carried, Family, Maps, Span, Step, Window, icmp, mss};

/// Nanoseconds in a second.
pub(crate) const SECOND_NANOS: u64 = 1_000_000_000;

/// A frame that begins with its Ethernet header, and what its host knows about it.
///
/// Implemented by the frames of tc and by bytes; each in its own words, with the same outcome.
pub trait Frame {
    /// Its first `S::LEN` bytes; `None` when it is shorter.
    fn window<S: Span>(&mut self) -> Option<Window<'_, S>>;

    /// Its length in bytes.
    fn length(&self) -> usize;

    /// Packets that it is on the wire: a segmentation super-packet is cut into segments that repeat its headers.
    fn packets(&self) -> u32;

    /// Payload bytes of each of these segments; 0 when there are none.
    fn segment(&self) -> u32;

    /// Index of the interface that it came by, or leaves by.
    fn ifindex(&self) -> u32;

    /// Whether it belongs to a VLAN. A kernel takes the tag off before programs run, so the bytes look like those of an
    /// untagged frame; on the interface of that VLAN, where the host has one, the tag is gone here, too. Id 0 is no VLAN
    /// but a mere priority.
    fn is_tagged(&self) -> bool;

    /// Whether it is for the MAC address of another host. A promiscuous interface (a capture, a bridge's port) next to a
    /// switch that floods gets such ones; the stack takes none of them, and their own host gets its copy.
    fn is_foreign(&self) -> bool;

    /// Cuts what lies behind `end`, the padding of a short frame, and opens room for the outer headers of family `O` behind
    /// the Ethernet header. Segments keep their size.
    ///
    /// # Errors
    /// `kernel_refused`.
    fn push<O: Carried>(&mut self, end: usize) -> Step<()>;

    /// Removes the outer headers of family `O` behind the Ethernet header.
    ///
    /// # Errors
    /// `kernel_refused`.
    fn pull<O: Carried>(&mut self) -> Step<()>;

    /// Cuts what lies behind `end`, and opens `room` bytes behind the Ethernet header, without a tunnel's marks.
    ///
    /// # Errors
    /// `kernel_refused`.
    fn quote(&mut self, end: usize, room: usize) -> Step<()>;

    /// Mends the checksum of TCP at offset `at` for addresses that have changed by `addresses`, and for the word of both ports
    /// (as the packet has it) that was `ports[0]` and is `ports[1]`.
    ///
    /// # Errors
    /// `kernel_refused`.
    fn mend(&mut self, at: usize, addresses: u32, ports: [u32; 2]) -> Step<()>;

    /// Four bytes at offset `at`, wherever they lie; `None` behind the end.
    fn word(&mut self, at: usize) -> Option<[u8; 4]>;

    /// Replaces two bytes at offset `at` of a TCP header, whose checksum at offset `check` covers the change `from` → `to`
    /// (words as the sum adds them).
    ///
    /// # Errors
    /// `kernel_refused`.
    fn replace(&mut self, at: usize, bytes: [u8; 2], check: usize, sum: [u16; 2]) -> Step<()>;

    /// Where the routing table leads a packet of these addresses that came in by `ifindex`. The next hop is kept for
    /// [`crate::Act::Hop`].
    fn route<I: Family>(&mut self, addresses: [I::Address; 2], protocol: u8, ifindex: u32) -> Way;

    /// Nanoseconds of CLOCK_MONOTONIC.
    fn now(&self) -> u64;

    /// Turns the frame into an ICMP error for its sender: [`icmp::build`]. Rare, so programs put it out of line.
    ///
    /// # Errors
    /// `kernel_refused`.
    #[inline(always)]
    fn answer(&mut self, kind: u32, rest: u32) -> Step<()>
    where
        Self: Sized,
    {
        icmp::build(self, kind, rest)
    }

    /// Lowers the MSS in the options of a TCP header: [`mss::lower`]. Rare, so programs put it out of line.
    ///
    /// # Errors
    /// `kernel_refused`.
    #[inline(always)]
    fn lower_mss<M: Maps>(&mut self, maps: &M, options: usize, limit: u16) -> Step<()>
    where
        Self: Sized,
    {
        mss::lower(self, maps, options, limit)
    }
}

/// Where a destination lies.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Way {
    /// Behind the interface with this index.
    Interface(u32),
    /// On this host, or behind a device of the pod network that is no plain route.
    Inside,
    /// The table says blackhole, unreachable or prohibit.
    Refused,
}
