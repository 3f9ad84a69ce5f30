//! Who is asked, on whose account, and from where.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use crate::check::Check;

/// A backend to check.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Target<G> {
    /// Whose budget the probes are on: a tenant, say. Targets of one group can delay each other and nobody else.
    pub group: G,
    /// Where it is.
    pub place: Place,
    /// What is asked of it.
    pub check: Arc<Check>,
}

/// Where a target is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// Address and port.
    pub address: SocketAddr,
    /// From where it is dialled; `None`: as the routing table says.
    pub origin: Option<Arc<Origin>>,
}

/// From where a target is dialled.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// Source address, of this host and of the target's family.
    pub source: Option<IpAddr>,
    /// Interface that packets leave by, whatever the routing table says (`SO_BINDTODEVICE`).
    pub interface: Option<String>,
}

impl<G> Target<G> {
    /// A target that is dialled as the routing table says.
    pub fn new(group: G, address: SocketAddr, check: Arc<Check>) -> Self {
        Self { group, place: Place { address, origin: None }, check }
    }

    /// Whether both ask the same question of the same place, so that answers of the one hold for the other.
    pub(crate) fn asks_the_same(&self, other: &Self) -> bool {
        self.place == other.place && self.check.probe == other.check.probe
    }
}
