//! What the allocators could not give, for the controllers that tell the owner.
//!
//! A verdict is not state: it follows from objects and is made anew by every round. It lives in memory so that a
//! refused child is told why in its own condition, by its own controller.

use std::collections::{BTreeMap, BTreeSet};

use epic_model::id::{ObjectVersion, Uid};
use kates::Key;
use parking_lot::Mutex;
use tokio::sync::broadcast;

/// Why a child waits for a value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Verdict {
    /// Whether the value it holds belongs to somebody else, too.
    pub duplicate: bool,
    /// Whether nothing is left to hand out.
    pub exhausted: bool,
    /// Whether the service ID that it asks for is somebody else's.
    pub taken: bool,
    /// For people.
    pub message: String,
}

/// The verdicts of a parent's latest round, by the child.
type Round = BTreeMap<Uid, (Key, Verdict)>;

/// The verdicts of all parents' latest rounds.
#[derive(Debug)]
pub struct Verdicts {
    by_parent: Mutex<BTreeMap<Uid, Round>>,
    changed: broadcast::Sender<Key>,
}

impl Default for Verdicts {
    fn default() -> Self {
        let (changed, _) = broadcast::channel(4_096);
        Self { by_parent: Mutex::default(), changed }
    }
}

impl Verdicts {
    /// Why the child with this uid waits, if it does.
    pub fn of(&self, child: &str) -> Option<Verdict> {
        let child = Uid::from(child);
        let by_parent = self.by_parent.lock();
        by_parent.values().find_map(|children| children.get(&child)).map(|(_, verdict)| verdict.clone())
    }

    /// How many children of this parent wait, and why the first of them does.
    pub fn by(&self, parent: &str) -> Option<(usize, Verdict)> {
        let by_parent = self.by_parent.lock();
        let children = by_parent.get(&Uid::from(parent))?;
        children.values().next().map(|(_, verdict)| (children.len(), verdict.clone()))
    }

    /// Keys of children whose verdict changed, of whatever kind.
    pub fn changes(&self) -> broadcast::Receiver<Key> {
        self.changed.subscribe()
    }

    /// Replaces what `parent`'s rounds said. A child with several refusals keeps the first.
    pub fn publish(&self, parent: &Uid, verdicts: impl IntoIterator<Item = (ObjectVersion, Verdict)>) {
        let mut fresh: BTreeMap<Uid, (Key, Verdict)> = BTreeMap::new();
        for (object, verdict) in verdicts {
            let key = Key::namespaced(object.namespace.as_str(), object.name.as_str());
            fresh.entry(object.uid).or_insert((key, verdict));
        }
        let before = self.by_parent.lock().insert(parent.clone(), fresh.clone()).unwrap_or_default();
        let differs = |uid: &&Uid| before.get(*uid) != fresh.get(*uid);
        for uid in before.keys().chain(fresh.keys()).filter(differs) {
            if let Some((key, _)) = fresh.get(uid).or_else(|| before.get(uid)) {
                // Nobody listening is no error.
                let _ = self.changed.send(key.clone());
            }
        }
    }

    /// Takes back what parents said that are gone, or count no more: nobody else will.
    pub fn forget_all_but(&self, parents: &BTreeSet<Uid>) {
        let gone: Vec<Uid> =
            self.by_parent.lock().keys().filter(|parent| !parents.contains(*parent)).cloned().collect();
        for parent in gone {
            self.publish(&parent, []);
            self.by_parent.lock().remove(&parent);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use epic_model::id::Kind;

    fn object(uid: &str) -> ObjectVersion {
        ObjectVersion {
            kind: Kind::LoadBalancer,
            namespace: "epic-red".into(),
            name: uid.into(),
            uid: uid.into(),
            resource_version: "1".into(),
        }
    }

    #[test]
    fn only_changed_verdicts_are_told() {
        let verdicts = Verdicts::default();
        let mut changes = verdicts.changes();
        let verdict = Verdict { duplicate: false, exhausted: true, taken: false, message: "full".into() };
        let parent = Uid::from("p");
        verdicts.publish(&parent, [(object("a"), verdict.clone())]);
        verdicts.publish(&parent, [(object("a"), verdict.clone())]);
        assert_eq!(changes.try_recv().unwrap().name(), "a");
        assert!(changes.try_recv().is_err());
        assert_eq!(verdicts.of("a"), Some(verdict));
        verdicts.publish(&parent, []);
        assert_eq!(changes.try_recv().unwrap().name(), "a");
        assert_eq!(verdicts.of("a"), None);
    }

    #[test]
    fn a_parent_that_is_gone_leaves_no_verdict_behind() {
        let verdicts = Verdicts::default();
        let refused =
            Verdict { duplicate: false, exhausted: false, taken: false, message: "the parent goes".into() };
        let (gone, there) = (Uid::from("gone"), Uid::from("there"));
        verdicts.publish(&gone, [(object("a"), refused.clone())]);
        verdicts.publish(&there, [(object("b"), refused.clone())]);
        let mut changes = verdicts.changes();
        verdicts.forget_all_but(&BTreeSet::from([there]));
        assert_eq!((verdicts.of("a"), verdicts.of("b")), (None, Some(refused)));
        assert_eq!(changes.try_recv().unwrap().name(), "a", "its controller is told");
    }
}
