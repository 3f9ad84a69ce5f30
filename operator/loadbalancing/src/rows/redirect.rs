//! The `redirects` table: services whose traffic goes to another service, always or while they have nothing that serves.

use std::fmt;

use epic_store::{Column, Row, optional, text};

use super::frontend::TargetPort;
use super::service::{ServiceKey, ServiceName, ServiceRef};
use super::source::Source;

/// When traffic is redirected.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RedirectWhen {
    /// While nothing of the service itself takes new flows: a backup, or a page that says sorry.
    NothingServes,
    /// While the other service serves on this very node (Cilium's local redirect policy).
    ServesHere,
}

/// Where the traffic of a service goes instead. It is back by itself as soon as the condition is over.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// Whose traffic.
    pub service: ServiceName,
    /// Who says so.
    pub source: Source,
    /// Where to. It need not exist.
    pub to: ServiceName,
    /// When.
    pub when: RedirectWhen,
    /// Which port of the other service's backends; `None`: as the frontend asks for.
    pub port: Option<TargetPort>,
}

impl fmt::Display for RedirectWhen {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            RedirectWhen::NothingServes => "nothing serves",
            RedirectWhen::ServesHere => "it serves here",
        })
    }
}

/// Redirects by where they lead to.
#[derive(Debug)]
pub struct ByTarget;

impl epic_store::Index<Redirect> for ByTarget {
    type Of = ServiceRef;
    type Kind = epic_store::NonUnique;
    const NAME: &'static str = "target";

    fn of(row: &Redirect) -> impl IntoIterator<Item = ServiceRef> {
        [row.to.id()]
    }
}

impl Row for Redirect {
    type Key = ServiceKey;
    type Indexes = (ByTarget,);

    fn key(&self) -> ServiceKey {
        ServiceKey { service: self.service.id(), source: self.source }
    }

    fn key_text(key: ServiceKey) -> String {
        key.to_string()
    }

    fn columns() -> &'static [Column<Self>] {
        const {
            &[
                Column::new("service", |row| text(row.key())),
                Column::new("to", |row| text(&row.to)),
                Column::new("when", |row| text(row.when)),
                Column::new("port", |row| {
                    optional(row.port.as_ref().map(|port| match port {
                        TargetPort::Number(number) => number.to_string(),
                        TargetPort::Name(name) => name.to_string(),
                    }))
                }),
            ]
        }
    }
}
