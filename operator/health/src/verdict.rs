//! What is found out.

use std::fmt;

use tokio::time::Instant;

use crate::state::Outcome;

/// What was found out of one target.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict<K> {
    /// Of this target.
    pub key: K,
    /// Whether it serves.
    pub healthy: bool,
    /// When the result came that decided it.
    pub since: Instant,
    /// What that result was, for people: `connection refused`, say. Empty of a good one.
    pub reason: Box<str>,
}

/// Why a probe was not good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    kind: Outcome,
    reason: Box<str>,
}

impl Failure {
    /// No answer came: refused, unreachable, cut off, too late.
    pub fn silent(reason: impl Into<Box<str>>) -> Self {
        Self { kind: Outcome::Silent, reason: reason.into() }
    }

    /// An answer came, not the wanted one.
    pub fn wrong(reason: impl Into<Box<str>>) -> Self {
        Self { kind: Outcome::Wrong, reason: reason.into() }
    }

    /// The probe could not be made, for a reason of this node. It is no result: the verdict stays as it is, so that a
    /// node that has run out of sockets does not find all backends dead.
    pub fn not_made(reason: impl Into<Box<str>>) -> Self {
        Self { kind: Outcome::NotMade, reason: reason.into() }
    }

    /// What it means for the target.
    pub fn outcome(&self) -> Outcome {
        self.kind
    }

    /// For people.
    pub fn into_reason(self) -> Box<str> {
        self.reason
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.reason)
    }
}

impl std::error::Error for Failure {}
