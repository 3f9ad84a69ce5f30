//! Objects that the API server serves and this process cannot read.
//!
//! One such object must not hide the others, and must not look deleted. It is reported, and the last state of it
//! that could be read (same uid) stays in the snapshot: what runs goes on running until someone repairs it.
//! After a restart there is no such state; the report is then all there is, so whoever prunes or allocates asks
//! for it first.

use kube::core::ObjectMeta;

use crate::Key;

/// An object that could not be parsed as the type its query was made for.
#[derive(Clone, Debug, PartialEq)]
pub struct Poison {
    /// Kind of the object.
    pub kind: String,
    /// Namespace and name.
    pub key: Key,
    /// Its metadata, which could be read.
    pub metadata: Box<ObjectMeta>,
    /// What the parser said.
    pub error: String,
    /// Whether an earlier state of the same object is still in the snapshot.
    pub earlier_state_shown: bool,
}
