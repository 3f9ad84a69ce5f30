//! The resource types that are served, and the order in which a client must get them.

use std::fmt;

/// A resource type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    /// Cluster (CDS).
    Cluster,
    /// ClusterLoadAssignment (EDS).
    Assignment,
    /// Listener (LDS).
    Listener,
}

impl Kind {
    /// Order of additions and changes: what is referred to comes before what refers to it.
    pub const MAKE: [Kind; 3] = [Kind::Cluster, Kind::Assignment, Kind::Listener];
    /// Order of removals: what refers goes before what is referred to.
    pub const BREAK: [Kind; 3] = [Kind::Listener, Kind::Cluster, Kind::Assignment];

    /// `type_url` in requests, responses and `Any`.
    pub const fn type_url(self) -> &'static str {
        match self {
            Kind::Cluster => "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            Kind::Assignment => "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment",
            Kind::Listener => "type.googleapis.com/envoy.config.listener.v3.Listener",
        }
    }

    /// The kind of a `type_url`; `None` for what is not served.
    pub fn of_type_url(url: &str) -> Option<Kind> {
        Kind::MAKE.into_iter().find(|kind| kind.type_url() == url)
    }

    /// Whether a client that never named a resource of this type means all of them.
    pub const fn has_implicit_wildcard(self) -> bool {
        matches!(self, Kind::Cluster | Kind::Listener)
    }

    pub(crate) const fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Kind::Cluster => "cluster",
            Kind::Assignment => "assignment",
            Kind::Listener => "listener",
        })
    }
}
