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

/// As long may a reason be, in bytes.
const MAX_REASON: usize = 256;

/// Why a probe was not good.
///
/// Its reason may hold words of the target, and ends in statuses and logs: it is one line of bounded length.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Failure {
    kind: Outcome,
    reason: Box<str>,
}

impl Failure {
    /// No answer came: refused, unreachable, cut off, too late.
    pub fn silent(reason: impl Into<String>) -> Self {
        Self::new(Outcome::Silent, reason.into())
    }

    /// An answer came, not the wanted one.
    pub fn wrong(reason: impl Into<String>) -> Self {
        Self::new(Outcome::Wrong, reason.into())
    }

    /// The probe could not be made, for a reason of this node. It is no result: the verdict stays as it is, so that a
    /// node that has run out of sockets does not find all backends dead.
    pub fn not_made(reason: impl Into<String>) -> Self {
        Self::new(Outcome::NotMade, reason.into())
    }

    fn new(kind: Outcome, mut reason: String) -> Self {
        if reason.len() > MAX_REASON {
            reason.truncate(reason.floor_char_boundary(MAX_REASON));
            reason.push('…');
        }
        if reason.contains(char::is_control) {
            reason = reason.replace(char::is_control, " ");
        }
        Self { kind, reason: reason.into() }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reason_is_one_line_of_bounded_length_whatever_a_target_says() {
        let reason = |said: &str| Failure::wrong(said).into_reason();
        assert_eq!(&*reason("answers 500"), "answers 500");
        assert_eq!(&*reason("two\nlines\u{1b}[31m"), "two lines [31m");
        assert_eq!(reason(&"x".repeat(10_000)).len(), MAX_REASON + '…'.len_utf8());
        // A cut in the middle of a letter would panic.
        assert!(reason(&"ä".repeat(10_000).replacen('ä', "x", 1)).ends_with("ä…"));
    }
}
