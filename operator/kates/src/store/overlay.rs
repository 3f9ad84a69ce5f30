//! Own writes that the watch has not shown yet.
//!
//! A write enters the overlay before the call that made it returns, and leaves when the watch has caught up:
//! when the watch's revision has reached the write's, when the watch shows exactly that version, or when a list
//! that began after the write is complete. Deletions have no version of their own; they are remembered by uid,
//! which the API server never gives twice.
//!
//! Pure: no clock, no IO. Invariant: `show` never answers with a state older than an own write that returned.

use std::cmp::Ordering;
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};

use kube::Resource;

use super::Held;
use crate::{Key, Version};

/// How many own deletions are remembered at most, until the next list. Each is needed for the time that a watch
/// lags behind: milliseconds to seconds.
const REMEMBERED_DELETIONS: usize = 4096;

/// One own write of an object that still exists.
struct Pending<K> {
    uid: Option<String>,
    version: Version,
    /// Number of this write among all that entered, to be compared with what a list knew when it began.
    number: u64,
    /// `None`: the object exists but the query does not select it any more.
    object: Option<Held<K>>,
}

/// See the module.
pub(crate) struct Overlay<K> {
    pending: HashMap<Key, Pending<K>>,
    /// The pending writes whose version can be compared, in their order.
    by_version: BTreeSet<(Ordered, Key)>,
    gone: HashSet<String>,
    /// Each with the number of writes that had entered, oldest first.
    gone_in_order: VecDeque<(u64, String)>,
    entered: u64,
}

impl<K> Default for Overlay<K> {
    fn default() -> Self {
        Self {
            pending: HashMap::new(),
            by_version: BTreeSet::new(),
            gone: HashSet::new(),
            gone_in_order: VecDeque::new(),
            entered: 0,
        }
    }
}

impl<K: Resource> Overlay<K> {
    /// Enters a write that left an object of this version. False when it adds nothing: the watch is already past
    /// it, or a later own write is here.
    pub(crate) fn wrote(
        &mut self,
        key: &Key,
        uid: Option<&str>,
        version: Version,
        object: Option<Held<K>>,
        revision: Option<&Version>,
    ) -> bool {
        if revision.is_some_and(|revision| revision.reaches(&version)) {
            return false;
        }
        if let Some(earlier) = self.pending.get(key)
            && earlier.version.compare(&version) == Some(Ordering::Greater)
        {
            return false;
        }
        self.forget(key);
        self.entered += 1;
        if let Some(ordered) = Ordered::of(&version) {
            self.by_version.insert((ordered, key.clone()));
        }
        let pending = Pending { uid: uid.map(str::to_owned), version, number: self.entered, object };
        self.pending.insert(key.clone(), pending);
        true
    }

    /// Enters that the object with this uid exists no more.
    pub(crate) fn deleted(&mut self, key: &Key, uid: &str) {
        self.entered += 1;
        if self.pending.get(key).is_some_and(|pending| pending.uid.as_deref() == Some(uid)) {
            self.forget(key);
        }
        if self.gone.insert(uid.to_owned()) {
            self.gone_in_order.push_back((self.entered, uid.to_owned()));
        }
        if self.gone_in_order.len() > REMEMBERED_DELETIONS
            && let Some((_, oldest)) = self.gone_in_order.pop_front()
        {
            self.gone.remove(&oldest);
        }
    }

    /// The watch showed this very version of the object.
    pub(crate) fn saw(&mut self, key: &Key, uid: Option<&str>, version: Option<&str>) {
        let same =
            |pending: &Pending<K>| pending.uid.as_deref() == uid && Some(pending.version.as_str()) == version;
        if self.pending.get(key).is_some_and(same) {
            self.forget(key);
        }
    }

    /// The watch reported, at `version`, that the object with this uid is gone or left the query.
    pub(crate) fn saw_deletion(&mut self, key: &Key, uid: Option<&str>, version: Option<&str>) {
        // An object that left the query may have come back by an own write since.
        let superseded = |pending: &Pending<K>| {
            let later = version.and_then(|version| pending.version.compare(&version.into()));
            pending.uid.as_deref() == uid && later != Some(Ordering::Greater)
        };
        if self.pending.get(key).is_some_and(superseded) {
            self.forget(key);
        }
        // The deletion itself stays remembered: an object that left the query and came back was deleted later
        // than what the watch is at.
    }

    /// The watch is complete up to `revision`; answers the keys whose own write is superseded.
    pub(crate) fn caught_up(&mut self, revision: &Version) -> Vec<Key> {
        let Some(reached) = Ordered::of(revision) else { return Vec::new() };
        let mut done = Vec::new();
        while let Some((version, _)) = self.by_version.first()
            && *version <= reached
        {
            if let Some((_, key)) = self.by_version.pop_first() {
                self.pending.remove(&key);
                done.push(key);
            }
        }
        done
    }

    /// A list that began when [`Overlay::entered`] was `began` is complete: quorum reads contain every write
    /// that returned before they began.
    pub(crate) fn listed(&mut self, began: u64) {
        let done: Vec<Key> = self
            .pending
            .iter()
            .filter(|(_, pending)| pending.number <= began)
            .map(|(key, _)| key.clone())
            .collect();
        for key in &done {
            self.forget(key);
        }
        while let Some((number, _)) = self.gone_in_order.front()
            && *number <= began
        {
            if let Some((_, uid)) = self.gone_in_order.pop_front() {
                self.gone.remove(&uid);
            }
        }
    }

    /// How many writes have entered so far.
    pub(crate) fn entered(&self) -> u64 {
        self.entered
    }

    /// How many own writes are ahead of the watch.
    pub(crate) fn len(&self) -> usize {
        self.pending.len()
    }

    /// The keys with an own write ahead of the watch.
    pub(crate) fn keys(&self) -> impl Iterator<Item = &Key> {
        self.pending.keys()
    }

    /// What a snapshot shows under `key` when the watch shows `watched`.
    pub(crate) fn show(&self, key: &Key, watched: Option<&Held<K>>) -> Option<Held<K>> {
        let shown = match self.pending.get(key) {
            Some(pending) => pending.object.as_ref(),
            None => watched,
        }?;
        let gone = shown.uid().is_some_and(|uid| self.gone.contains(uid));
        (!gone).then(|| shown.clone())
    }

    fn forget(&mut self, key: &Key) {
        if let Some(pending) = self.pending.remove(key)
            && let Some(ordered) = Ordered::of(&pending.version)
        {
            self.by_version.remove(&(ordered, key.clone()));
        }
    }
}

/// A version that can be compared, as a sort key.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
struct Ordered(usize, String);

impl Ordered {
    fn of(version: &Version) -> Option<Self> {
        version.decimal().map(|text| Self(text.len(), text.to_owned()))
    }
}
