//! Allocation of numeric IDs from a parent's status.
//!
//! A value is reserved in the parent before it is written to the child, so a crash between the two writes loses
//! nothing and two operators cannot hand out the same value. Pure: the caller does the reading and writing.
//!
//! Invariant: a value is in use, reserved, or free; never two of them.
//!
//! # Expected flow
//! 1. GET the parent with a quorum read.
//! 2. *Then* LIST the children, one consistent quorum list. Everything about a child comes from that list: uid,
//!    resourceVersion, requests, grants. A child that does not parse still counts, with its raw status.
//!    Where another parent may take the place of this one (an Account in `epic` that of its namesake), ask with a
//!    quorum read *after* the list whether it has: what is planned with an older list, its fence will kill.
//! 3. [`plan`] what to do.
//! 4. Execute [`Plan::writes`] in order. Every write is a PUT at the version that the write names, never a Patch.
//!    On any 409, 404 or lost answer forget everything and start again at 1; writes to other children that follow
//!    their parent's may be made before. (For [`Write::Fence`] alone, 409 and 404 mean that the child has moved on:
//!    done.)
//! 5. [`Plan::follow_up`] says when to come back.
//!
//! # Guarantees
//! With that order of calls, any number of operators, crashes between any two calls, late and lost writes, edits and
//! recreation: no value has two holders, no grant changes, a grant is what was requested, and nothing stays reserved
//! once users and faults stop. The tests explore this exhaustively in small sizes, and show for each rule what goes
//! wrong without it.
//!
//! # Assumptions
//! - Status is written by operators alone.
//! - resourceVersions are never used twice (after an etcd restore: `--bump-revision` and restarted operators).
//!
//! # What it does not do
//! It renumbers nothing. Duplicates that somebody else made are reported in [`Plan::duplicates`]; the older grant
//! keeps the value and the owner of the younger decides.

mod counter;
mod lint;
mod plan;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod plan_tests;
#[cfg(test)]
mod setup;
#[cfg(test)]
mod world;

use std::collections::BTreeMap;
use std::fmt;
use std::ops::RangeInclusive;

use serde::{Deserialize, Serialize};

pub use counter::{
    Counter, SIXTEEN_BITS, THIRTY_TWO_BITS, UnknownCounter, endpoint_range, next_id, parse_tunnel_subkey,
    proxy_range, tunnel_subkey,
};
pub use lint::{Violation, lint};
pub use plan::plan;

use crate::id::{NodeName, ObjectVersion, ResourceVersion, Seconds, Uid};

/// The most reservations a parent's status holds, and the most values one round grants to a child (api.md).
pub const BATCH: usize = 256;

/// The most of them that belong to the objects of one namespace, where an owner may hold several values of a counter. An
/// object whose status the API server does not take keeps what is reserved for it: a tenant cannot bring all others'
/// allocation to rest with it.
pub const SHARE: usize = 64;

/// One counter in a parent's status.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CounterState {
    /// The value handed out last (`current-*`), 0 if there is none. With 0 the count goes on after the highest
    /// grant, so a parent that was recreated does not start over.
    pub last: u32,
    /// The values that may be handed out.
    pub range: RangeInclusive<u32>,
}

/// A value that is promised to one owner and not yet in its status. It permits exactly one write: the PUT of that
/// owner's status at that resourceVersion.
#[derive(Clone, Debug, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Reservation {
    /// What is counted.
    pub counter: Counter,
    /// The value.
    pub value: u32,
    /// Who it is for, and the one version it is good for.
    pub owner: ObjectVersion,
    /// Which of several values of one owner; empty for counters without subkeys.
    pub subkey: String,
}

/// What was read of the parent (EPIC or an Account).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parent {
    /// Its uid.
    pub uid: Uid,
    /// The version that was read; the parent is written at this version only.
    pub resource_version: ResourceVersion,
    /// Whether it carries our finalizer.
    pub finalizer: bool,
    /// Whether it has a deletionTimestamp.
    pub deleting: bool,
    /// The counters that live in its status. A need for another counter is ignored, so one [`Child`] value of a
    /// LoadBalancer can be given to the plan of EPIC and to that of its Account.
    pub counters: BTreeMap<Counter, CounterState>,
    /// The reservations in its status, in their order.
    pub reservations: Vec<Reservation>,
}

/// A value that the owner's spec asks for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The value.
    pub value: u32,
    /// EPIC nodes that may still program an old owner of this value. It is granted when there is none (design §4):
    /// a drawn value has rested since the counter passed it, a requested one may have been freed a moment ago.
    pub programmed_by: Vec<NodeName>,
}

/// One place for a value in a child: what it holds, and what it should hold.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Slot {
    /// What is counted.
    pub counter: Counter,
    /// Which of several values; empty for counters without subkeys.
    pub subkey: String,
    /// The value in the child's status.
    pub granted: Option<u32>,
    /// Whether the child should have a value here. A granted value that is not wanted is freed, if its counter has
    /// subkeys; a value without subkey goes with its owner.
    pub wanted: bool,
    /// The value its spec asks for.
    pub request: Option<Request>,
}

impl Slot {
    /// A wanted slot of a counter without subkeys, with what status and spec hold.
    pub fn single(counter: Counter, granted: Option<u32>, request: Option<Request>) -> Self {
        Slot { counter, subkey: String::new(), granted, wanted: true, request }
    }

    /// A slot of a counter with subkeys.
    pub fn keyed(counter: Counter, subkey: impl Into<String>, granted: Option<u32>, wanted: bool) -> Self {
        Slot { counter, subkey: subkey.into(), granted, wanted, request: None }
    }

    fn is_open(&self) -> bool {
        self.wanted && self.granted.is_none()
    }
}

/// What the list showed of one child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Child {
    /// The object, at the version that was listed.
    pub object: ObjectVersion,
    /// When it was created. Older children are served first.
    pub created: Seconds,
    /// Whether it has a deletionTimestamp. It gets nothing new, what is reserved for it is finished.
    pub deleting: bool,
    /// Its values, granted and wanted, at most one slot for each (counter, subkey).
    pub slots: Vec<Slot>,
}

/// A status write to the parent: the complete new list of reservations, and the counters that moved.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ParentWrite {
    /// Write at this version of the parent only.
    pub at: ResourceVersion,
    /// The new list of reservations, complete.
    pub reservations: Vec<Reservation>,
    /// New values of the counters that moved; the others stay as they are.
    pub counters: BTreeMap<Counter, u32>,
}

/// One value that goes into, or out of, a child's status.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Value {
    /// What is counted.
    pub counter: Counter,
    /// Which of several values.
    pub subkey: String,
    /// The value.
    pub value: u32,
}

/// A status write to a child.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ChildWrite {
    /// The child; write at this version only.
    pub object: ObjectVersion,
    /// Values to put into its status. Each is reserved for this very version.
    pub grant: Vec<Value>,
    /// Values to take out of its status.
    pub free: Vec<Value>,
}

/// One write. Execute in the order of the plan.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Write {
    /// Change the child's status in a way that allocates nothing: put a condition with a message that holds `mark`.
    /// It kills writes that were planned under a deleted predecessor of the parent. 409 and 404 count as done.
    Fence {
        /// The child; write at this version only.
        object: ObjectVersion,
        /// A text that differs for each parent; without a change the API server would not bump the version.
        mark: String,
    },
    /// Put our finalizer on the parent.
    FinalizerOn {
        /// Write at this version only.
        at: ResourceVersion,
    },
    /// Write the parent's status.
    Parent(ParentWrite),
    /// Write a child's status.
    Child(ChildWrite),
    /// Take our finalizer off the parent.
    FinalizerOff {
        /// Write at this version only.
        at: ResourceVersion,
    },
}

/// Why a child does not get a value now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// The requested value belongs to somebody. Tried again when the holder goes.
    Taken {
        /// The holder, in words: `LoadBalancer epic-sample/web`.
        holder: String,
    },
    /// Nodes may still program the requested value's old owner.
    StillProgrammed {
        /// The nodes that are waited for.
        nodes: Vec<NodeName>,
    },
    /// The requested value lies outside of the range.
    OutOfRange {
        /// First and last value that may be requested.
        range: RangeInclusive<u32>,
    },
    /// No value is free.
    Exhausted {
        /// How many values there are.
        total: u64,
    },
    /// The parent is being deleted.
    ParentDeleting,
}

/// A value that is not granted, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refusal {
    /// The child.
    pub object: ObjectVersion,
    /// What is counted.
    pub counter: Counter,
    /// Which of several values.
    pub subkey: String,
    /// The value it asked for.
    pub requested: Option<u32>,
    /// Why.
    pub reason: Reason,
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let noun = self.counter.noun();
        let value = self.requested.map(|value| format!(" {value}")).unwrap_or_default();
        match &self.reason {
            Reason::Taken { holder } => {
                write!(
                    f,
                    "{noun}{value} belongs to {holder}; ask for another one, or wait until that is gone"
                )
            }
            Reason::StillProgrammed { nodes } => {
                let nodes: Vec<&str> = nodes.iter().map(NodeName::as_str).collect();
                write!(f, "{noun}{value} may still be programmed for its old owner on {}", nodes.join(", "))
            }
            Reason::OutOfRange { range } => {
                write!(
                    f,
                    "{noun}{value} is out of range; choose one from {} to {}",
                    range.start(),
                    range.end()
                )
            }
            Reason::Exhausted { total } => write!(f, "all {total} values of {noun} are in use"),
            Reason::ParentDeleting => write!(f, "no {noun} is handed out while the parent is being deleted"),
        }
    }
}

/// One value with two holders, which no run of the protocol produces: an import, or a status edited by hand.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Duplicate {
    /// What is counted.
    pub counter: Counter,
    /// The value.
    pub value: u32,
    /// Who keeps it: the older one.
    pub keeper: ObjectVersion,
    /// Who holds it, too, and should be recreated.
    pub other: ObjectVersion,
}

/// When to plan again, if nothing changes before.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FollowUp {
    /// Nothing is left.
    None,
    /// Work is left: at once.
    Now,
    /// Dead reservations are left, or will be when the writes are done: about a second after the last child write.
    Flush,
}

/// What to do, as a value. Execution makes no choice.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Plan {
    /// The writes, in order. The first that fails ends the round (see the module's expected flow).
    pub writes: Vec<Write>,
    /// A parent write that only drops dead reservations. Not part of `writes`: do it when a flush is due (start, a
    /// child gone, about a second after the last child write, full pass), and only if `writes` is empty.
    pub flush: Option<ParentWrite>,
    /// Who gets nothing now, and why: conditions and Events.
    pub refusals: Vec<Refusal>,
    /// Values with two holders: conditions.
    pub duplicates: Vec<Duplicate>,
    /// Whether a further round has work even if nothing else happens.
    pub more: bool,
}

impl Plan {
    /// Whether nothing is to be written, now or in a flush.
    pub fn is_settled(&self) -> bool {
        self.writes.is_empty() && self.flush.is_none() && !self.more
    }

    /// When to plan again.
    pub fn follow_up(&self) -> FollowUp {
        let child_writes =
            self.writes.iter().any(|write| matches!(write, Write::Child(child) if !child.grant.is_empty()));
        if self.more {
            FollowUp::Now
        } else if self.flush.is_some() || child_writes {
            FollowUp::Flush
        } else {
            FollowUp::None
        }
    }

    /// The child writes, in order.
    pub fn child_writes(&self) -> impl Iterator<Item = &ChildWrite> {
        self.writes.iter().filter_map(|write| match write {
            Write::Child(child) => Some(child),
            _ => None,
        })
    }
}

/// Child writes of several parents' plans (EPIC's and an Account's) brought together, so that an object that gets
/// values of both is PUT once. Writes to one object at different versions stay apart; the later one will meet a 409,
/// as it should. Execute the parents' writes of all plans before these.
pub fn merge(writes: impl IntoIterator<Item = ChildWrite>) -> Vec<ChildWrite> {
    let mut merged: Vec<ChildWrite> = Vec::new();
    for write in writes {
        match merged.iter_mut().find(|known| known.object.is_same_version(&write.object)) {
            Some(known) => {
                known.grant.extend(write.grant);
                known.free.extend(write.free);
            }
            None => merged.push(write),
        }
    }
    merged
}
