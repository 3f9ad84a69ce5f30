//! What one identity may see: its resources, encoded once and shared by all streams.
//!
//! Invariant: a version is a function of the bytes, so equal content has the same version in every process and after
//! every restart. A view is whole: every assignment that a cluster needs is in it, possibly empty
//! ([`crate::resources`] sees to that).

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use sha2::{Digest, Sha256};

use super::kind::Kind;

/// Version of a resource: the first 64 bits of the SHA-256 of its bytes, in hex on the wire.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Version(u64);

impl Version {
    /// Version of these bytes.
    pub fn of(bytes: &[u8]) -> Self {
        let digest = Sha256::digest(bytes);
        Self(digest.iter().take(8).fold(0, |value, byte| value << 8 | u64::from(*byte)))
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:016x}", self.0)
    }
}

impl fmt::Debug for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Version {
    type Err = ();

    /// Reads what [`Version`]'s `Display` wrote; anything else was not made by us.
    fn from_str(text: &str) -> Result<Self, ()> {
        let well_formed =
            text.len() == 16 && text.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        if !well_formed {
            return Err(());
        }
        u64::from_str_radix(text, 16).map(Self).map_err(|_| ())
    }
}

/// An Endpoint object that is part of an assignment.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndpointRef {
    /// `namespace/name` of the object.
    pub object: Arc<str>,
    /// uid of the object.
    pub uid: Arc<str>,
    /// `metadata.generation` of the object that the assignment was made of.
    pub generation: i64,
}

/// One encoded resource.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Type.
    pub kind: Kind,
    /// Name, unique within type and view.
    pub name: Arc<str>,
    /// Version of `body`.
    pub version: Version,
    /// The encoded message, without the `Any` around it.
    pub body: Arc<[u8]>,
    /// Of a cluster: the assignment without which a client does not finish warming it.
    pub assignment: Option<Arc<str>>,
    /// Of a listener: the clusters that it sends to.
    pub clusters: Arc<[Arc<str>]>,
    /// Of an assignment: the Endpoint objects in it. They are not part of the version: an edit that changes none of
    /// the bytes needs no new acknowledgement.
    pub endpoints: Arc<[EndpointRef]>,
}

impl Resource {
    /// A resource of its encoded message.
    pub fn new(kind: Kind, name: impl Into<Arc<str>>, body: Vec<u8>) -> Self {
        Self {
            kind,
            name: name.into(),
            version: Version::of(&body),
            body: body.into(),
            assignment: None,
            clusters: Arc::default(),
            endpoints: Arc::default(),
        }
    }

    /// The same, a cluster that takes its endpoints from the assignment of this name.
    #[must_use]
    pub fn needing(mut self, assignment: impl Into<Arc<str>>) -> Self {
        self.assignment = Some(assignment.into());
        self
    }

    /// The same, a listener that sends to these clusters.
    #[must_use]
    pub fn sending_to(mut self, clusters: impl IntoIterator<Item = impl Into<Arc<str>>>) -> Self {
        self.clusters = clusters.into_iter().map(Into::into).collect();
        self
    }

    /// The same, an assignment made of these objects.
    #[must_use]
    pub fn holding(mut self, endpoints: impl Into<Arc<[EndpointRef]>>) -> Self {
        self.endpoints = endpoints.into();
        self
    }
}

/// What an acknowledgement is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Revision {
    /// `metadata.generation` of the LoadBalancer that the view was made of.
    pub generation: i64,
    /// Version of all clusters and listeners together. It tells apart two views of one generation, as when a slot
    /// was granted in between.
    pub content: Version,
}

/// Everything that the proxies of one LoadBalancer get.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct View {
    revision: Revision,
    assignments: Version,
    sets: [BTreeMap<Arc<str>, Arc<Resource>>; 3],
}

impl View {
    /// A view of these resources. Of two with the same type and name the later one counts.
    pub fn new(generation: i64, resources: impl IntoIterator<Item = Resource>) -> Self {
        let mut sets: [BTreeMap<Arc<str>, Arc<Resource>>; 3] = Default::default();
        for resource in resources {
            sets[resource.kind.index()].insert(Arc::clone(&resource.name), Arc::new(resource));
        }
        let digest = |kinds: &[Kind]| {
            let mut text = Vec::new();
            for kind in kinds {
                for (name, resource) in &sets[kind.index()] {
                    text.extend_from_slice(format!("{kind} {name} {}\n", resource.version).as_bytes());
                }
            }
            Version::of(&text)
        };
        let content = digest(&[Kind::Cluster, Kind::Listener]);
        let assignments = digest(&[Kind::Assignment]);
        Self { revision: Revision { generation, content }, assignments, sets }
    }

    /// What an acknowledgement of this view says.
    pub fn revision(&self) -> Revision {
        self.revision
    }

    /// Version of all assignments together.
    pub fn assignments(&self) -> Version {
        self.assignments
    }

    /// A resource by name.
    pub fn get(&self, kind: Kind, name: &str) -> Option<&Arc<Resource>> {
        self.sets[kind.index()].get(name)
    }

    /// All resources of a type, by name.
    pub fn of(&self, kind: Kind) -> impl Iterator<Item = &Arc<Resource>> {
        self.sets[kind.index()].values()
    }

    /// Names whose content is not the same in `other`, or that only one of the two has.
    pub(crate) fn names_changed(&self, other: &View, kind: Kind) -> Vec<Arc<str>> {
        let (ours, theirs) = (&self.sets[kind.index()], &other.sets[kind.index()]);
        let changed = ours
            .iter()
            .filter(|(name, resource)| theirs.get(*name).is_none_or(|r| r.version != resource.version))
            .map(|(name, _)| Arc::clone(name));
        let gone = theirs.keys().filter(|name| !ours.contains_key(*name)).map(Arc::clone);
        changed.chain(gone).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_survives_the_wire_and_nothing_else_is_taken_for_one() {
        let version = Version::of(b"cluster");
        assert_eq!(version.to_string().parse(), Ok(version));
        for text in ["", "1", "+123456789abcdef", "0123456789ABCDEF", "0123456789abcdef0"] {
            assert_eq!(text.parse::<Version>(), Err(()), "{text}");
        }
    }

    #[test]
    fn the_revision_follows_clusters_and_listeners_but_not_assignments() {
        let view = |generation, cluster: &str, eds: &str, listener: &str| {
            View::new(
                generation,
                [
                    Resource::new(Kind::Cluster, "a", cluster.into()),
                    Resource::new(Kind::Assignment, "a", eds.into()),
                    Resource::new(Kind::Listener, "a", listener.into()),
                ],
            )
            .revision()
        };
        assert_eq!(view(1, "c", "e", "l"), view(1, "c", "other", "l"));
        assert_ne!(view(1, "c", "e", "l"), view(2, "c", "e", "l"));
        assert_ne!(view(1, "c", "e", "l"), view(1, "c", "e", "other"));
        assert_ne!(view(1, "c", "e", "l"), view(1, "other", "e", "l"));
    }
}
