//! Revisions: resourceVersions with an order.
//!
//! The resourceVersion of a LIST and the one an EPICNode reports are compared as numbers of the same resource (API
//! servers from 1.35 document that order). Object versions inside the allocation protocols stay opaque
//! ([`crate::id::ResourceVersion`]), there only equality counts.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

use crate::id::{NodeName, ResourceVersion};

/// A point in the history of one resource. Later is greater.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Revision(u64);

/// A resourceVersion that is no number.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("resourceVersion {0:?} is no decimal number, so it cannot be compared")]
pub struct NotARevision(pub String);

impl Revision {
    /// The revision of this number.
    pub const fn new(number: u64) -> Self {
        Revision(number)
    }

    /// The number.
    pub const fn get(self) -> u64 {
        self.0
    }
}

impl FromStr for Revision {
    type Err = NotARevision;
    fn from_str(text: &str) -> Result<Self, NotARevision> {
        let decimal = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        match text.parse() {
            Ok(number) if decimal => Ok(Revision(number)),
            _ => Err(NotARevision(text.to_owned())),
        }
    }
}

impl TryFrom<String> for Revision {
    type Error = NotARevision;
    fn try_from(text: String) -> Result<Self, NotARevision> {
        text.parse()
    }
}

impl TryFrom<&ResourceVersion> for Revision {
    type Error = NotARevision;
    fn try_from(version: &ResourceVersion) -> Result<Self, NotARevision> {
        version.as_str().parse()
    }
}

impl From<Revision> for String {
    fn from(revision: Revision) -> String {
        revision.0.to_string()
    }
}

impl fmt::Display for Revision {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What one EPICNode says: up to which revision of the LoadBalancers its maps are complete.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NodeRevision {
    /// The node.
    pub node: NodeName,
    /// Its `load-balancers-revision`; `None` while it has reported nothing.
    pub revision: Option<Revision>,
    /// Whether its agent's Lease is fresh.
    pub live: bool,
}

impl NodeRevision {
    /// Whether this node's maps are at or past `awaited`.
    pub fn has_passed(&self, awaited: Revision) -> bool {
        self.revision.is_some_and(|revision| revision >= awaited)
    }
}

/// The nodes, dead ones included, that have not passed `awaited`. An address is free again only when there is none:
/// a node that cannot say what it programs may still program the old owner (design §4).
pub fn behind(nodes: &[NodeRevision], awaited: Revision) -> Vec<NodeName> {
    nodes.iter().filter(|node| !node.has_passed(awaited)).map(|node| node.node.clone()).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn revisions_are_ordered_as_numbers_and_not_as_text() {
        let nine: Revision = "9".parse().unwrap();
        assert!("10".parse::<Revision>().unwrap() > nine);
        for wrong in ["", "+1", "1a", " 1", "99999999999999999999"] {
            assert!(wrong.parse::<Revision>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn a_node_that_has_reported_nothing_is_behind() {
        let node = |name: &str, revision| NodeRevision { node: name.into(), revision, live: true };
        let nodes = [node("a", Some(Revision::new(7))), node("b", None), node("c", Some(Revision::new(6)))];
        assert_eq!(behind(&nodes, Revision::new(7)), [NodeName::new("b"), NodeName::new("c")]);
    }
}
