//! How it went: per row what is wrong, if anything, and what is behind. Only rows about which something changed are
//! looked at, and a text is made only if it differs.

use std::fmt::Write as _;
use std::sync::Arc;

use super::Reconciler;
use crate::graph::{Claim, flag};
use crate::layout::Layout;
use crate::maps::Maps;
use crate::progress::{Errors, Failing, Health, NamedError};
use crate::render::Render;
use crate::slab::Slot;

impl<L: Layout, M: Maps<L>, R: Render<L>> Reconciler<L, M, R> {
    pub(super) fn report(&mut self) {
        for slot in std::mem::take(&mut self.touched) {
            self.report_row(slot);
        }
        self.graph.shrink();
        self.removal.shrink();
        self.lag.shrink();
    }

    fn report_row(&mut self, slot: Slot) {
        let row = self.graph.row_mut(slot);
        row.touched = false;
        if !row.is_behind() {
            row.since = 0;
            self.count(slot, 0, false);
            self.set_failing(slot, None);
            if self.graph.row(slot).entries.is_empty() {
                self.graph.forget_row(slot);
            }
            return;
        }
        // A row that is queued keeps its error until it was tried again.
        if row.queue.is_none() {
            let why = self.why(slot);
            self.set_failing(slot, why);
        }
        let row = self.graph.row(slot);
        let pending = !row.fails && !row.gone;
        self.count(slot, row.since, pending);
    }

    /// Counts a row as behind since this revision; 0: not behind.
    fn count(&mut self, slot: Slot, since: u64, pending: bool) {
        let row = self.graph.row_mut(slot);
        if row.counted == since && row.counted_pending == pending {
            return;
        }
        let (old, old_pending, scope) = (row.counted, row.counted_pending, row.scope);
        (row.counted, row.counted_pending) = (since, pending);
        if since != 0 {
            self.lag.add(scope, since, pending);
        }
        if old != 0 {
            self.lag.remove(scope, old, old_pending);
        }
    }

    fn set_failing(&mut self, slot: Slot, why: Option<String>) {
        let row = self.graph.row_mut(slot);
        let failing = if row.scope.is_some() { &mut self.failing } else { &mut self.failing_of_node };
        match why {
            Some(why) => {
                row.fails = true;
                let old = failing.get(&row.id).filter(|old| old.slot == slot);
                if old.is_some_and(|old| *old.text == *why) {
                    return;
                }
                let since = old.map_or(self.now, |old| old.since);
                failing.insert(row.id, Failing { text: Arc::from(why), since, slot });
            }
            None if row.fails => {
                row.fails = false;
                if failing.get(&row.id).is_some_and(|old| old.slot == slot) {
                    failing.remove(&row.id);
                }
            }
            None => {}
        }
    }

    /// Why a row does not have what it wants, unless that is under way or waits as it should.
    fn why(&self, slot: Slot) -> Option<String> {
        if let Some(why) = self.unready.get(&slot) {
            return Some(why.to_string());
        }
        // What failed comes before what waits for it.
        let entries = &self.graph.row(slot).entries;
        let failed = entries.iter().find_map(|entry| self.error_of(*entry, slot));
        failed.or_else(|| entries.iter().find_map(|entry| self.why_not(*entry, slot)))
    }

    /// The claim of a row on an entry that is not as it wants it.
    fn unmet(&self, slot: Slot, row: Slot) -> Option<Claim> {
        let entry = self.graph.entry(slot);
        Some(entry.claims[entry.claim_of(row)?]).filter(|claim| !claim.is_met())
    }

    /// What the maps said about an entry that a row lacks.
    fn error_of(&self, slot: Slot, row: Slot) -> Option<String> {
        self.unmet(slot, row)?;
        let (error, entry) = (self.retries.error(slot)?, self.graph.entry(slot));
        let removed = if entry.wanted() == 0 { " cannot be removed" } else { "" };
        Some(format!("{}{removed}: {error}", entry.key))
    }

    /// What an entry that a row lacks waits for.
    fn why_not(&self, slot: Slot, row: Slot) -> Option<String> {
        let claim = self.unmet(slot, row)?;
        let entry = self.graph.entry(slot);
        let key = entry.key;
        if let Some(owner) = entry.owner()
            && claim.is_live()
            && owner.digest != claim.digest
        {
            let owner = self.graph.row(owner.row()).id;
            return Some(format!("{key} is as {owner} wants it; it can be had once {owner} leaves it"));
        }
        if let Some((target, expected)) = self.blocked.get(&slot) {
            let target = self.graph.entry(*target);
            let mut text = format!("{key} waits for {}", target.key);
            if target.have != 0 && *expected != 0 && target.identity != *expected {
                let _ = write!(text, ", which is of {} and not of {expected}", target.identity);
            }
            return Some(text);
        }
        entry.is(flag::PINNED).then(|| format!("{key} waits until nothing points to it"))
    }

    pub(super) fn health(&self) -> Health {
        let name = |(row, failing): (&crate::render::RowId<L, R>, &Failing)| NamedError {
            text: Arc::from(format!("{row}: {}", failing.text)),
            since: failing.since,
        };
        let of_node = self.failing_of_node.iter().map(name).chain(self.strays.values().cloned());
        Health {
            entries: self.held.iter().sum(),
            node: Errors::of(self.failing_of_node.len() + self.strays.len(), of_node),
            scopes: Errors::of(self.failing.len(), self.failing.iter().map(name)),
            waiting_for: self.seen.pending().map(|pending| Arc::from(pending.to_string())).collect(),
            unlisted: self.removal.parked(),
            unconfirmed: self.removal.asked(),
            unread: self.unread.clone(),
        }
    }
}
