//! What goes into a session and what comes out of it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use super::kind::Kind;
use super::view::{EndpointRef, Resource, Revision, Version};

/// Most names that one stream may subscribe to, all types together.
pub const MAX_NAMES: usize = 200_000;
/// Most bytes that these names may have, each counted as long as the longest: those of one LoadBalancer differ little.
pub const MAX_NAMES_BYTES: usize = 8 << 20;
/// Longest name that is accepted, in bytes.
pub const MAX_NAME_LENGTH: usize = 1_024;

/// `DeltaDiscoveryRequest`, without the node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DeltaRequest {
    /// Type.
    pub type_url: String,
    /// Nonce of the response that is answered; empty when the request answers none.
    pub nonce: String,
    /// Text of `error_detail`. Its presence makes the answer a rejection; nothing else does.
    pub error: Option<String>,
    /// Names wanted from now on.
    pub subscribe: Vec<String>,
    /// Names no longer wanted.
    pub unsubscribe: Vec<String>,
    /// What the client has kept from an earlier stream; counts in the first request of a type only.
    pub initial_versions: BTreeMap<String, String>,
}

/// `DeltaDiscoveryResponse`: either additions and changes, or removals, never both, so no name is in it twice. Neither
/// when everything was asked for and there is nothing.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeltaResponse {
    /// Type.
    pub kind: Kind,
    /// Unique within the stream.
    pub nonce: u64,
    /// Added or changed, by name.
    pub resources: Vec<Arc<Resource>>,
    /// Removed, or never there, by name.
    pub removed: Vec<Arc<str>>,
    /// It offers one resource that was refused before and has not changed since.
    pub again: bool,
}

/// What a client said about a response.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Verdict {
    /// Applied.
    Acknowledged,
    /// Refused.
    Rejected,
    /// About a response that is settled or was never sent; ignored.
    Stale,
}

/// One answer of a client, for logs and metrics.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Event {
    /// Type.
    pub kind: Kind,
    /// The answer.
    pub verdict: Verdict,
    /// Names in the response that it is about.
    pub names: Vec<Arc<str>>,
    /// The client's text, when it refused.
    pub message: Option<String>,
}

/// A resource that the client refused and that has not changed since.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Refused version.
    pub version: Version,
    /// The client's text. Parts of it are unstable: show it, do not parse it.
    pub message: Arc<str>,
}

/// How far the client of a session has come. Latest state, not history.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// The last view whose clusters and listeners were all acknowledged. A client that asks again for what it has may
    /// refuse that afterwards: `rejections` are newer.
    pub configured: Option<Revision>,
    /// What the client refuses of the current view.
    pub rejections: BTreeMap<(Kind, Arc<str>), Rejection>,
    /// Endpoints in the assignments that the client acknowledged last.
    pub endpoints: Arc<BTreeSet<EndpointRef>>,
}

/// A request that was not applied. All but an unknown type end the stream: a client that is newer than this server asks
/// for types that this one has not heard of, and has use for the others.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProtocolError {
    /// Not a type that is served.
    #[error("resource type `{0}` is not served")]
    UnknownType(String),
    /// More names than [`MAX_NAMES`].
    #[error("more than {MAX_NAMES} names are subscribed")]
    TooManyNames,
    /// Longer names than [`MAX_NAMES_BYTES`] allows for so many.
    #[error("the names that are subscribed have more than {MAX_NAMES_BYTES} bytes")]
    TooLongNames,
    /// A name longer than [`MAX_NAME_LENGTH`].
    #[error("a resource name has {0} bytes, at most {MAX_NAME_LENGTH} are allowed")]
    LongName(usize),
}
