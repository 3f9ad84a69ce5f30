//! What a call through the [`Client`](crate::Client) can come back with.

use std::time::Duration;

use crate::Key;

/// A call to the API server did not succeed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The API server refused, or could not be reached.
    #[error("{verb} {object}")]
    Api {
        /// The verb of the call.
        verb: &'static str,
        /// Kind and key of the object.
        object: String,
        /// What kube reported.
        #[source]
        source: kube::Error,
    },
    /// No answer in time. A write may have been applied all the same: read before trying again.
    #[error("{verb} {object}: no answer from the API server within {limit:?}")]
    Timeout {
        /// The verb of the call.
        verb: &'static str,
        /// Kind and key of the object.
        object: String,
        /// How long the call waited.
        limit: Duration,
    },
    /// A PUT without `metadata.resourceVersion`: several kinds would take it as an unconditional overwrite.
    #[error("{verb} {object}: metadata.resourceVersion is missing; read the object before updating it")]
    Unversioned {
        /// The verb of the call.
        verb: &'static str,
        /// Kind and key of the object.
        object: String,
    },
    /// The object could not be converted to JSON.
    #[error("{verb} {object}: the object cannot be written as JSON")]
    Serialize {
        /// The verb of the call.
        verb: &'static str,
        /// Kind and key of the object.
        object: String,
        /// Why not.
        #[source]
        source: serde_json::Error,
    },
}

impl Error {
    /// The answer of the API server, when it was one.
    pub fn status(&self) -> Option<&kube::core::Status> {
        match self {
            Self::Api { source: kube::Error::Api(status), .. } => Some(status),
            _ => None,
        }
    }

    /// The object changed since it was read, or a precondition failed: read again and decide again.
    pub fn is_conflict(&self) -> bool {
        self.status().is_some_and(|status| status.is_conflict() && !status.is_already_exists())
    }

    /// There is no such object. The API server says so of some kinds that it does not know, too: where that makes a
    /// difference, use [`Kinds::get_opt`](crate::Kinds::get_opt).
    pub fn is_not_found(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_not_found)
    }

    /// The API server knows the kind, and says that there is no object with this key.
    pub(crate) fn denies(&self, key: &Key) -> bool {
        // For a kind that it does not know, the answer is 404 as well, but names no object.
        let named = |status: &kube::core::Status| {
            status.details.as_ref().is_some_and(|details| details.name == key.name())
        };
        self.status().is_some_and(|status| status.is_not_found() && named(status))
    }

    /// An object of that name is there already. After a retry inside kube it may be the caller's own.
    pub fn is_already_exists(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_already_exists)
    }

    /// RBAC or an admission policy said no.
    pub fn is_forbidden(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_forbidden)
    }

    /// The schema or an admission policy found the object invalid; trying again will not help.
    pub fn is_invalid(&self) -> bool {
        self.status().is_some_and(kube::core::Status::is_invalid)
    }

    /// Whether a write may have been applied although this error came back.
    pub fn is_ambiguous(&self) -> bool {
        match self {
            Self::Timeout { .. } => true,
            Self::Api { source: kube::Error::Api(status), .. } => status.code >= 500,
            Self::Api { source: kube::Error::BuildRequest(_), .. } => false,
            Self::Api { .. } => true,
            Self::Unversioned { .. } | Self::Serialize { .. } => false,
        }
    }
}
