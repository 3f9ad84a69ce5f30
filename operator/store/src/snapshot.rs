//! All tables at one moment.

use std::fmt;
use std::ops::Deref;
use std::sync::Arc;

use crate::initializer::Registration;
use crate::schema::Schema;
use crate::sources::Sources;

/// All tables at one moment; it derefs to them. Immutable: it stays as it is for as long as somebody holds it.
#[derive(Clone, Debug, Default)]
pub struct Snapshot<S> {
    pub(crate) tables: S,
    pub(crate) revision: u64,
    /// Sorted by name.
    pub(crate) pending: Arc<Vec<Arc<Registration>>>,
}

impl<S: Schema> Snapshot<S> {
    /// Revision of the last transaction that changed a row or the set of pending initializers.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// Whether every registered initializer has completed. Before that, absent rows mean nothing.
    pub fn initialized(&self) -> bool {
        self.pending.is_empty()
    }

    /// The sources that an initializer has yet to complete for: of these, absent rows mean nothing.
    pub fn pending_sources(&self) -> Sources {
        self.pending.iter().map(|registration| registration.sources()).collect()
    }

    /// The initializers that have not completed, by name. Each registration comes by itself.
    pub fn pending(&self) -> impl Iterator<Item = Pending<'_>> {
        self.pending
            .iter()
            .map(|registration| Pending { name: registration.name(), abandoned: registration.is_abandoned() })
    }

    /// Whether an initializer of this name has not completed.
    pub fn is_pending(&self, name: &str) -> bool {
        self.pending().any(|pending| pending.name == name)
    }
}

impl<S> Deref for Snapshot<S> {
    type Target = S;

    fn deref(&self) -> &S {
        &self.tables
    }
}

/// An initializer that has not completed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Pending<'a> {
    /// Its name.
    pub name: &'a str,
    /// Nobody is going to complete it until somebody registers this name again. As of now, not of the snapshot.
    pub abandoned: bool,
}

impl fmt::Display for Pending<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let why = if self.abandoned { " (ended before it was complete)" } else { "" };
        write!(f, "{}{why}", self.name)
    }
}
