//! Why a backend takes no new flows of a frontend, for people.

use std::fmt;
use std::sync::Arc;

use epic_store::Stored;

use super::Role;
use crate::rows::{Backend, BackendState, Protocol, ServiceName, Source};

/// A backend of a service, as one source has it, and what a frontend makes of it.
#[derive(Clone, Debug)]
pub struct Explained<'a> {
    /// The row.
    pub backend: &'a Arc<Stored<Backend>>,
    /// Its use; `None` if the frontend does not reach it at all.
    pub role: Option<Role>,
    /// Why it takes no new flows; `None` if it takes them.
    pub why: Option<Reason>,
}

/// Why a backend takes no new flows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Reason {
    /// What another source says of the same place counts.
    OtherSource(Source),
    /// It speaks another protocol.
    Protocol(Protocol),
    /// Its port has another number or another name.
    Port,
    /// It is of another family, and no proxy stands between.
    Family,
    /// Its state.
    State(BackendState),
    /// Its weight is 0.
    Weight,
    /// The policy is Local and it is not on this node.
    NotHere,
    /// A health checker says so.
    Unhealthy(Option<Arc<str>>),
    /// It is going away, and others are not.
    OthersStay,
    /// Others are preferred by cluster, node or zone.
    Farther,
    /// Another service takes the new flows.
    Redirected(ServiceName),
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Reason::OtherSource(source) => write!(f, "source {source} counts for this place"),
            Reason::Protocol(protocol) => write!(f, "it speaks {protocol}"),
            Reason::Port => f.write_str("its port is not the one that the frontend asks for"),
            Reason::Family => f.write_str("it is of the other address family"),
            Reason::State(state) => write!(f, "it is {state:?}"),
            Reason::Weight => f.write_str("its weight is 0"),
            Reason::NotHere => f.write_str("the traffic policy is Local and it is not on this node"),
            Reason::Unhealthy(None) => f.write_str("it is unhealthy"),
            Reason::Unhealthy(Some(why)) => write!(f, "it is unhealthy: {why}"),
            Reason::OthersStay => f.write_str("it is Terminating and others are Active"),
            Reason::Farther => f.write_str("others are preferred by cluster, node or zone"),
            Reason::Redirected(to) => write!(f, "new flows go to {to}"),
        }
    }
}
