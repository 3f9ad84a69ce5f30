//! What the tables should hold, in maps of the standard library.

use std::collections::{BTreeMap, BTreeSet};

use epic_store::{Conflict, Row};

use super::steps::Expected;
use crate::support::{Backend, Node, Service};

/// A row and the revision that wrote it.
pub(super) type Written<R> = (R, u64);
/// A row before and after.
pub(super) type Differing<R> = (<R as Row>::Key, Option<Written<R>>, Option<Written<R>>);
/// What a table should hold.
pub(super) type Rows<R> = BTreeMap<<R as Row>::Key, Written<R>>;

#[derive(Clone, Debug, Default, PartialEq)]
pub(super) struct Model {
    pub(super) services: Rows<Service>,
    pub(super) backends: Rows<Backend>,
    pub(super) nodes: Rows<Node>,
    /// Of the three tables.
    pub(super) revisions: [u64; 3],
    pub(super) revision: u64,
    /// Initializers somebody holds, by their number, and names of abandoned ones.
    pub(super) held: BTreeMap<usize, &'static str>,
    pub(super) abandoned: Vec<&'static str>,
}

pub(super) fn put<R: Row + Clone>(rows: &mut Rows<R>, row: &R, revision: u64) -> bool {
    if rows.get(&row.key()).is_some_and(|(stored, _)| stored == row) {
        return false;
    }
    rows.insert(row.key(), (row.clone(), revision));
    true
}

impl Model {
    fn holder_of_id(&self, row: &Service) -> Option<u8> {
        let id = row.id?;
        self.services
            .values()
            .map(|(row, _)| row)
            .find(|r| r.id == Some(id) && r.name != row.name)
            .map(|r| r.name)
    }

    pub(super) fn expect(&self, name: u8, expected: Expected) -> u64 {
        let stored = self.services.get(&name).map_or(0, |(_, revision)| *revision);
        match expected {
            Expected::Stored => stored,
            Expected::Absent => 0,
            Expected::Older => stored.saturating_sub(1),
        }
    }

    /// Whether a service would be refused, for another has its id.
    pub(super) fn refusal(&self, row: &Service) -> Option<Conflict<u8>> {
        if self.services.get(&row.name).is_some_and(|(stored, _)| stored == row) {
            return None;
        }
        let holder = self.holder_of_id(row)?;
        Some(Conflict::Taken { index: "id", of: row.id.unwrap().to_string(), holder, refused: row.name })
    }
}

/// The table of `R` in the model.
pub(super) trait Modelled: Row + Clone {
    fn of(model: &Model) -> &Rows<Self>;
}

impl Modelled for Service {
    fn of(model: &Model) -> &Rows<Self> {
        &model.services
    }
}
impl Modelled for Backend {
    fn of(model: &Model) -> &Rows<Self> {
        &model.backends
    }
}
impl Modelled for Node {
    fn of(model: &Model) -> &Rows<Self> {
        &model.nodes
    }
}

/// Keys of rows that differ, with the row before and after.
pub(super) fn difference<R: Modelled>(before: &Model, after: &Model) -> Vec<Differing<R>> {
    let (before, after) = (R::of(before), R::of(after));
    let keys: BTreeSet<R::Key> = before.keys().chain(after.keys()).copied().collect();
    let differing = keys.into_iter().filter(|key| before.get(key) != after.get(key));
    differing.map(|key| (key, before.get(&key).cloned(), after.get(&key).cloned())).collect()
}
