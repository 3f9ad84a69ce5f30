//! Rewriting addresses and ports of the packet behind the Ethernet header.

use epic_abi::drop::DropReason;

use crate::{
    Bare, Carried, Frame, Step,
    packet::{Behind, ETH, Packet},
};

/// Offset of the checksum in a TCP header.
const TCP_CHECK: usize = 16;

/// Makes the packet behind the Ethernet header, which is `from`, into `to`: addresses, ports and all checksums.
#[inline(always)]
pub(crate) fn rewrite<I: Carried, F: Frame>(frame: &mut F, from: &Packet<I>, to: &Packet<I>) -> Step<()> {
    let addresses = I::difference(from.addresses(), to.addresses());
    let Some(mut window) = frame.window::<Behind<Bare, I, 4>>() else { return Err(DropReason::Malformed) };
    I::readdress(&mut window, ETH, to.addresses(), addresses);
    window.set(ETH + I::LEN, to.ports());
    frame.mend(ETH + I::LEN + TCP_CHECK, addresses, [from.ports(), to.ports()])
}
