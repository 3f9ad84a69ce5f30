//! How a packet ends.

use epic_abi::{drop::DropReason, stats::Event};

use crate::Maps;

/// A step on the way of a packet: a value to go on with, or why the packet is dropped.
pub type Step<T> = Result<T, DropReason>;

/// What becomes of a frame.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Act {
    /// Not EPIC's: the next program or the stack decides.
    Next,
    /// EPIC's, and the stack shall have it; programs behind are not asked.
    Pass,
    /// Dropped.
    Drop,
    /// Into the pod behind the host side of a veth with this index, as if it had come over its wire: no MAC address is needed,
    /// no bridge and no netfilter of the node sees it.
    Peer(u32),
    /// Out of the interface with this index, to the neighbour that the destination needs.
    Neighbour(u32),
    /// Out of the interface with this index, to the next hop that [`crate::Frame::route`] has found last.
    Hop(u32),
    /// Into the interface with this index, as if it had arrived there.
    Into(u32),
    /// Out of the interface with this index, as it is.
    Back(u32),
}

/// What becomes of a frame, and what is counted for it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// What becomes of it.
    pub act: Act,
    /// What it ended as.
    pub event: Option<Event>,
    /// How many packets on the wire met with that event.
    pub packets: u32,
    /// Why the packet that came was dropped, where what goes back is an answer to it.
    pub refused: Option<DropReason>,
}

impl Verdict {
    /// Not EPIC's.
    pub const NEXT: Self = Self { act: Act::Next, event: None, packets: 0, refused: None };

    /// `act`, counted as so many packets of `event`.
    #[inline(always)]
    pub const fn counted(act: Act, event: Event, packets: u32) -> Self {
        Self { act, event: Some(event), packets, refused: None }
    }
}

/// The one exit of all programs: counts what the packet ended as, or why it is dropped, and says what becomes of it. What
/// happens besides on the way (a flow is entered, an MSS lowered) is counted where it happens.
#[inline(always)]
pub fn finish<M: Maps>(maps: &M, step: Step<Verdict>) -> Act {
    match step {
        Ok(verdict) => {
            if let Some(reason) = verdict.refused {
                maps.dropped(reason);
            }
            if let Some(event) = verdict.event {
                maps.count(event, verdict.packets);
            }
            verdict.act
        }
        Err(reason) => {
            maps.dropped(reason);
            Act::Drop
        }
    }
}
