//! The lab: hosts as namespaces, programs attached to them, maps written by hand, and real TCP.
//!
//! ```text
//!  internet ─┐                      ┌─ client 0 ── endpoints (10.244.1.x, the range of node 0's pods on purpose)
//!  node 0 ───┼── br0, MTU 1500 ─────┤
//!  node 1 ───┘                      └─ router (NAT) ── client 1 ── endpoints (10.244.1.x)
//!   └ pods behind a Linux bridge
//! ```
//!
//! Nobody calls home here: the far ends of tunnels are written as the hello handler would write them.

pub(crate) mod forge;
pub(crate) mod lab;
pub(crate) mod program;
pub(crate) mod scene;
pub(crate) mod traffic;

use std::time::{Duration, Instant};

/// How long a condition may take to become true before the test fails.
pub(crate) const DEADLINE: Duration = Duration::from_secs(10);

/// Waits until `holds`, or fails the test.
pub(crate) fn eventually(what: &str, mut holds: impl FnMut() -> bool) {
    let end = Instant::now() + DEADLINE;
    while !holds() {
        assert!(Instant::now() < end, "not within {DEADLINE:?}: {what}");
        std::thread::sleep(Duration::from_millis(5));
    }
}
