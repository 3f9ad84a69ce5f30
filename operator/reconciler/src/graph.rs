//! What is known: one record per map entry, one per row that wants any, and the pointers between them.
//!
//! Values are not kept: a digest stands for what an entry holds and for what each row wants it to hold. So an entry costs
//! the same whatever its value is, and a value that is needed again is rendered again.

use std::hash::{BuildHasher, Hash};

use epic_store::Sources;
use hashbrown::{DefaultHashBuilder, HashTable};
use smallvec::SmallVec;

use crate::layout::Layout;
use crate::slab::{Slab, Slot};

/// Facts about an entry.
pub(crate) mod flag {
    /// Held since the start and never written by this run: who owns it is not settled.
    pub(crate) const ADOPTED: u32 = 1 << 4;
    /// Wanted, but must leave for a while: what it holds stands in the way of another's entry.
    pub(crate) const EVICTED: u32 = 1 << 5;
    /// In the batch that is being made.
    pub(crate) const FLYING: u32 = 1 << 6;
    /// Others wait for it.
    pub(crate) const AWAITED: u32 = 1 << 7;
    /// Held, and nobody wants it.
    pub(crate) const LEAVING: u32 = 1 << 8;
    /// In the set that somebody is asked about.
    pub(crate) const ASKED: u32 = 1 << 9;
    /// Its removal was confirmed.
    pub(crate) const CONFIRMED: u32 = 1 << 10;
    /// Its last operation failed.
    pub(crate) const FAILING: u32 = 1 << 11;
    /// Waits for a target.
    pub(crate) const BLOCKED: u32 = 1 << 12;
    /// Waits until nothing points to it.
    pub(crate) const PINNED: u32 = 1 << 13;
    /// Alternates with each reading of its map.
    pub(crate) const READ: u32 = 1 << 14;
    /// In the list of entries that is being made.
    pub(crate) const MARKED: u32 = 1 << 15;
    /// Not to be removed before a source has listed that may want it.
    pub(crate) const PARKED: u32 = 1 << 16;
}

const MET: u32 = 1 << 31;

/// What a row wants of an entry.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Claim {
    /// Of the value; 0: the row wanted it once, and waits until that shows.
    pub(crate) digest: u64,
    pub(crate) identity: u32,
    /// With the bit that says whether the row has what it wants.
    row: u32,
}

impl Claim {
    pub(crate) fn new(row: Slot, digest: u64, identity: u32) -> Self {
        Self { digest, identity, row }
    }

    pub(crate) fn row(self) -> Slot {
        self.row & !MET
    }

    pub(crate) fn is_live(self) -> bool {
        self.digest != 0
    }

    pub(crate) fn is_met(self) -> bool {
        self.row & MET != 0
    }

    pub(crate) fn set_met(&mut self, met: bool) {
        self.row = self.row() | if met { MET } else { 0 };
    }
}

/// Entries that one points to, each with the identity it expects there.
pub(crate) type Targets = SmallVec<[(Slot, u32); 2]>;

/// A map entry that is held, wanted, pointed to or waited for.
#[derive(Debug)]
pub(crate) struct Entry<K> {
    pub(crate) key: K,
    /// Digest of what the map holds; 0: nothing.
    pub(crate) have: u64,
    /// The owner first, if any claim is live.
    pub(crate) claims: SmallVec<[Claim; 1]>,
    /// Of what the map holds.
    pub(crate) targets: Targets,
    /// Of what the map holds.
    pub(crate) identity: u32,
    /// Pointers of held entries to this one, and of those that are being written.
    pub(crate) pointed_by: u32,
    pub(crate) flags: u32,
    /// Whose rows want it, wanted what it holds, or may want what it was found to hold.
    pub(crate) sources: Sources,
}

impl<K> Entry<K> {
    pub(crate) fn is(&self, flag: u32) -> bool {
        self.flags & flag != 0
    }

    pub(crate) fn set(&mut self, flag: u32, on: bool) {
        if on { self.flags |= flag } else { self.flags &= !flag }
    }

    /// The claim that decides.
    pub(crate) fn owner(&self) -> Option<Claim> {
        self.claims.first().copied().filter(|claim| claim.is_live())
    }

    /// Digest of what it should hold; 0: nothing.
    pub(crate) fn wanted(&self) -> u64 {
        self.owner().map_or(0, |owner| owner.digest)
    }

    /// Whether the map holds what it should.
    pub(crate) fn is_clean(&self) -> bool {
        self.have == self.wanted() && !self.is(flag::EVICTED)
    }

    /// Whether it is held and will stay who it is. One that is to become another is no target even for who does not mind
    /// whose it is: it waits for its pointers to leave, and would never see the last of them.
    pub(crate) fn stays(&self, expected: u32) -> bool {
        self.have != 0 && !self.must_change() && (expected == 0 || self.identity == expected)
    }

    /// Whether it is to go or to become another.
    pub(crate) fn must_change(&self) -> bool {
        self.is(flag::EVICTED) || self.owner().is_none_or(|owner| owner.identity != self.identity)
    }

    pub(crate) fn claim_of(&self, row: Slot) -> Option<usize> {
        self.claims.iter().position(|claim| claim.row() == row)
    }
}

/// How a row is queued for rendering.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Queue {
    Urgent = 1,
    Gone = 2,
    Bulk = 3,
}

/// A row that wants entries, waits for some to leave, is queued or cannot be rendered.
#[derive(Debug)]
pub(crate) struct RowState<I, S> {
    pub(crate) id: I,
    pub(crate) scope: Option<S>,
    /// Whose it was when it was rendered.
    pub(crate) sources: Sources,
    /// Lowest revision of a change that is not in the maps; 0: none is missing.
    pub(crate) since: u64,
    /// What the lag counts this row under; 0: nothing.
    pub(crate) counted: u64,
    /// Whether it is counted as pending.
    pub(crate) counted_pending: bool,
    pub(crate) touched: bool,
    /// Not in the tables.
    pub(crate) gone: bool,
    /// Its row is another one now, of another scope; this one only waits for its entries to leave.
    pub(crate) detached: bool,
    pub(crate) unready: bool,
    pub(crate) fails: bool,
    pub(crate) queue: Option<Queue>,
    /// Revision of the snapshot in which it was looked at when it was queued, in short.
    pub(crate) looked_at: u32,
    /// Claims that are not met.
    pub(crate) unmet: u32,
    /// Entries on which it has a claim.
    pub(crate) entries: SmallVec<[Slot; 4]>,
}

impl<I, S> RowState<I, S> {
    pub(crate) fn new(id: I, scope: Option<S>) -> Self {
        Self {
            id,
            scope,
            sources: Sources::NONE,
            since: 0,
            counted: 0,
            counted_pending: false,
            touched: false,
            gone: false,
            detached: false,
            unready: false,
            fails: false,
            queue: None,
            looked_at: 0,
            unmet: 0,
            entries: SmallVec::new(),
        }
    }

    pub(crate) fn is_behind(&self) -> bool {
        self.queue.is_some() || self.unready || self.unmet > 0
    }
}

/// Entries and rows, by slot and by name.
#[derive(Debug)]
pub(crate) struct Graph<L: Layout, I, S> {
    pub(crate) entries: Slab<Entry<L::Key>>,
    by_key: HashTable<Slot>,
    pub(crate) rows: Slab<RowState<I, S>>,
    by_id: HashTable<Slot>,
    hasher: DefaultHashBuilder,
}

impl<L: Layout, I: Copy + Eq + Hash, S: Copy> Graph<L, I, S> {
    pub(crate) fn new() -> Self {
        Self {
            entries: Slab::default(),
            by_key: HashTable::new(),
            rows: Slab::default(),
            by_id: HashTable::new(),
            hasher: DefaultHashBuilder::default(),
        }
    }

    pub(crate) fn entry(&self, slot: Slot) -> &Entry<L::Key> {
        self.entries.get(slot)
    }

    pub(crate) fn entry_mut(&mut self, slot: Slot) -> &mut Entry<L::Key> {
        self.entries.get_mut(slot)
    }

    pub(crate) fn row(&self, slot: Slot) -> &RowState<I, S> {
        self.rows.get(slot)
    }

    pub(crate) fn row_mut(&mut self, slot: Slot) -> &mut RowState<I, S> {
        self.rows.get_mut(slot)
    }

    pub(crate) fn find_entry(&self, key: &L::Key) -> Option<Slot> {
        let hash = self.hasher.hash_one(key);
        self.by_key.find(hash, |slot| self.entries.get(*slot).key == *key).copied()
    }

    pub(crate) fn find_row(&self, id: &I) -> Option<Slot> {
        let hash = self.hasher.hash_one(id);
        self.by_id.find(hash, |slot| self.rows.get(*slot).id == *id).copied()
    }

    /// The slot of an entry; a new one if nothing is known of it.
    pub(crate) fn entry_slot(&mut self, key: &L::Key) -> Slot {
        let Self { entries, by_key, hasher, .. } = self;
        let hash = hasher.hash_one(key);
        if let Some(slot) = by_key.find(hash, |slot| entries.get(*slot).key == *key) {
            return *slot;
        }
        let slot = entries.insert(Entry {
            key: *key,
            have: 0,
            claims: SmallVec::new(),
            targets: SmallVec::new(),
            identity: 0,
            pointed_by: 0,
            flags: 0,
            sources: Sources::NONE,
        });
        by_key.insert_unique(hash, slot, |slot| hasher.hash_one(entries.get(*slot).key));
        slot
    }

    /// Forgets an entry of which nothing is left to know.
    pub(crate) fn forget_entry_if_unused(&mut self, slot: Slot) {
        let Some(entry) = self.entries.find(slot) else { return };
        let used = entry.have != 0
            || !entry.claims.is_empty()
            || entry.pointed_by > 0
            || entry.is(flag::AWAITED | flag::FLYING);
        if used {
            return;
        }
        let hash = self.hasher.hash_one(entry.key);
        if let Ok(found) = self.by_key.find_entry(hash, |other| *other == slot) {
            found.remove();
            let entry = self.entries.get_mut(slot);
            // What a list of work still has of it is recognised by that.
            (entry.flags, entry.claims, entry.targets) = (0, SmallVec::new(), SmallVec::new());
            self.entries.free(slot);
        }
    }

    pub(crate) fn add_row(&mut self, id: I, scope: Option<S>) -> Slot {
        let Self { rows, by_id, hasher, .. } = self;
        let slot = rows.insert(RowState::new(id, scope));
        by_id.insert_unique(hasher.hash_one(id), slot, |slot| hasher.hash_one(rows.get(*slot).id));
        slot
    }

    /// Gives the name of a row free for another record.
    pub(crate) fn detach_row(&mut self, slot: Slot) {
        let hash = self.hasher.hash_one(self.rows.get(slot).id);
        if let Ok(found) = self.by_id.find_entry(hash, |other| *other == slot) {
            found.remove();
        }
        self.rows.get_mut(slot).detached = true;
    }

    pub(crate) fn forget_row(&mut self, slot: Slot) {
        if !self.rows.get(slot).detached {
            self.detach_row(slot);
        }
        self.rows.get_mut(slot).entries = SmallVec::new();
        self.rows.free(slot);
    }

    /// Gives back what tables of slots keep of a greater past.
    pub(crate) fn shrink(&mut self) {
        let Self { entries, by_key, rows, by_id, hasher } = self;
        if by_key.capacity() > 1024 && by_key.len() < by_key.capacity() / 8 {
            by_key.shrink_to_fit(|slot| hasher.hash_one(entries.get(*slot).key));
        }
        if by_id.capacity() > 1024 && by_id.len() < by_id.capacity() / 8 {
            by_id.shrink_to_fit(|slot| hasher.hash_one(rows.get(*slot).id));
        }
    }
}
