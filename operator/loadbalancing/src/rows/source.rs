//! Who says something, and since when: what decides between two that claim the same.

use std::fmt;

use epic_store::Sources;

/// Who put a row there. A writer is bound to one source and touches only its rows. Most preferred first: where several
/// sources say the same thing differently, the smallest counts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Source {
    /// Known to the process itself (its own node).
    Local,
    /// EPIC's custom resources.
    #[default]
    Resource,
    /// Core Services and EndpointSlices.
    Kubernetes,
    /// A state file.
    File,
    /// A call through an API of the process.
    Api,
    /// Another cluster.
    Cluster,
    /// A key-value store.
    KeyValue,
}

impl Source {
    /// All of them, most preferred first.
    pub const ALL: [Source; 7] = [
        Source::Local,
        Source::Resource,
        Source::Kubernetes,
        Source::File,
        Source::Api,
        Source::Cluster,
        Source::KeyValue,
    ];
}

impl From<Source> for Sources {
    fn from(source: Source) -> Self {
        Self::one(source as u8)
    }
}

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Source::Local => "local",
            Source::Resource => "resource",
            Source::Kubernetes => "kubernetes",
            Source::File => "file",
            Source::Api => "api",
            Source::Cluster => "cluster",
            Source::KeyValue => "key-value",
        })
    }
}

/// When an object was created, in seconds since 1970; 0 if nobody knows. Of two that claim one thing the older has it, so
/// no newcomer takes what is in use, and every node decides alike, whatever it saw first.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Since(pub u32);

impl Since {
    /// Of a time in seconds since 1970. What does not fit is at the bound.
    pub fn from_seconds(seconds: i64) -> Self {
        Self(u32::try_from(seconds.max(0)).unwrap_or(u32::MAX))
    }
}
