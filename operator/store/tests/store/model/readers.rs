//! A change iterator and a watch, each with what it should see.

use std::sync::Arc;

use epic_store::{Change, Changes, Holds, Row, Stored, Watch, Watched};

use super::rows::{Model, Modelled, difference};
use crate::support::Tables;

pub(super) struct Iterating<R: Row>
where
    Tables: Holds<R>,
{
    pub(super) changes: Changes<Tables, R>,
    pub(super) seen: Model,
}

impl<R: Modelled> Iterating<R>
where
    Tables: Holds<R>,
{
    pub(super) fn poll(&mut self, now: &Model) {
        let pair = |row: &Arc<Stored<R>>| (row.row.clone(), row.revision);
        let delta = self.changes.poll();
        let found: Vec<_> = delta
            .iter()
            .map(|change| match change {
                Change::Added(row) => (row.key(), None, Some(pair(row))),
                Change::Updated { old, new } => (new.key(), Some(pair(old)), Some(pair(new))),
                Change::Removed(row) => (row.key(), Some(pair(row)), None),
            })
            .collect();
        assert_eq!(found, difference::<R>(&self.seen, now));
        assert_eq!(delta.is_empty(), found.is_empty());
        self.seen = now.clone();
    }
}

pub(super) struct Watching<R: Row>
where
    Tables: Holds<R>,
{
    pub(super) watch: Watch<Tables, R>,
    pub(super) due: bool,
}

impl<R: Modelled> Watching<R>
where
    Tables: Holds<R>,
{
    pub(super) fn committed(&mut self, before: &Model, after: &Model) {
        let concerns = |key: &R::Key| match self.watch.watched() {
            Watched::Key(wanted) => *key == wanted,
            Watched::Range(first, last) => first <= *key && *key <= last,
            Watched::Table => true,
        };
        let table = Tables::TABLE;
        let written = before.revisions[table as usize] != after.revisions[table as usize];
        let differing = difference::<R>(before, after);
        // A table that was written back to what it was is reported as such.
        self.due |= match self.watch.watched() {
            Watched::Table => written,
            Watched::Key(_) | Watched::Range(..) => differing.iter().any(|(key, ..)| concerns(key)),
        };
    }

    pub(super) fn look(&mut self, revision: u64) {
        assert_eq!(self.watch.has_changed(), self.due, "{:?}", self.watch.watched());
        assert_eq!(self.watch.snapshot().revision(), revision);
        assert!(!self.watch.has_changed());
        self.due = false;
    }
}

/// One of three kinds.
pub(super) enum Of<A, B, C> {
    Service(A),
    Backend(B),
    Node(C),
}

macro_rules! each {
    ($of:expr, $one:ident => $do:expr) => {
        match $of {
            Of::Service($one) => $do,
            Of::Backend($one) => $do,
            Of::Node($one) => $do,
        }
    };
}

pub(super) use each;
