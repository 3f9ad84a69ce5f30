//! Makes maps hold what tables say: an engine for any tables and any layout of maps.
//!
//! Expected flow:
//!
//! ```text
//! tables ──▶ affected rows ──▶ Render ──▶ claims on entries ──▶ batches ──▶ Maps
//!   ▲          small changes    rows        one owner per         in order,
//!   │          go first         to entries  entry                 entry by entry
//!   └──── who waits ◀──── Progress ◀──── rows and scopes that are behind ◀──┘
//! ```
//!
//! [`Reconciler::new`] reads the maps back, [`Reconciler::round`] takes in what changed and writes what differs, a bounded
//! part at a time, and [`run`] calls it on a thread of its own whenever tables change, a retry or a full pass is due.
//!
//! Guarantees:
//! - after any single map write, no entry that is held names one that is not held, or that is not who it expects there
//!   ([`Layout::targets`], [`Layout::identity`]): what is pointed to is written first and removed last, and entry by entry
//!   held back until it may be written. Where two wait for each other, or one that cannot be written keeps another's waiting,
//!   that one is removed and comes back when it can;
//! - of rows that want different values of one entry, one decides for as long as it wants it; the others are in error;
//! - an entry that already holds what is wanted is not written; the cost of a change follows the change;
//! - a small change overtakes great ones; no scope waits because another fails;
//! - nothing is removed before the initializers have completed of all sources that it may be of, and a removal of more than
//!   half of all other entries waits until somebody confirmed just that set, alone ([`Ask`]);
//! - a crash after any write, followed by a restart, ends in the same maps as a run without it;
//! - [`Progress::covers`] is true only if the maps hold every change up to that revision.
//!
//! Assumptions: nobody else writes these maps, or a full pass finds it; a map operation that fails left the entry as it
//! was; rendering the same snapshot again gives the same entries; digests of different values differ.
//! What it does not do: know what rows and entries mean, keep values (they are rendered again when needed), or write
//! anything to the tables: how a row stands is derived from [`Progress`].
//!
//! | module | |
//! | --- | --- |
//! | [`Layout`], [`digest_of`] | what the maps are |
//! | [`Render`], [`Unready`] | what rows become in them |
//! | [`Maps`], [`Op`], [`MapError`] | reading and writing them |
//! | [`FakeMaps`], [`FaultyMaps`], [`SharedMaps`] | maps in memory, maps that fail, maps that others look into |
//! | [`Reconciler`], [`Round`], [`Ask`] | the engine, one round at a time |
//! | [`Progress`], [`Status`], [`Health`] | how far it is |
//! | [`run`], [`Handle`], [`ConfirmPrune`] | the engine on a thread |
//! | [`Settings`], [`Budget`], [`Backoff`] | what can be tuned |
//!
//! ```
//! use std::num::NonZeroU64;
//! use std::time::Instant;
//!
//! use epic_reconciler::{
//!     Budget, FakeMaps, Layout, Reconciler, Render, Settings, Status, Unready, digest_of,
//! };
//! use epic_store::{Column, Row, Schema, Snapshot, Store, tables};
//!
//! #[derive(Debug, PartialEq, Eq)]
//! struct Service { port: u16, backend: u32 }
//!
//! impl Row for Service {
//!     type Key = u16;
//!     type Indexes = ();
//!     fn key(&self) -> u16 {
//!         self.port
//!     }
//!     fn columns() -> &'static [Column<Self>] {
//!         const { &[Column::new("port", |row| row.port.into())] }
//!     }
//! }
//!
//! tables! { Tables { services: Service } }
//!
//! /// Backends by number in map 0; in map 1 ports, which point to them. Keys are (map, number).
//! #[derive(Debug)]
//! struct Balancer;
//!
//! #[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
//! struct Key(usize, u32);
//!
//! impl std::fmt::Display for Key {
//!     fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
//!         write!(f, "{}[{}]", Balancer::MAPS[self.0], self.1)
//!     }
//! }
//!
//! impl Layout for Balancer {
//!     type Key = Key;
//!     type Value = u32;
//!     const MAPS: &'static [&'static str] = &["backends", "ports"];
//!     fn map(key: &Key) -> usize {
//!         key.0
//!     }
//!     fn digest(_: &Key, value: &u32) -> NonZeroU64 {
//!         digest_of(value)
//!     }
//!     fn targets(key: &Key, value: &u32, each: &mut dyn FnMut(Key, u32)) {
//!         if key.0 == 1 {
//!             each(Key(0, *value), 0);
//!         }
//!     }
//!     fn identity(_: &Key, _: &u32) -> u32 {
//!         0
//!     }
//! }
//!
//! struct Ports;
//!
//! impl Render<Balancer> for Ports {
//!     type Tables = Tables;
//!     type Scope = u16;
//!     fn affected(&self, before: &Snapshot<Tables>, now: &Snapshot<Tables>, each: &mut dyn FnMut(RowId)) {
//!         now.changed_rows(before, each);
//!     }
//!     fn scope(&self, _: &Snapshot<Tables>, RowId::Service(port): RowId) -> Option<u16> {
//!         Some(port)
//!     }
//!     fn render(
//!         &mut self,
//!         now: &Snapshot<Tables>,
//!         RowId::Service(port): RowId,
//!         out: &mut Vec<(Key, u32)>,
//!     ) -> Result<(), Unready> {
//!         let Some(service) = now.services.get(port) else { return Ok(()) };
//!         if service.backend == 0 {
//!             return Err(Unready(format!("port {port} has no backend yet")));
//!         }
//!         out.extend([(Key(0, service.backend), 1), (Key(1, port.into()), service.backend)]);
//!         Ok(())
//!     }
//! }
//!
//! let store = Store::<Tables>::new();
//! let mut maps = FakeMaps::<Balancer>::new();
//! maps.set_room(1, 1);
//! let mut reconciler = Reconciler::new(store.reader(), maps, Ports, Settings::default())?;
//!
//! let mut txn = store.write();
//! txn.put(Service { port: 80, backend: 7 });
//! txn.put(Service { port: 81, backend: 0 });
//! txn.put(Service { port: 443, backend: 7 });
//! let revision = txn.commit();
//! reconciler.round(Instant::now(), Budget::default());
//!
//! assert_eq!(reconciler.maps().content().count(), 2);
//! let progress = reconciler.progress();
//! assert!(!progress.covers(revision) && progress.covers_scope(80, revision));
//! assert_eq!(progress.status(RowId::Service(80), revision), Status::Done);
//! assert_eq!(
//!     progress.health.to_string(),
//!     "degraded, 2 entries; services 81: port 81 has no backend yet; services 443: ports[443]: the map is full"
//! );
//! # Ok::<(), Box<dyn std::error::Error>>(())
//! ```

mod backoff;
mod engine;
#[cfg(feature = "flags")]
mod flags;
mod graph;
mod lag;
mod lanes;
mod layout;
mod maps;
mod progress;
mod random;
mod render;
mod run;
mod settings;
mod slab;

pub use backoff::Backoff;
pub use engine::{Ask, Footprint, Reconciler, Round};
#[cfg(feature = "flags")]
pub use flags::Flags;
pub use layout::{Layout, digest_of};
pub use maps::{Dangling, FakeMaps, Faults, FaultyMaps, MapError, Maps, Op, SharedMaps};
pub use progress::{Behind, Errors, Failing, Health, NamedError, Progress, Status};
pub use render::{Render, RowId, Unready};
pub use run::{ConfirmPrune, Handle, Running, Started, run};
pub use settings::{Budget, Settings};
