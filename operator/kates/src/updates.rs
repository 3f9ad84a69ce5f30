//! Telling a reader that there is something new: at once when quiet, at most once per interval under load.
//!
//! The wait is counted from the last signal, never from the last event, so a steady stream of changes cannot
//! starve a reader. What happens meanwhile is coalesced by the stores: a reader sees the newest state, and the
//! changes since the last state it saw.

use tokio::sync::watch;
use tokio::time::{Instant, sleep_until};

use crate::accumulator::Accumulator;
use crate::object::Object;
use crate::snapshot::{Change, Snapshot};
use crate::store::Epoch;

/// One reader's position; made by [`Accumulator::updates`].
pub struct Updates {
    accumulator: Accumulator,
    bell: watch::Receiver<Epoch>,
    seen: Option<u64>,
    signalled: Option<Instant>,
    last: Option<Snapshot>,
}

/// A new snapshot, and the one this reader had before.
#[derive(Clone)]
pub struct Update {
    /// The state of now.
    pub snapshot: Snapshot,
    /// The state of this reader's last update; `None` the first time.
    pub before: Option<Snapshot>,
}

impl Updates {
    pub(crate) fn new(accumulator: Accumulator) -> Self {
        Self { bell: accumulator.bell(), accumulator, seen: None, signalled: None, last: None }
    }

    /// Waits until every query has listed and something differs from the last update: an object, what is
    /// poisoned, or what is synced. Dropping the future loses nothing.
    pub async fn changed(&mut self) {
        loop {
            let content = self.bell.borrow_and_update().content;
            if self.seen != Some(content) && self.accumulator.snapshot().is_some() {
                break;
            }
            // The sender lives in the accumulator.
            let _ = self.bell.changed().await;
        }
        if let Some(signalled) = self.signalled {
            sleep_until(signalled + self.accumulator.interval()).await;
        }
        self.signalled = Some(Instant::now());
    }

    /// The state of now, when it differs from the last update.
    pub fn update(&mut self) -> Option<Update> {
        let content = self.bell.borrow().content;
        if self.seen == Some(content) {
            return None;
        }
        // Taken after the number was read: a change in between is signalled once more rather than lost.
        let snapshot = self.accumulator.snapshot()?;
        self.seen = Some(content);
        let before = self.last.replace(snapshot.clone());
        Some(Update { snapshot, before })
    }

    /// [`Updates::changed`] and [`Updates::update`] in one.
    pub async fn next(&mut self) -> Update {
        loop {
            self.changed().await;
            if let Some(update) = self.update() {
                return update;
            }
        }
    }

    /// Waits until the revision of a query moves, content changed or not (bookmarks). For whoever reports how
    /// far it has come; such a report should be batched by its writer.
    pub async fn progressed(&mut self) {
        let before = self.bell.borrow().progress;
        while self.bell.borrow_and_update().progress == before {
            let _ = self.bell.changed().await;
        }
    }

    /// The accumulator this reads.
    pub fn accumulator(&self) -> &Accumulator {
        &self.accumulator
    }
}

impl Update {
    /// What changed of kind `K` since this reader's last update. Panics as [`Snapshot::view`].
    pub fn changes<K: Object>(&self) -> Vec<Change<K>> {
        self.snapshot.changes_since(self.before.as_ref())
    }
}
