//! One table: rows by primary key, an index by group, and the revision of its last change.

use std::fmt::{self, Debug};
use std::ops::RangeBounds;
use std::sync::Arc;

use imbl::{OrdMap, OrdSet};

use super::snapshot::Snapshot;
use super::status::{Status, StatusKind};

/// The tables, by name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum TableId {
    /// LoadBalancers.
    Services,
    /// Public addresses and ports.
    Frontends,
    /// Endpoints (operator) or proxies (agent) of services.
    Backends,
    /// Tunnels of this node.
    Tunnels,
    /// Proxy pods.
    Proxies,
    /// What proxies dial.
    Aliases,
    /// What proxies reach without a tunnel.
    Passes,
    /// EPIC nodes.
    Nodes,
}

impl TableId {
    pub(crate) const COUNT: usize = 8;

    /// All tables, in the order in which [`crate::debug_dump`] prints them.
    pub const ALL: [TableId; TableId::COUNT] = [
        TableId::Services,
        TableId::Frontends,
        TableId::Backends,
        TableId::Tunnels,
        TableId::Proxies,
        TableId::Aliases,
        TableId::Passes,
        TableId::Nodes,
    ];

    pub(crate) fn index(self) -> usize {
        self as usize
    }
}

impl fmt::Display for TableId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            TableId::Services => "services",
            TableId::Frontends => "frontends",
            TableId::Backends => "backends",
            TableId::Tunnels => "tunnels",
            TableId::Proxies => "proxies",
            TableId::Aliases => "aliases",
            TableId::Passes => "passes",
            TableId::Nodes => "nodes",
        })
    }
}

/// What may be a row.
pub trait Row: Clone + PartialEq + Debug + Send + Sync + 'static {
    /// Primary key.
    type Key: Ord + Clone + Debug + Send + Sync + 'static;
    /// What the secondary, non-unique index groups by.
    type Group: Ord + Clone + Debug + Send + Sync + 'static;

    /// Primary key of this row.
    fn key(&self) -> Self::Key;
    /// Group of this row.
    fn group(&self) -> Self::Group;
    /// Which table holds such rows.
    fn table_id() -> TableId;
    /// That table in a snapshot.
    fn table(snapshot: &Snapshot) -> &Table<Self>;
}

/// A row as the table holds it.
#[derive(Clone, Debug)]
pub struct Entry<R> {
    /// The row.
    pub row: Arc<R>,
    /// Revision of the transaction that wrote it.
    pub revision: u64,
    /// Reconciliation status. Writing it changes neither the revision nor what change iterators see.
    pub status: Status,
}

/// Entries are equal if one write made both.
impl<R> PartialEq for Entry<R> {
    fn eq(&self, other: &Self) -> bool {
        self.revision == other.revision && Arc::ptr_eq(&self.row, &other.row)
    }
}

/// An immutable table. Cloning is cheap and shares structure.
#[derive(Clone, Debug)]
pub struct Table<R: Row> {
    rows: OrdMap<R::Key, Entry<R>>,
    /// `Some` always; `None` is where a group begins in a range.
    groups: OrdSet<(R::Group, Option<R::Key>)>,
    revision: u64,
}

impl<R: Row> Default for Table<R> {
    fn default() -> Self {
        Self { rows: OrdMap::new(), groups: OrdSet::new(), revision: 0 }
    }
}

impl<R: Row> Table<R> {
    /// The row of this key.
    pub fn get(&self, key: &R::Key) -> Option<&Arc<R>> {
        self.rows.get(key).map(|e| &e.row)
    }

    /// The row with revision and status.
    pub fn entry(&self, key: &R::Key) -> Option<&Entry<R>> {
        self.rows.get(key)
    }

    /// All rows, by key.
    pub fn iter(&self) -> impl Iterator<Item = &Arc<R>> + use<'_, R> {
        self.rows.values().map(|e| &e.row)
    }

    /// All rows with revision and status, by key.
    pub fn entries(&self) -> impl Iterator<Item = (&R::Key, &Entry<R>)> {
        self.rows.iter()
    }

    /// Rows whose keys lie in a range, by key.
    pub fn range<B: RangeBounds<R::Key>>(&self, range: B) -> impl Iterator<Item = &Arc<R>> + use<'_, B, R> {
        self.rows.range(range).map(|(_, e)| &e.row)
    }

    /// Rows of one group, by key.
    pub fn group(&self, group: &R::Group) -> impl Iterator<Item = &Arc<R>> + use<'_, R> {
        let group = group.clone();
        self.groups
            .range((group.clone(), None)..)
            .take_while(move |(g, _)| *g == group)
            .filter_map(|(_, key)| self.get(key.as_ref()?))
    }

    /// Number of rows.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Whether there is no row.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// Revision of the last transaction that changed a row here.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    pub(super) fn rows(&self) -> &OrdMap<R::Key, Entry<R>> {
        &self.rows
    }

    /// Writes a row; the caller has seen that it differs from the stored one.
    pub(crate) fn put(&mut self, row: R, revision: u64, status_id: u64) {
        let key = row.key();
        let group = row.group();
        let entry = Entry { row: Arc::new(row), revision, status: Status::pending(status_id) };
        match self.rows.insert(key.clone(), entry) {
            Some(old) if old.row.group() == group => {}
            old => {
                if let Some(old) = old {
                    self.groups.remove(&(old.row.group(), Some(key.clone())));
                }
                self.groups.insert((group, Some(key)));
            }
        }
        self.revision = revision;
    }

    pub(crate) fn remove(&mut self, key: &R::Key, revision: u64) -> Option<Arc<R>> {
        let old = self.rows.remove(key)?.row;
        self.groups.remove(&(old.group(), Some(key.clone())));
        self.revision = revision;
        Some(old)
    }

    /// Records an outcome if the row still has the status id it was read with.
    pub(crate) fn record(&mut self, key: &R::Key, id: u64, kind: StatusKind) {
        let differs = self.rows.get(key).is_some_and(|e| e.status.id == id && e.status.kind != kind);
        // Getting it to write copies what snapshots share.
        if differs && let Some(entry) = self.rows.get_mut(key) {
            entry.status.kind = kind;
        }
    }
}
