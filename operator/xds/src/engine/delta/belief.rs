//! What the client is believed to hold of one name.

use std::sync::Arc;

use super::super::view::{EndpointRef, Version};

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
    pub(super) fn unheard(last: Last) -> Self {
        Self { last, good: None, doubt: Doubt::None, endpoints: Arc::default() }
    }

    /// A version that a client says it has kept; `None` is one that we did not make.
    pub(super) fn kept(version: Option<Version>) -> Self {
        Self { good: version, ..Self::unheard(version.map_or(Last::Unclear, Last::Sent)) }
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
