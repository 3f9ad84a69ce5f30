//! What the maps should hold, revision by revision: rendered whole, without an engine.

use std::collections::{BTreeMap, BTreeSet};

use epic_reconciler::Render;
use epic_store::{Row, Snapshot};

use crate::support::ToyProgress;
use crate::toy::{Key, LENT, Renderer, RowId, Tables, Value};

pub(crate) type Content = BTreeMap<Key, Value>;
type ByRow = BTreeMap<Key, (Value, RowId)>;

/// Every row there is.
pub(crate) fn rows(snapshot: &Snapshot<Tables>) -> Vec<RowId> {
    let services = snapshot.services.iter().map(|row| RowId::Service(row.key()));
    let frontends = snapshot.frontends.iter().map(|row| RowId::Frontend(row.key()));
    let backends = snapshot.backends.iter().map(|row| RowId::Backend(row.key()));
    let nodes = snapshot.nodes.iter().map(|row| RowId::Node(row.key()));
    services.chain(frontends).chain(backends).chain(nodes).collect()
}

/// What the maps should hold.
pub(crate) fn desired(snapshot: &Snapshot<Tables>) -> Content {
    by_row(snapshot).into_iter().map(|(key, (value, _))| (key, value)).collect()
}

/// What the maps should hold, and for which row.
fn by_row(snapshot: &Snapshot<Tables>) -> ByRow {
    let mut renderer = Renderer::default();
    let mut content = BTreeMap::new();
    for row in rows(snapshot) {
        let mut out = Vec::new();
        if renderer.render(snapshot, row, &mut out).is_ok() {
            for (key, value) in out {
                let other = content.insert(key, (value, row));
                assert!(other.is_none(), "two rows want {key}");
            }
        }
    }
    content
}

/// Whose an entry is: a service, or the node.
pub(crate) fn scope_of(value: &Value) -> Option<u32> {
    match *value {
        Value::Node(value) => Some(value).filter(|value| *value >= LENT),
        Value::Backend { service, .. }
        | Value::Slot { service, .. }
        | Value::RevNat { service }
        | Value::Frontend { service, .. } => Some(service),
    }
}

fn scope_of_row(row: RowId) -> Option<u32> {
    match row {
        RowId::Service(id) => Some(id),
        RowId::Frontend(key) => Some(key.service),
        RowId::Backend(key) => Some(key.service),
        RowId::Node(_) => None,
    }
}

/// What should have been held at each revision.
#[derive(Default)]
pub(crate) struct History {
    revisions: Vec<(u64, ByRow)>,
    /// What this run of the engine found, as far as it has not written it.
    pub(crate) inherited: Content,
}

impl History {
    pub(crate) fn note(&mut self, snapshot: &Snapshot<Tables>) {
        if self.revisions.last().is_none_or(|(revision, _)| *revision < snapshot.revision()) {
            self.revisions.push((snapshot.revision(), by_row(snapshot)));
        }
    }

    /// An engine starts with these maps. What no row ever wanted of that counts as absent: nobody waits for it to go.
    pub(crate) fn begin(&mut self, held: Content) {
        self.inherited = held;
    }

    /// Whatever revision progress says to be covered, over all or for a scope: the maps must hold what was wanted then
    /// or later.
    pub(crate) fn check(&mut self, progress: &ToyProgress, held: &Content, scopes: &[u32]) {
        self.inherited.retain(|key, value| held.get(key) == Some(value));
        for (at, (revision, _)) in self.revisions.iter().enumerate() {
            let later: Vec<&ByRow> = self.revisions[at..].iter().map(|(_, content)| content).collect();
            let keys: BTreeSet<Key> =
                later.iter().flat_map(|c| c.keys()).chain(held.keys()).copied().collect();
            let found = |key: &Key| held.get(key).filter(|_| !self.inherited.contains_key(key));
            // The row that wanted it at this revision and ever since.
            let claimant = |key: &Key| {
                let row = later[0].get(key).map(|(_, row)| *row);
                row.filter(|row| later.iter().all(|content| content.get(key).is_some_and(|(_, r)| r == row)))
            };
            let wanted = |key: &Key, value: &Value| {
                later.iter().any(|content| content.get(key).is_some_and(|(wanted, _)| wanted == value))
            };
            let is_right = |key: &Key| {
                held.get(key).is_some_and(|value| wanted(key, value))
                    || (found(key).is_none() && claimant(key).is_none())
            };
            let wrong: Vec<Key> = keys.into_iter().filter(|key| !is_right(key)).collect();
            if progress.covers(*revision) {
                assert!(
                    wrong.is_empty(),
                    "{revision} is not covered: {wrong:?}; {progress:?}, {held:?}, {:?}",
                    self.revisions
                );
            }
            let concerns = |key: &Key, scope: Option<u32>| {
                claimant(key).is_some_and(|row| scope_of_row(row) == scope)
                    || found(key).is_some_and(|value| scope_of(value) == scope)
            };
            for scope in scopes {
                if progress.covers_scope(*scope, *revision) {
                    let wrong: Vec<&Key> = wrong.iter().filter(|key| concerns(key, Some(*scope))).collect();
                    assert!(
                        wrong.is_empty(),
                        "{revision} of {scope} is not covered: {wrong:?}; {progress:?} {held:?}, {:?}",
                        self.revisions
                    );
                }
            }
            if progress.covers_node(*revision) {
                assert!(
                    !wrong.iter().any(|key| concerns(key, None)),
                    "{revision} of the node is not covered"
                );
            }
        }
    }
}
