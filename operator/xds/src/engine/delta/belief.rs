//! What the client is believed to hold of one name.

use std::sync::Arc;

use super::super::view::{EndpointRef, Resource, Version};

/// What is remembered of a resource that was sent: all but its body, which nobody needs any more.
#[derive(Debug)]
pub(super) struct Sent {
    pub(super) name: Arc<str>,
    pub(super) version: Version,
    pub(super) endpoints: Arc<[EndpointRef]>,
    clusters: Arc<[Arc<str>]>,
}

impl From<&Arc<Resource>> for Sent {
    fn from(resource: &Arc<Resource>) -> Self {
        Self {
            name: Arc::clone(&resource.name),
            version: resource.version,
            endpoints: Arc::clone(&resource.endpoints),
            clusters: Arc::clone(&resource.clusters),
        }
    }
}

/// Belief about one name. None at all: nothing was ever said about it.
#[derive(Clone, Debug)]
pub(super) struct Belief {
    pub(super) last: Last,
    /// The version that was acknowledged last, if the client still holds it.
    pub(super) good: Option<Version>,
    /// What it may hold instead, because it was refused together with others.
    pub(super) doubt: Doubt,
    /// Endpoints of the assignment that was acknowledged last.
    pub(super) endpoints: Arc<[EndpointRef]>,
    /// Clusters that the listener sends to which was acknowledged last, if that is known.
    clusters: Option<Arc<[Arc<str>]>>,
    /// Nonce of the first response that it is about. The client gave the name up after it was sent earlier ones, so
    /// what it answers to them says nothing.
    since: u64,
    /// Nonce of the last response that it is about. An answer to an earlier one does not settle what was said last,
    /// even if that is the same once more.
    until: u64,
}

/// The last thing that was said about a name.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Last {
    Sent(Version),
    Missing,
    /// It was in a refused response and may or may not have been applied.
    Unclear,
}

/// Refused forms that may have been applied all the same.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Doubt {
    None,
    One(Version),
    Several,
}

impl Belief {
    pub(super) fn unheard(last: Last, since: u64) -> Self {
        let endpoints = Arc::default();
        Self { last, good: None, doubt: Doubt::None, endpoints, clusters: None, since, until: since }
    }

    /// A version that a client says it has kept; `None` is one that we did not make. `current` is what the name is now.
    pub(super) fn kept(version: Option<Version>, current: Option<&Arc<Resource>>) -> Self {
        let same = current.filter(|resource| Some(resource.version) == version);
        let clusters = same.map(|resource| Arc::clone(&resource.clusters));
        Self { good: version, clusters, ..Self::unheard(version.map_or(Last::Unclear, Last::Sent), 0) }
    }

    /// It was given up while a response with it was under way, and may have been taken from there.
    pub(super) fn crossed(since: u64) -> Self {
        Self { doubt: Doubt::Several, ..Self::unheard(Last::Unclear, since) }
    }

    /// It was in this response.
    pub(super) fn say(&mut self, last: Last, nonce: u64) {
        self.last = last;
        self.until = nonce;
    }

    /// Whether this version, in this response, is the last thing that was said.
    pub(super) fn ends_with(&self, version: Version, nonce: u64) -> bool {
        self.last == Last::Sent(version) && self.until == nonce
    }

    /// The client has applied this version.
    pub(super) fn accept(&mut self, sent: &Sent, nonce: u64) {
        if nonce >= self.since {
            self.good = Some(sent.version);
            self.doubt = Doubt::None;
            self.endpoints = Arc::clone(&sent.endpoints);
            self.clusters = Some(Arc::clone(&sent.clusters));
        }
    }

    /// Clusters that the form in force sends to, when the last one is refused or not sent; `None` when nobody knows.
    pub(super) fn in_use(&self) -> Option<&[Arc<str>]> {
        match (self.good, self.doubt, self.last) {
            (None, Doubt::None, last) if last != Last::Unclear => Some(&[]),
            (Some(_), Doubt::None, _) => self.clusters.as_deref(),
            _ => None,
        }
    }

    /// The client has dropped it. Whatever was said since, a refusal of that falls back to nothing.
    pub(super) fn accept_removal(&mut self, nonce: u64) {
        if nonce >= self.since {
            *self = Self { until: self.until, ..Self::unheard(self.last, self.since) };
        }
    }

    /// Whether this version was acknowledged, and nothing else was said since.
    pub(super) fn is_in_force(&self, version: Version) -> bool {
        self.good == Some(version) && self.last == Last::Sent(version)
    }

    /// It was refused together with others.
    pub(super) fn suspect(&mut self, version: Version) {
        self.doubt = match self.doubt {
            Doubt::None => Doubt::One(version),
            Doubt::One(one) if one == version => Doubt::One(one),
            _ => Doubt::Several,
        };
    }

    /// What stands after it was refused by itself: the last good form, nothing, or nobody knows.
    pub(super) fn after_refusal(&self, refused: Version) -> Option<Last> {
        // Refused alone, it was not applied when it was refused together with others either.
        let certain = self.doubt == Doubt::None || self.doubt == Doubt::One(refused);
        if certain { self.good.map(Last::Sent) } else { Some(Last::Unclear) }
    }
}
