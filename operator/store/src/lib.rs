//! Typed in-memory tables with snapshots, transactions, indexes, watches and change iterators.
//!
//! Expected flow:
//!
//! ```text
//! Store::write ──▶ WriteTxn: put, put_if, remove, complete ──▶ commit ──▶ swap ──▶ unlock ──▶ wake
//!                                                                          │
//! Reader::snapshot ◀───────────── one atomic load ─────────────────────────┘
//! ```
//!
//! Guarantees: a reader sees whole transactions only and never blocks; a row carries the revision of the transaction that
//! wrote it, and is in memory once; a row equal to the stored one is not written; whoever is woken sees what woke it, and
//! is woken by what concerns it only; a change iterator sees every key that was written or removed since its last poll.
//! Assumptions: rows are values; nobody changes them behind a shared pointer.
//! What it does not do: know what rows mean, validate beyond unique indexes, persist, or keep history beyond the
//! snapshots and iterators that somebody holds. No clock, no task, no runtime.
//!
//! | module | |
//! | --- | --- |
//! | [`Row`], [`Stored`], [`Column`] | a row, and what people see of it |
//! | [`Index`], [`Table`] | secondary keys; queries |
//! | [`tables!`] | the one declaration of all tables of a crate |
//! | [`Store`], [`Reader`], [`Snapshot`], [`WriteTxn`] | the current tables, for writers and for readers |
//! | [`Watch`], [`Changes`] | waiting, and what changed |
//! | [`Initializer`], [`Sources`] | who must have listed before absence means anything |
//! | [`Listing`], [`Query`] | rows as text and JSON, by table name |
//! | [`Name`], [`NameId`] | interned texts, and their numbers in keys |
//!
//! ```
//! use epic_store::{Column, Index, Name, NameId, NonUnique, Query, Row, Schema, Since, Store, Unique, Watched, tables, text};
//!
//! #[derive(Debug, PartialEq, Eq)]
//! struct Service { name: Name, port: u16, node: Name }
//!
//! struct ByPort;
//! impl Index<Service> for ByPort {
//!     type Of = u16;
//!     type Kind = Unique;
//!     const NAME: &'static str = "port";
//!     fn of(row: &Service) -> impl IntoIterator<Item = u16> {
//!         [row.port]
//!     }
//! }
//!
//! struct ByNode;
//! impl Index<Service> for ByNode {
//!     type Of = NameId;
//!     type Kind = NonUnique;
//!     const NAME: &'static str = "node";
//!     fn of(row: &Service) -> impl IntoIterator<Item = NameId> {
//!         [row.node.id()]
//!     }
//! }
//!
//! impl Row for Service {
//!     type Key = NameId;
//!     type Indexes = (ByPort, ByNode);
//!     fn key(&self) -> NameId {
//!         self.name.id()
//!     }
//!     fn columns() -> &'static [Column<Self>] {
//!         const { &[Column::new("name", |row| text(&row.name)), Column::new("port", |row| row.port.into())] }
//!     }
//! }
//!
//! tables! {
//!     /// Everything there is.
//!     pub Tables {
//!         /// What is served.
//!         services: Service,
//!     }
//! }
//!
//! let store = Store::<Tables>::new();
//! let listed = store.register_initializer("file");
//! let (web, api, node) = (Name::new("web"), Name::new("api"), Name::new("n1"));
//! let watch = store.watch::<Service>(Watched::Key(web.id()));
//! let mut changes = store.changes::<Service>(Since::Start);
//!
//! let mut txn = store.write();
//! txn.try_put(Service { name: web.clone(), port: 80, node: node.clone() })?;
//! let refused = txn.try_put(Service { name: api.clone(), port: 80, node: node.clone() }).unwrap_err();
//! assert_eq!(refused.to_string(), "port 80 belongs to web; api can have it once web leaves it");
//! txn.complete(&listed);
//! let revision = txn.commit();
//!
//! let snapshot = store.snapshot();
//! assert!(snapshot.initialized() && watch.has_changed());
//! assert_eq!(snapshot.services.one(ByPort, 80).map(|row| row.revision), Some(revision));
//! assert_eq!(snapshot.services.by(ByNode, node.id()).count(), 1);
//! assert_eq!(changes.poll().iter().count(), 1);
//! let table: TableId = "services".parse()?;
//! assert_eq!(snapshot.listing_of(table, Query::Prefix("we")).to_string(), "NAME  PORT\nweb   80\n");
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod changes;
mod column;
mod conflict;
mod edit;
mod index;
mod initializer;
mod listing;
mod name;
mod probe;
mod reader;
mod row;
mod schema;
mod snapshot;
mod sources;
mod store;
mod table;
mod tables;
mod txn;
mod watch;

pub use changes::{Change, Changes, Delta, Since};
pub use column::{Column, list, optional, text};
pub use conflict::Conflict;
pub use index::{Contains, Index, IndexSet, Indexes, Kind, NeverRefuses, NonUnique, Unique};
pub use initializer::Initializer;
pub use listing::{Line, ListedChange, Listing, Query, natural};
pub use name::{Name, NameId};
pub use reader::Reader;
pub use row::{Row, StartsWith, Stored};
pub use schema::{Holds, Schema, UnknownTable};
pub use snapshot::{Pending, Snapshot};
pub use sources::Sources;
pub use store::Store;
pub use table::Table;
pub use txn::WriteTxn;
#[doc(hidden)]
pub use watch::Waiters;
pub use watch::{Watch, Watched};
