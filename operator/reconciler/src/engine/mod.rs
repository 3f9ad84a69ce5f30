//! One reconciler, one round at a time. No clock, no waiting, no tasks: those are in [`crate::run`].
//!
//! A round takes in what changed (`intake`), renders rows and compares what they want with what is held (`claims`), writes
//! (`write`), removes (`remove`, and `removal` for when that needs an answer), clears what stands in the way of others
//! (`evict`), and tells how it went (`report`). `refresh` reads maps back.

mod claims;
mod evict;
mod intake;
mod refresh;
mod removal;
mod remove;
mod report;
mod write;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::fmt;
use std::sync::Arc;
use std::time::Instant;

use epic_store::{Reader, Snapshot, Sources};
use hashbrown::HashMap;
use imbl::OrdMap;

use crate::backoff::Retries;
use crate::graph::{Graph, Queue, flag};
use crate::lag::Lag;
use crate::lanes::{Direction, Lanes};
use crate::layout::Layout;
use crate::maps::{MapError, Maps};
use crate::progress::{Failing, NamedError, Progress};
use crate::render::{Render, RowId};
use crate::settings::{Budget, Settings};
use crate::slab::Slot;

/// Passes over the lists in one round. Few are ever needed, one for each step of a chain of entries that wait for each other;
/// what is left after so many comes in the next round, so that stop, questions and new changes never wait for it.
const PASSES: usize = 64;

pub use removal::Ask;

/// Outcome of a round.
#[derive(Clone, Debug, PartialEq)]
pub struct Round<K> {
    /// Whether there is more to do at once.
    pub more: bool,
    /// When the next retry is due, if anything failed.
    pub retry_at: Option<Instant>,
    /// A removal that needs [`Reconciler::confirm`].
    pub ask: Option<Ask<K>>,
    /// Map writes that succeeded.
    pub writes: u64,
}

/// Sizes of what a reconciler keeps: all zero once tables and maps are empty.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Footprint {
    /// Entries that are held, wanted, pointed to or waited for.
    pub entries: usize,
    /// Rows that want entries, are queued or fail.
    pub rows: usize,
    /// Operations that failed.
    pub failures: usize,
    /// Entries that wait: for a target, for pointers to leave, for an answer.
    pub waiting: usize,
    /// Rows and scopes that progress names.
    pub named: usize,
}

/// Makes maps hold what tables say.
pub struct Reconciler<L: Layout, M, R: Render<L>> {
    reader: Reader<R::Tables>,
    maps: M,
    render: R,
    settings: Settings,
    seen: Arc<Snapshot<R::Tables>>,
    /// Sources that have not listed.
    pending: Sources,
    graph: Graph<L, RowId<L, R>, R::Scope>,
    /// Entries held, per map.
    held: Vec<usize>,
    /// What [`flag::READ`] means, per map.
    parity: Vec<bool>,
    /// Changed rows that were not looked at yet, each with the lowest revision of its change.
    arrived: VecDeque<(RowId<L, R>, u64)>,
    queues: [VecDeque<Slot>; 3],
    queued: usize,
    /// Queued rows that are not in the tables.
    queued_gone: usize,
    unready: HashMap<Slot, Arc<str>>,
    /// Values of the entries that this round is to write.
    transit: HashMap<Slot, L::Value>,
    lanes: Lanes,
    /// Entries that wait until all claims on them are known.
    deferred: Vec<Slot>,
    retries: Retries,
    /// Entries that wait for a target, each with the target and the identity expected there.
    blocked: HashMap<Slot, (Slot, u32)>,
    /// The same by target.
    waiters: BTreeSet<(Slot, Slot)>,
    /// Entries that must go or change and are pointed to.
    pinned: BTreeSet<Slot>,
    /// Whether something was pinned, failed or came to wait since it was last looked for who pins.
    pins_changed: bool,
    /// Entries that still hold what a row wanted that has left them, or what somebody else wanted in an earlier run.
    handed_over: BTreeSet<Slot>,
    removal: removal::Removal<L::Key>,
    refreshing: Option<refresh::Refreshing>,
    unread: Option<Arc<str>>,
    /// Whether what is done now is part of a small change.
    urgent: bool,
    now: Instant,
    touched: Vec<Slot>,
    lag: Lag<R::Scope>,
    failing: OrdMap<RowId<L, R>, Failing>,
    failing_of_node: OrdMap<RowId<L, R>, Failing>,
    /// Failures of entries that no row ever wanted.
    strays: BTreeMap<Slot, NamedError>,
    writes: u64,
    out: Vec<(L::Key, L::Value)>,
    targets: Vec<(L::Key, u32)>,
}

impl<L: Layout, M, R: Render<L>> fmt::Debug for Reconciler<L, M, R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reconciler")
            .field("seen", &self.seen.revision())
            .field("entries", &self.graph.entries.len())
            .field("rows", &self.graph.rows.len())
            .finish_non_exhaustive()
    }
}

impl<L: Layout, M: Maps<L>, R: Render<L>> Reconciler<L, M, R> {
    /// Reads the maps back. What they hold and no row wants goes once the initializers have completed of all sources that it
    /// may be of ([`Render::sources_of_held`]).
    ///
    /// # Errors
    /// Those of [`Maps::read`].
    pub fn new(
        reader: Reader<R::Tables>,
        maps: M,
        mut render: R,
        settings: Settings,
    ) -> Result<Self, MapError> {
        let mut found = Vec::new();
        for map in 0..L::MAPS.len() {
            maps.read(map, &mut |key, value| found.push((key, value)))?;
        }
        render.adopt(&found);
        let mut this = Self {
            reader,
            maps,
            render,
            settings,
            seen: Arc::default(),
            pending: Sources::NONE,
            graph: Graph::new(),
            held: vec![0; L::MAPS.len()],
            parity: vec![false; L::MAPS.len()],
            arrived: VecDeque::new(),
            queues: Default::default(),
            queued: 0,
            queued_gone: 0,
            unready: HashMap::new(),
            transit: HashMap::new(),
            lanes: Lanes::new(L::MAPS.len()),
            deferred: Vec::new(),
            retries: Retries::new(L::MAPS.len()),
            blocked: HashMap::new(),
            waiters: BTreeSet::new(),
            pinned: BTreeSet::new(),
            pins_changed: false,
            handed_over: BTreeSet::new(),
            removal: removal::Removal::default(),
            refreshing: None,
            unread: None,
            urgent: false,
            now: Instant::now(),
            touched: Vec::new(),
            lag: Lag::default(),
            failing: OrdMap::new(),
            failing_of_node: OrdMap::new(),
            strays: BTreeMap::new(),
            writes: 0,
            out: Vec::new(),
            targets: Vec::new(),
        };
        for (key, value) in found {
            let slot = this.graph.entry_slot(&key);
            this.found(slot, &key, &value);
            this.graph.entry_mut(slot).set(flag::ADOPTED, true);
            this.entry_changed(slot);
        }
        Ok(this)
    }

    /// Takes what changed in the tables since the last round, and writes what differs in the maps, within the budget.
    /// What small changes ask for comes first.
    pub fn round(&mut self, now: Instant, budget: Budget) -> Round<L::Key> {
        let before = self.writes;
        self.now = now;
        self.take_in();
        let (mut rows, mut operations) = (budget.rows, budget.operations);
        self.sort_arrived(budget.rows.saturating_mul(4));
        self.retry_due(operations);
        self.render_rows(Queue::Urgent, &mut rows);
        self.write_lane(true, &mut operations);
        self.render_rows(Queue::Gone, &mut rows);
        self.render_rows(Queue::Bulk, &mut rows);
        self.release_deferred();
        let mut passes = 0;
        let unfinished = loop {
            // Again while it helps: a removal makes room for what found its map full, a write frees what it pointed to.
            let so_far = self.writes;
            self.write_lane(true, &mut operations);
            self.write_lane(false, &mut operations);
            self.remove(&mut operations);
            if operations == 0 || (self.writes == so_far && !self.evict()) {
                break false;
            }
            passes += 1;
            if passes == PASSES {
                break true;
            }
        };
        self.report();
        self.transit.clear();
        if self.transit.capacity() > 4 * Budget::default().operations {
            self.transit.shrink_to_fit();
        }
        Round {
            more: unfinished || self.has_more(),
            retry_at: self.retries.next_due(),
            ask: self.removal.ask().cloned(),
            writes: self.writes - before,
        }
    }

    /// Whether a round now would find something to do, apart from new changes and later retries.
    fn has_more(&self) -> bool {
        !self.arrived.is_empty()
            || self.queued > 0
            || !self.lanes.is_empty(Direction::Write)
            || (self.may_remove() && !self.lanes.is_empty(Direction::Remove))
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

    /// The tables that it follows.
    pub fn reader(&self) -> &Reader<R::Tables> {
        &self.reader
    }

    /// How it is tuned.
    pub fn settings(&self) -> &Settings {
        &self.settings
    }

    /// The renderer.
    pub fn renderer(&self) -> &R {
        &self.render
    }

    /// How far the maps are.
    pub fn progress(&self) -> Progress<RowId<L, R>, R::Scope> {
        Progress {
            seen: self.seen.revision(),
            arrived: self.arrived.front().map(|(_, mark)| *mark),
            lowest: self.lag.lowest(),
            lowest_pending: self.lag.lowest_pending(),
            behind: self.lag.behind().clone(),
            failing: self.failing.clone(),
            failing_of_node: self.failing_of_node.clone(),
            writes: self.writes,
            health: self.health(),
        }
    }

    /// Sizes of what is kept. For tests that nothing leaks.
    pub fn footprint(&self) -> Footprint {
        Footprint {
            entries: self.graph.entries.len(),
            rows: self.graph.rows.len(),
            failures: self.retries.len() + self.strays.len(),
            waiting: self.blocked.len()
                + self.waiters.len()
                + self.pinned.len()
                + self.handed_over.len()
                + self.removal.asked()
                + self.removal.parked()
                + self.removal.fresh(),
            named: self.lag.behind().len() + self.failing.len() + self.failing_of_node.len(),
        }
    }

    /// Whether the maps hold what the tables say, and nothing waits or fails.
    pub fn is_idle(&self) -> bool {
        let Footprint { failures, waiting, named, .. } = self.footprint();
        self.seen.revision() == self.reader.snapshot().revision()
            && !self.has_more()
            && failures + waiting + named + self.unready.len() == 0
    }
}
