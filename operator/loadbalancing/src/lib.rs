//! Load-balancing tables, their Writer, selection, and what their rows become in EPIC's maps.
//!
//! Expected flow:
//!
//! ```text
//! source ──▶ Writer (one transaction) ──▶ Tables ──▶ observers (xDS, health, status)
//!                                            └─────▶ epic_reconciler: Render ──▶ Maps (BPF, fake, faulty)
//! ```
//!
//! Guarantees: readers see whole transactions and never block; an address has one service, whatever the order in which
//! they came; no row of one service becomes an entry of another.
//! What it does not do: read Kubernetes, load programs, decide what the rows should be, or write maps
//! ([`epic_reconciler`] does, for any layout).
//!
//! | module | |
//! | --- | --- |
//! | [`rows`] | the rows: plain values |
//! | [`tables`] | all tables, declared once, on [`epic_store`] |
//! | [`writer`] | the only way into the tables |
//! | [`selection`], [`maglev`] | which backends a frontend uses, and which of them a new flow |
//! | [`maps`] | EPIC's map entries as values, and their text form |
//! | [`render`] | what a row becomes in the maps of an EPIC node or of a client node |
//!
//! The operator needs tables and Writer only. An agent does it all:
//!
//! ```
//! use epic_lb::render::NodeSide;
//! use epic_lb::*;
//! use epic_reconciler::{Reconciler, Settings, run};
//! use tokio::sync::watch;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let writer = Writer::new();
//! // Nothing is pruned before this source has listed.
//! let listed = writer.register_initializer("load-balancers");
//!
//! // What is pinned is read back here; `FakeMaps` stands for the BPF maps.
//! let side = NodeSide::new("node1", /* seed of Maglev tables */ 7);
//! let reconciler = Reconciler::new(writer.reader(), FakeMaps::new(), side, Settings::default())?;
//! let (_stop, stopped) = watch::channel(false);
//! let confirm = |_: Ask| true; // an agent lists at the API server again
//! let (mut handle, _running) = run(reconciler, confirm, stopped)?;
//!
//! // One coherent snapshot of custom resources becomes one transaction.
//! let name = ServiceName::new("epic-acme", "web");
//! let service = Service::new(name.clone(), "uid").granted(GroupId::new(1)?, ServiceId::new(1)?);
//! let vip = FrontendKey::new("192.0.2.7".parse()?, 80, Protocol::Tcp);
//! let mut txn = writer.write();
//! txn.retain_services(|known| *known == name);
//! txn.upsert_service_and_frontends(
//!     Service { keys: Some(ServiceKeys { data: [DataKey([1; 16]); 3], node: None }.into()), ..service },
//!     vec![Frontend { announced: true, ..Frontend::proxied(vip, name.clone(), 0) }],
//! )?;
//! let proxy = Backend::proxy(name.clone(), "100.64.0.1".parse()?, ProxyId::new(1)?);
//! txn.set_backends(&name, [proxy]);
//! txn.complete(&listed);
//! let revision = txn.commit();
//!
//! // Everything of that service is in the maps, whatever fails of others: what the agent may report.
//! let progress = handle.wait_until_scope_reconciled(name.id(), revision).await;
//! assert!(progress.covers_scope(name.id(), revision), "{}", progress.health);
//! # Ok(())
//! # }
//! ```

pub mod maglev;
pub mod maps;
pub mod render;
pub mod rows;
pub mod selection;
pub mod tables;
pub mod writer;

pub use epic_model::edge::Edge;
pub use epic_model::id::{EndpointId, GroupId, ProxyId, ServiceId, TunnelId};
pub use epic_store::{Initializer, Name};
pub use maps::{EpicLayout, FakeMaps, MapId, MapKey, MapValue};
pub use rows::{
    Address, Alias, AliasKey, Backend, BackendKey, BackendKind, BackendState, DataKey, EndpointObject,
    EpicNode, Forwarding, Frontend, FrontendKey, FrontendKind, LbPolicy, Link, Locality, Pass, PassKey,
    Place, Protocol, Proxy, ProxyState, Redirect, RedirectWhen, Scope, Service, ServiceIds, ServiceKey,
    ServiceKeys, ServiceName, ServiceRef, Since, Source, TargetPort, Traffic, Tunnel, Verdict, Veth, Wish,
};
pub use selection::{Explained, Here, Location, Reason, Role, Selected, Selection};
pub use tables::{Reader, RowId, Snapshot, TableId, Tables};
pub use writer::{Claimed, WriteError, WriteTxn, Writer};

/// How far the maps are, see [`epic_reconciler::Progress`].
pub type Progress = epic_reconciler::Progress<RowId, ServiceRef>;

/// A running reconciler, see [`epic_reconciler::Handle`].
pub type Handle = epic_reconciler::Handle<RowId, ServiceRef>;

/// Entries that are to go, see [`epic_reconciler::Ask`].
pub type Ask = epic_reconciler::Ask<MapKey>;
