//! One reconciler, one round at a time. No clock, no waiting, no tasks: those are in [`super::run`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Instant;

use super::backoff::{Backoff, Retries};
use super::claims::Claims;
use super::held::Held;
use super::progress::{Health, Progress};
use crate::maps::{LbMaps, MapError, MapKey};
use crate::render::{Render, affected};
use crate::store::{Row, Snapshot, StatusKind};
use crate::writer::{RowKey, Writer};

/// A removal of more than half of all entries, waiting for somebody who looks again.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PruneRequest {
    /// Entries that would go.
    pub removals: usize,
    /// Entries there are.
    pub entries: usize,
    /// Revision of the tables that want it.
    pub revision: u64,
}

/// Outcome of a round.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Round {
    /// When the next retry is due, if anything failed.
    pub retry_at: Option<Instant>,
    /// A removal that needs [`Reconciler::confirm_prune`].
    pub ask: Option<PruneRequest>,
    /// Map writes that succeeded.
    pub writes: u64,
}

/// Revision of entries that no row ever wanted: nobody waits for them to go.
const STRAY: u64 = u64::MAX;

/// Errors named in a health text.
const NAMED_ERRORS: usize = 10;

/// Makes maps hold what tables say.
#[derive(Debug)]
pub struct Reconciler<M, R> {
    writer: Writer,
    maps: M,
    render: R,
    backoff: Backoff,
    seen: Arc<Snapshot>,
    claims: Claims,
    held: Held,
    /// Entries that may differ from what is wanted, with the revision that made them so.
    dirty: BTreeMap<MapKey, u64>,
    retries: Retries,
    /// Rows whose recorded status may be out of date, each with the status id it had when it was rendered.
    unsettled: BTreeMap<RowKey, u64>,
    unready: BTreeMap<RowKey, (String, u64)>,
    /// Removals that somebody confirmed.
    confirmed: usize,
    ask: Option<PruneRequest>,
    attempted: u64,
    writes: u64,
}

impl<M: LbMaps, R: Render> Reconciler<M, R> {
    /// Reads the maps back. What they hold and no row wants goes once all initializers have completed.
    ///
    /// # Errors
    /// Those of [`LbMaps::entries`].
    pub fn new(writer: Writer, maps: M, render: R, backoff: Backoff) -> Result<Self, MapError> {
        let held = Held::new(maps.entries()?);
        let dirty = held.keys().map(|k| (*k, STRAY)).collect();
        Ok(Self {
            writer,
            maps,
            render,
            backoff,
            seen: Arc::default(),
            claims: Claims::default(),
            held,
            dirty,
            retries: Retries::default(),
            unsettled: BTreeMap::new(),
            unready: BTreeMap::new(),
            confirmed: 0,
            ask: None,
            attempted: 0,
            writes: 0,
        })
    }

    /// The maps.
    pub fn maps(&self) -> &M {
        &self.maps
    }

    /// The maps, to change how they fail.
    pub fn maps_mut(&mut self) -> &mut M {
        &mut self.maps
    }

    /// The maps, for good.
    pub fn into_maps(self) -> M {
        self.maps
    }

    /// Takes what changed in the tables since the last round, writes what differs in the maps, records statuses.
    pub fn round(&mut self, now: Instant) -> Round {
        let before = self.writes;
        let snapshot = self.writer.snapshot();
        self.take_in(&snapshot);
        // Again while it helps: a removal makes room for what found its map full, a write frees what it pointed to.
        loop {
            let so_far = self.writes;
            self.write_wanted(now);
            self.remove_unwanted(now);
            if self.writes == so_far {
                break;
            }
        }
        self.attempted = snapshot.revision();
        self.record_statuses();
        Round { retry_at: self.retries.next_after(now), ask: self.ask, writes: self.writes - before }
    }

    /// Reads the maps back and takes every difference as work: for a slow full pass.
    ///
    /// # Errors
    /// Those of [`LbMaps::entries`]; then nothing changes.
    pub fn refresh(&mut self) -> Result<(), MapError> {
        let held = Held::new(self.maps.entries()?);
        let revision = self.seen.revision();
        let keys: BTreeSet<MapKey> = held.keys().chain(self.claims.entries()).copied().collect();
        self.held = held;
        for key in keys {
            if self.held.get(&key) != self.claims.wanted(&key) {
                self.touch(key, revision);
            }
        }
        Ok(())
    }

    /// Somebody looked again: this many removals are meant.
    pub fn confirm_prune(&mut self, request: PruneRequest) {
        self.confirmed = self.confirmed.max(request.removals);
        self.ask = None;
    }

    /// How far the maps are.
    pub fn progress(&self) -> Progress {
        let unready = self.unready.values().map(|(_, revision)| *revision);
        Progress {
            attempted: self.attempted,
            lowest_failing: self.dirty.values().copied().chain(unready).min(),
            writes: self.writes,
            health: self.health(),
        }
    }

    fn take_in(&mut self, snapshot: &Arc<Snapshot>) {
        let seen = std::mem::replace(&mut self.seen, Arc::clone(snapshot));
        if seen.revision() == snapshot.revision() {
            return;
        }
        let revision = snapshot.revision();
        for row in affected(&seen, snapshot) {
            let entries = match self.render.render(snapshot, &row) {
                Ok(entries) => {
                    self.unready.remove(&row);
                    entries
                }
                Err(why) => {
                    self.unready.insert(row.clone(), (why.0, revision));
                    Vec::new()
                }
            };
            let dirty = &mut self.dirty;
            let mut touched = Vec::new();
            self.claims.set(&row, entries, |key| {
                mark(dirty, *key, revision);
                touched.push(*key);
            });
            for key in touched {
                // What is wanted now is another thing than what failed.
                self.retries.clear(&key);
            }
            match status_id(snapshot, &row) {
                Some(id) => {
                    self.unsettled.insert(row, id);
                }
                None => {
                    self.unsettled.remove(&row);
                    self.unready.remove(&row);
                }
            }
        }
    }

    fn touch(&mut self, key: MapKey, revision: u64) {
        mark(&mut self.dirty, key, revision);
        for row in self.claims.claimants(&key) {
            if let Some(id) = status_id(&self.seen, row) {
                self.unsettled.insert(row.clone(), id);
            }
        }
    }

    /// Writes wanted entries, those that others point to first.
    fn write_wanted(&mut self, now: Instant) {
        let keys: Vec<MapKey> = self.dirty.keys().copied().collect();
        for key in keys {
            let Some(value) = self.claims.wanted(&key) else { continue };
            if self.held.get(&key) == Some(value) {
                self.settle(&key);
                continue;
            }
            if self.retries.waits(&key, now) || !key.targets(value).iter().all(|t| self.held.contains(t)) {
                continue;
            }
            let value = value.clone();
            match self.maps.update(&key, &value) {
                Ok(()) => {
                    self.writes += 1;
                    self.held.put(key, value);
                    self.settle(&key);
                }
                Err(error) => self.retries.failed(&key, error, now, self.backoff),
            }
        }
    }

    /// Removes unwanted entries, those that point to others first.
    fn remove_unwanted(&mut self, now: Instant) {
        let unwanted = self.dirty.keys().rev().filter(|k| self.claims.wanted(k).is_none());
        let (removals, gone): (Vec<MapKey>, Vec<MapKey>) =
            unwanted.copied().partition(|k| self.held.contains(k));
        for key in gone {
            self.settle(&key);
        }
        self.ask = None;
        if removals.is_empty() {
            self.confirmed = 0;
            return;
        }
        if !self.seen.initialized() {
            return;
        }
        if removals.len() * 2 > self.held.len() && removals.len() > self.confirmed {
            let (entries, revision) = (self.held.len(), self.seen.revision());
            self.ask = Some(PruneRequest { removals: removals.len(), entries, revision });
            return;
        }
        let mut left = removals.len();
        for key in removals {
            if self.held.is_pointed_to(&key) || self.retries.waits(&key, now) {
                continue;
            }
            match self.maps.delete(&key) {
                Ok(()) => {
                    self.writes += 1;
                    self.held.remove(&key);
                    self.settle(&key);
                    self.retries.room_in(key.map(), now);
                    left -= 1;
                }
                Err(error) => self.retries.failed(&key, error, now, self.backoff),
            }
        }
        // What was confirmed is used up; the next wave is asked about again.
        self.confirmed = self.confirmed.min(left);
    }

    fn settle(&mut self, key: &MapKey) {
        self.dirty.remove(key);
        self.retries.clear(key);
    }

    fn record_statuses(&mut self) {
        let mut outcomes = Vec::new();
        for (row, id) in std::mem::take(&mut self.unsettled) {
            let kind = self.outcome(&row);
            if kind != StatusKind::Done {
                self.unsettled.insert(row.clone(), id);
            }
            outcomes.push((row, id, kind));
        }
        if outcomes.is_empty() {
            return;
        }
        let mut txn = self.writer.write();
        for (row, id, kind) in outcomes {
            txn.record(&row, id, kind);
        }
        txn.commit();
    }

    fn outcome(&self, row: &RowKey) -> StatusKind {
        if let Some((why, _)) = self.unready.get(row) {
            return StatusKind::Error(why.as_str().into());
        }
        match self.claims.of(row).iter().find(|k| self.dirty.contains_key(k)) {
            None => StatusKind::Done,
            Some(key) => StatusKind::Error(self.why(key).into()),
        }
    }

    /// Why an entry is not what it should be.
    fn why(&self, key: &MapKey) -> String {
        if let Some(error) = self.retries.error(key) {
            return format!("{key}: {error}");
        }
        let targets = self.claims.wanted(key).map(|v| key.targets(v)).unwrap_or_default();
        match targets.iter().find(|t| !self.held.contains(t)) {
            Some(target) => format!("{key} waits for {target}"),
            None => format!("{key} is not written yet"),
        }
    }

    fn health(&self) -> Health {
        let failed = self.retries.errors().map(|(key, error)| format!("{key}: {error}"));
        let unready = self.unready.iter().map(|(row, (why, _))| format!("{row}: {why}"));
        let errors: Vec<String> = failed.chain(unready).take(NAMED_ERRORS).collect();
        let more = self.retries.len() + self.unready.len() - errors.len();
        Health {
            entries: self.held.len(),
            errors,
            more,
            waiting_for: self.seen.pending_initializers(),
            unconfirmed: self.ask.map_or(0, |ask| ask.removals),
        }
    }
}

/// The lowest revision counts: whoever waits for it waits for this entry.
fn mark(dirty: &mut BTreeMap<MapKey, u64>, key: MapKey, revision: u64) {
    let since = dirty.entry(key).or_insert(revision);
    *since = revision.min(*since);
}

fn status_id(snapshot: &Snapshot, row: &RowKey) -> Option<u64> {
    fn id<R: Row>(snapshot: &Snapshot, key: &R::Key) -> Option<u64> {
        R::table(snapshot).entry(key).map(|e| e.status.id)
    }
    match row {
        RowKey::Service(k) => id::<crate::Service>(snapshot, k),
        RowKey::Tunnel(k) => id::<crate::Tunnel>(snapshot, k),
        RowKey::Proxy(k) => id::<crate::Proxy>(snapshot, k),
        RowKey::Alias(k) => id::<crate::Alias>(snapshot, k),
        RowKey::Pass(k) => id::<crate::Pass>(snapshot, k),
        RowKey::Node(k) => id::<crate::EpicNode>(snapshot, k),
        RowKey::Frontend(k) => id::<crate::Frontend>(snapshot, k),
    }
}
