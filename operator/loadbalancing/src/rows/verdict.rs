//! The `verdicts` table: what a health checker found out about a place in a service, whatever source names it.
//!
//! A verdict is of the service and the place: the same address in another service is another matter, since addresses are
//! unique per account at best. It outlives updates by sources and goes with the last backend at the place.

use std::fmt;
use std::sync::Arc;

use epic_store::{Column, Row, StartsWith, optional, text};

use super::place::Place;
use super::service::{ServiceName, ServiceRef};

/// Primary key of a verdict.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct VerdictKey {
    /// Service.
    pub service: ServiceRef,
    /// Place of its backend.
    pub place: Place,
}

impl fmt::Display for VerdictKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} {}", self.service, self.place)
    }
}

impl fmt::Debug for VerdictKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StartsWith<ServiceRef> for VerdictKey {
    fn cmp_start(&self, start: &ServiceRef) -> std::cmp::Ordering {
        self.service.cmp(start)
    }
}

/// What was found out about a place. No row: nothing, and it counts as healthy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Service.
    pub service: ServiceName,
    /// Place of its backend.
    pub place: Place,
    /// Whether it answers as it should.
    pub healthy: bool,
    /// What it answered instead.
    pub reason: Option<Arc<str>>,
}

impl Row for Verdict {
    type Key = VerdictKey;
    type Indexes = ();

    fn key(&self) -> VerdictKey {
        VerdictKey { service: self.service.id(), place: self.place }
    }

    fn columns() -> &'static [Column<Self>] {
        const {
            &[
                Column::new("place", |row| text(row.key())),
                Column::new("healthy", |row| row.healthy.into()),
                Column::new("reason", |row| optional(row.reason.as_ref())),
            ]
        }
    }
}
