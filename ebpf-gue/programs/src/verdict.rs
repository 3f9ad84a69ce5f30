//! What a program says about a packet.

use epic_abi::{drop::DropReason, stats::Event};

use crate::count;

/// TCX_NEXT: not ours, the next program or the stack decides.
pub const NEXT: i32 = -1;
/// TC_ACT_OK: ours, and the stack shall have it; programs behind us are not asked.
pub const PASS: i32 = 0;
/// TC_ACT_SHOT.
const SHOT: i32 = 2;

/// Drops the packet and counts why.
#[inline(always)]
pub fn drop(reason: DropReason) -> i32 {
    count::drop(reason);
    SHOT
}

/// Hands on what is not for EPIC to judge, counted.
#[inline(always)]
pub fn next(event: Event) -> i32 {
    count::event(event, 1);
    NEXT
}

/// The step of a program: go on with a value, or the verdict is known.
pub type Step<T> = Result<T, i32>;

/// Ends a step with a counted drop.
#[inline(always)]
pub fn refuse<T>(reason: DropReason) -> Step<T> {
    Err(drop(reason))
}
