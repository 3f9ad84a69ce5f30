//! ICMP errors of our own: "fragmentation needed" and "host unreachable".
//!
//! The packet that cannot be carried becomes the answer: cut behind its TCP header, 28 bytes put in front, sent back
//! the way it came. It must still be as its sender made it: a quote of translated addresses would teach the sender a
//! destination it never spoke to. One answer per packet, no bigger than it, so nothing is amplified.

use epic_abi::{PROTOCOL_ICMP, drop::DropReason, gue::OUTER_TTL, stats::Event};

use crate::{
    Act, Family, Frame, Span, Step, V4, Verdict,
    checksum::fold_words,
    packet::{ETH, TCP},
};

/// Bytes of an IPv4 header.
const IP: usize = V4::LEN;
/// Bytes put in front of the quote: IPv4 and ICMP header.
const FRONT: usize = 28;
/// Bytes quoted: IP and TCP header. Fewer would do for the receiver, but the kernel refuses to cut a packet above
/// the checksum it has still to fill in.
const QUOTE: usize = IP + TCP;
/// Length of the answer, without Ethernet.
const TOTAL: u16 = (FRONT + QUOTE) as u16;
/// Where the quote begins in the finished frame.
const QUOTE_AT: usize = ETH + FRONT;
/// Where the checksum of the quoted TCP header lies.
const QUOTED_CHECK: usize = QUOTE_AT + IP + 16;

/// What to say.
#[derive(Clone, Copy)]
pub(crate) enum Message {
    /// The packet is bigger than this (type 3, code 4).
    FragNeeded(u32),
    /// There is no way to the host (type 3, code 1).
    HostUnreachable,
}

/// Where the sender of the packet is.
#[derive(Clone, Copy)]
pub(crate) enum Sender {
    /// Behind the interface that it came by.
    Outside,
    /// This host, which sends by the interface.
    Host,
}

/// Answers the packet behind the Ethernet header, which is dropped for `reason`.
#[inline(always)]
pub(crate) fn answer<F: Frame>(
    frame: &mut F,
    message: Message,
    reason: DropReason,
    sender: Sender,
) -> Step<Verdict> {
    let (kind, rest, event) = match message {
        Message::FragNeeded(mtu) => ((3 << 24) | (4 << 16), mtu & 0xFFFF, Event::FragNeeded),
        Message::HostUnreachable => ((3 << 24) | (1 << 16), 0, Event::HostUnreachable),
    };
    frame.answer(kind, rest)?;
    let ifindex = frame.ifindex();
    let act = match sender {
        Sender::Outside => Act::Back(ifindex),
        Sender::Host => Act::Into(ifindex),
    };
    Ok(Verdict { refused: Some(reason), ..Verdict::counted(act, event, 1) })
}

/// The answer, before the packet is cut.
struct Answer;

impl Span for Answer {
    const LEN: usize = QUOTE_AT + QUOTE;
}

/// Turns a frame with TCP in IPv4 into the answer that begins with the words `kind` (type and code) and `rest` behind the
/// checksum.
///
/// # Errors
/// The frame could not be changed.
#[inline(always)]
pub fn build<F: Frame>(frame: &mut F, kind: u32, rest: u32) -> Step<()> {
    frame.quote(ETH + QUOTE, FRONT)?;
    let Some(mut window) = frame.window::<Answer>() else { return Err(DropReason::KernelRefused) };
    let (to, from): ([u16; 3], [u16; 3]) = (window.get(6), window.get(0));
    window.set(0, to);
    window.set(6, from);
    let [destination, source] = V4::addresses(&window, QUOTE_AT);

    let first = (0x45C0_0000u32 | TOTAL as u32).to_be();
    let third = (((OUTER_TTL as u32) << 24) | ((PROTOCOL_ICMP as u32) << 16)).to_be();
    let sum = first as u64 + third as u64 + source as u64 + destination as u64;
    window.set(ETH, first);
    window.set(ETH + 4, 0u32);
    window.set(ETH + 8, third);
    window.set(ETH + 10, !fold_words(sum));
    window.set(ETH + 12, source);
    window.set(ETH + 16, destination);

    let (kind, rest) = (kind.to_be(), rest.to_be());
    window.set(ETH + IP, kind);
    window.set(ETH + IP + 4, rest);

    // The quoted TCP checksum may still be filled in below us (CHECKSUM_PARTIAL stays with the packet): the sum
    // over the TCP header then turns from R + c into -c, R being everything but the field and c the field. Nobody
    // reads a checksum in a quote, so c is chosen such that both are the same: c = -R/2.
    window.set(QUOTED_CHECK, 0u16);
    let mut tcp = 0u64;
    for at in [0, 4, 8, 12, 16] {
        tcp += window.get::<u32>(QUOTE_AT + IP + at) as u64;
    }
    let tcp = fold_words(tcp);
    let negative = !tcp as u32;
    let half = if negative & 1 == 0 { negative >> 1 } else { (negative + 0xFFFF) >> 1 } as u16;
    window.set(QUOTED_CHECK, half);

    let mut sum = kind as u64 + rest as u64 + tcp as u64 + half as u64;
    for at in [0, 4, 8, 12, 16] {
        sum += window.get::<u32>(QUOTE_AT + at) as u64;
    }
    window.set(ETH + IP + 2, !fold_words(sum));
    Ok(())
}
