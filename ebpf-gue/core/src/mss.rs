//! Lowering the MSS that a SYN or SYN-ACK announces, so that the answer fits the tunnel it will have to take.
//!
//! Three places need it, each proven by leaving it out: the proxy's SYN (limits endpoint → proxy), the endpoint's
//! SYN-ACK (proxy → endpoint), and the SYN-ACK to the internet, because packets from there may have to go on to
//! another node in GUE. A SYN without the option means 536 and needs nothing.

use epic_abi::{drop::DropReason, stats::Event};

use crate::{
    Carried, Family, Frame, Maps, Step, V4,
    packet::{ETH, Packet, TCP},
};

/// Where TCP begins in the frame.
const AT: usize = ETH + V4::LEN;
/// Most bytes of options.
const MAX_OPTIONS: usize = 40;
/// End of the list.
const KIND_END: u8 = 0;
/// Padding of one byte.
const KIND_NOP: u8 = 1;
/// Maximum segment size.
const KIND_MSS: u8 = 2;
/// Length of that option.
const LEN_MSS: u8 = 4;

/// Lowers the MSS of the packet behind the Ethernet header so that its answers are IP packets of at most `mtu` bytes. Does
/// nothing unless SYN is set.
#[inline(always)]
pub(crate) fn clamp<I: Carried, F: Frame, M: Maps>(
    frame: &mut F,
    maps: &M,
    packet: &Packet<I>,
    mtu: u32,
) -> Step<()> {
    if !packet.is_syn() || packet.options() < 4 {
        return Ok(());
    }
    let limit = mtu.saturating_sub((I::LEN + TCP) as u32);
    if limit > 0xFFFF { Ok(()) } else { frame.lower_mss(maps, packet.options(), limit as u16) }
}

/// Looks for the option in so many bytes of them, and lowers what is above `limit`.
///
/// # Errors
/// The frame could not be changed.
#[inline(always)]
pub fn lower<F: Frame, M: Maps>(frame: &mut F, maps: &M, options: usize, limit: u16) -> Step<()> {
    // Behind the options are zeros, which end the list. As words: zeroing bytes would become a call of memset. A power of
    // two of them, so that a masked index cannot be outside.
    let mut words = [0u64; 8];
    // Four bytes at a time: the verifier does not follow a length that came through arithmetic.
    for index in 0..MAX_OPTIONS / 4 {
        if index * 4 >= options {
            break;
        }
        let Some(word) = frame.word(AT + TCP + index * 4) else { return Err(DropReason::KernelRefused) };
        words[(index / 2) & 7] |= (u32::from_le_bytes(word) as u64) << (index % 2 * 32);
    }
    let byte = |at: usize| (words[(at / 8) & 7] >> (at % 8 * 8)) as u8;
    let mut at = 0usize;
    // Every step takes at least one byte.
    for _ in 0..MAX_OPTIONS {
        if at + 4 > options {
            break;
        }
        match byte(at) {
            KIND_END => break,
            KIND_NOP => at += 1,
            KIND_MSS => {
                if byte(at + 1) != LEN_MSS {
                    break;
                }
                let old = u16::from_be_bytes([byte(at + 2), byte(at + 3)]);
                return if old > limit { replace(frame, maps, at, old, limit) } else { Ok(()) };
            }
            _ => {
                let step = byte(at + 1) as usize;
                if step < 2 {
                    break;
                }
                at += step & 63;
            }
        }
    }
    Ok(())
}

/// Writes the new value and mends the checksum.
#[inline(always)]
fn replace<F: Frame, M: Maps>(frame: &mut F, maps: &M, at: usize, old: u16, new: u16) -> Step<()> {
    // The checksum adds words at even offsets: at an odd one, the bytes of the value lie in two of them.
    let as_added = |value: u16| if at & 1 == 0 { value.to_be() } else { value.to_be().swap_bytes() };
    let sum = [as_added(old), as_added(new)];
    frame.replace(AT + TCP + at + 2, new.to_be_bytes(), AT + 16, sum)?;
    maps.count(Event::MssClamped, 1);
    Ok(())
}
