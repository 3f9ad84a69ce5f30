//! Which rows are behind since which revision, counted per scope and over all.

use std::hash::Hash;

use hashbrown::HashMap;
use imbl::OrdMap;
use smallvec::SmallVec;

use crate::progress::Behind;

/// Revisions with the number of rows that are behind since, lowest first. Nearly always one.
#[derive(Clone, Debug, Default)]
struct Since(SmallVec<[(u64, u32); 1]>);

impl Since {
    fn add(&mut self, revision: u64) {
        match self.0.binary_search_by_key(&revision, |(since, _)| *since) {
            Ok(at) => self.0[at].1 += 1,
            Err(at) => self.0.insert(at, (revision, 1)),
        }
    }

    fn remove(&mut self, revision: u64) {
        if let Ok(at) = self.0.binary_search_by_key(&revision, |(since, _)| *since) {
            self.0[at].1 -= 1;
            if self.0[at].1 == 0 {
                self.0.remove(at);
            }
        }
    }

    fn lowest(&self) -> Option<u64> {
        self.0.first().map(|(since, _)| *since)
    }
}

/// What is behind.
pub(crate) struct Lag<S> {
    all: Since,
    /// Of `all`, those that are only not there yet.
    pending: Since,
    scopes: HashMap<Option<S>, Since>,
    published: OrdMap<Option<S>, Behind>,
}

impl<S> Default for Lag<S> {
    fn default() -> Self {
        let (all, pending) = (Since::default(), Since::default());
        Self { all, pending, scopes: HashMap::new(), published: OrdMap::new() }
    }
}

impl<S: Copy + Ord + Hash> Lag<S> {
    /// A row is behind since this revision.
    pub(crate) fn add(&mut self, scope: Option<S>, revision: u64, pending: bool) {
        self.all.add(revision);
        if pending {
            self.pending.add(revision);
        }
        let since = self.scopes.entry(scope).or_default();
        let before = since.lowest();
        since.add(revision);
        if before.is_none_or(|before| before > revision) {
            self.published.insert(scope, Behind { lowest: revision });
        }
    }

    /// A row is no longer behind since this revision.
    pub(crate) fn remove(&mut self, scope: Option<S>, revision: u64, pending: bool) {
        self.all.remove(revision);
        if pending {
            self.pending.remove(revision);
        }
        let Some(since) = self.scopes.get_mut(&scope) else { return };
        let before = since.lowest();
        since.remove(revision);
        match since.lowest() {
            None => {
                self.scopes.remove(&scope);
                self.published.remove(&scope);
            }
            Some(lowest) if Some(lowest) != before => {
                self.published.insert(scope, Behind { lowest });
            }
            Some(_) => {}
        }
    }

    /// Gives back what the table of scopes keeps of a greater past.
    pub(crate) fn shrink(&mut self) {
        if self.scopes.capacity() > 1024 && self.scopes.len() < self.scopes.capacity() / 8 {
            self.scopes.shrink_to_fit();
        }
    }

    pub(crate) fn lowest(&self) -> Option<u64> {
        self.all.lowest()
    }

    pub(crate) fn lowest_pending(&self) -> Option<u64> {
        self.pending.lowest()
    }

    pub(crate) fn behind(&self) -> &OrdMap<Option<S>, Behind> {
        &self.published
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_lowest_revision_of_each_scope_stands_until_its_last_row_is_done() {
        let mut lag = Lag::<u8>::default();
        lag.add(Some(1), 5, true);
        lag.add(Some(1), 3, false);
        lag.add(Some(1), 3, true);
        lag.add(None, 4, true);
        assert_eq!((lag.lowest(), lag.lowest_pending()), (Some(3), Some(3)));
        lag.remove(Some(1), 3, true);
        assert_eq!((lag.lowest(), lag.lowest_pending()), (Some(3), Some(4)));
        assert_eq!(lag.behind().get(&Some(1)), Some(&Behind { lowest: 3 }));
        lag.remove(Some(1), 3, false);
        assert_eq!(lag.behind().get(&Some(1)), Some(&Behind { lowest: 5 }));
        lag.remove(Some(1), 5, true);
        lag.remove(None, 4, true);
        assert_eq!((lag.lowest(), lag.behind().len(), lag.scopes.len()), (None, 0, 0));
    }
}
