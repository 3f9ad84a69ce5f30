//! How far reconciliation is: for those who wait, and for people.

use std::fmt;
use std::sync::Arc;

use tokio::sync::{Notify, watch};

/// How far the maps are.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Progress {
    /// Revision of the tables up to which every row was tried.
    pub attempted: u64,
    /// Lowest revision of a change that the maps do not hold yet, if there is one.
    pub lowest_failing: Option<u64>,
    /// Map writes so far.
    pub writes: u64,
    /// State for people.
    pub health: Health,
}

impl Progress {
    /// Whether the maps hold all changes up to this revision.
    pub fn covers(&self, revision: u64) -> bool {
        self.attempted >= revision && self.lowest_failing.is_none_or(|failing| failing > revision)
    }
}

/// State of a reconciler for people and for health endpoints.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Health {
    /// Entries that the maps hold.
    pub entries: usize,
    /// What fails, at most ten, as text.
    pub errors: Vec<String>,
    /// How much more fails.
    pub more: usize,
    /// Initializers that have not completed: nothing is pruned before.
    pub waiting_for: Vec<Arc<str>>,
    /// Entries whose removal waits for confirmation.
    pub unconfirmed: usize,
}

impl Health {
    /// Whether the maps hold what is wanted.
    pub fn is_ok(&self) -> bool {
        self.errors.is_empty() && self.unconfirmed == 0
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.is_ok() {
            write!(f, "OK, {} entries", self.entries)?;
        } else {
            write!(f, "degraded, {} entries", self.entries)?;
        }
        for error in &self.errors {
            write!(f, "; {error}")?;
        }
        if self.more > 0 {
            write!(f, "; and {} more", self.more)?;
        }
        if self.unconfirmed > 0 {
            write!(f, "; removal of {} entries waits for confirmation", self.unconfirmed)?;
        }
        if !self.waiting_for.is_empty() {
            write!(f, "; not pruning before {} has listed", self.waiting_for.join(", "))?;
        }
        Ok(())
    }
}

/// A view of a running reconciler. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Handle {
    pub(super) progress: watch::Receiver<Progress>,
    pub(super) refresh: Arc<Notify>,
}

impl Handle {
    /// How far it is now.
    pub fn progress(&self) -> Progress {
        self.progress.borrow().clone()
    }

    /// Wakes with every change of progress.
    pub fn watch(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    /// Waits until every row up to this revision was tried; tells how it stands then.
    pub async fn wait_until_attempted(&mut self, revision: u64) -> Progress {
        self.wait_for(|p| p.attempted >= revision).await
    }

    /// Waits until the maps hold all changes up to this revision.
    pub async fn wait_until_reconciled(&mut self, revision: u64) -> Progress {
        self.wait_for(|p| p.covers(revision)).await
    }

    /// Asks for a full pass: the maps are read back and corrected.
    pub fn refresh(&self) {
        self.refresh.notify_one();
    }

    async fn wait_for(&mut self, done: impl FnMut(&Progress) -> bool) -> Progress {
        // Without a reconciler what it said last stands.
        let last = self.progress.wait_for(done).await.ok().map(|progress| progress.clone());
        last.unwrap_or_else(|| self.progress())
    }
}
