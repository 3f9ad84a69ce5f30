//! Claims of public addresses.
//!
//! An AddressClaim named after the address, created, *is* the allocation: the API server lets only one object have a
//! name, so pools may overlap and operators may race. Pure: the caller does the reading and writing.
//!
//! Invariant: an address is shown by a LoadBalancer only while a Bound claim of that LoadBalancer exists, and an
//! address is claimed anew only when no node programs its old owner any more.
//!
//! # Expected flow
//! Granting, for one LoadBalancer and one family: read the claims (out of a cache: each claim may be as old as it
//! likes, own writes are seen), *then* GET the LoadBalancer (quorum, never out of a cache), [`plan_by`], execute the
//! writes in order. On any 409, 404, AlreadyExists or lost answer start again; never delete a claim on this path. The
//! other order is wrong where pools are edited, and so is a LoadBalancer out of a cache: a claim could be written back
//! to an older version of its owner, and be released under the write of the newer one. An old copy of a claim does no
//! such harm, since each write of a claim is guarded by its name, version or uid, and one that is tagged with its
//! owner's present version cannot be released while the owner stands there. A plan that refuses makes no call.
//!
//! Releasing, for one claim: GET the claim, *then* GET or LIST its owner (quorum), [`release`], execute. To be run at
//! start, when a LoadBalancer goes, on every claim event and in the full pass; so a LoadBalancer needs no finalizer
//! for its address and its deletion waits for nothing.
//!
//! # Assumptions
//! Claims are written by operators alone. Agents never list LoadBalancers at a revision older than the one they
//! reported.

mod free;
mod grant;
mod pool;
mod register;
mod release;

#[cfg(test)]
mod model_tests;
#[cfg(test)]
mod world;

use std::net::IpAddr;

pub use free::Free;
pub use grant::{Asker, Plan, Refusal, Write, fits, most_claims, plan, plan_by};
pub use pool::{Interval, Overlap, Pool, overlaps};
pub use register::{Listed, Register, Spared, Usage};
pub use release::{OwnerSeen, Release, release, remembered_by};

use crate::id::{NodeName, ObjectName, ObjectVersion, PoolName, ResourceVersion, Uid};
use crate::revision::Revision;

/// Where a claim stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// It holds the address for its owner. An absent phase is this one, since status is dropped on create.
    Bound,
    /// It is on its way out, finally: never adopted, never back.
    Releasing {
        /// The revision of the LoadBalancers that showed the owner without the address. Nodes that have passed it do
        /// not program the owner at this address any more.
        release_revision: Option<Revision>,
    },
}

/// An AddressClaim as it was read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Claim {
    /// Its name, which is the address ([`crate::name::claim`]).
    pub name: ObjectName,
    /// Its uid.
    pub uid: Uid,
    /// The version that was read.
    pub resource_version: ResourceVersion,
    /// The address.
    pub address: IpAddr,
    /// The pool it was taken from.
    pub pool: PoolName,
    /// Whom it belongs to, and the version of that object it was made for.
    pub owner: ObjectVersion,
    /// Where it stands.
    pub phase: Phase,
    /// The nodes that a claim in Releasing waits for, as its status names them. For people: nothing is decided by it.
    pub waiting_for: Vec<NodeName>,
}

impl Claim {
    /// Whether it holds its address for `uid` and may be adopted.
    pub fn is_bound_to(&self, uid: &Uid) -> bool {
        self.phase == Phase::Bound && self.owner.uid == *uid
    }
}
