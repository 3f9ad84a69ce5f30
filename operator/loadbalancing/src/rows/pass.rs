//! The `passes` table: destinations that proxies may reach without a tunnel.

use std::fmt;

use epic_store::{Column, Name, Row, StartsWith, text};

use super::place::Place;
use super::service::{ServiceName, ServiceRef};

/// Primary key of a pass.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PassKey {
    /// LoadBalancer whose proxies may; `None`: all proxies (the xDS Service).
    pub service: Option<ServiceRef>,
    /// Destination.
    pub place: Place,
}

impl fmt::Display for PassKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.service {
            Some(service) => write!(f, "{service} {}", self.place),
            None => write!(f, "all {}", self.place),
        }
    }
}

impl fmt::Debug for PassKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl StartsWith<Option<ServiceRef>> for PassKey {
    fn cmp_start(&self, start: &Option<ServiceRef>) -> std::cmp::Ordering {
        self.service.cmp(start)
    }
}

/// A destination without a tunnel: an endpoint without a node, or something every proxy needs.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pass {
    /// LoadBalancer whose proxies may; `None`: all proxies (the xDS Service).
    pub service: Option<ServiceName>,
    /// Destination.
    pub place: Place,
    /// What is there: name of the Endpoint, or of the Service.
    pub purpose: Name,
}

impl Row for Pass {
    type Key = PassKey;
    type Indexes = ();

    fn key(&self) -> PassKey {
        PassKey { service: self.service.as_ref().map(ServiceName::id), place: self.place }
    }

    fn columns() -> &'static [Column<Self>] {
        const { &[Column::new("pass", |row| text(row.key())), Column::new("purpose", |row| text(&row.purpose))] }
    }
}
