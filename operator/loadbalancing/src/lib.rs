//! Load-balancing tables, their Writer, selection, and the reconciler that turns them into maps.
//!
//! Expected flow:
//!
//! ```text
//! source ──▶ Writer (one transaction) ──▶ Tables ──▶ observers (xDS, status)
//!                                            └─────▶ Reconciler ──▶ LbMaps (BPF, fake, faulty)
//! ```
//!
//! Guarantees: readers see whole transactions and never block; a row is done only when the maps hold it; at no
//! point between two map writes does an entry name another that is not there.
//! What it does not do: read Kubernetes, load programs, or decide what the rows should be.
//!
//! | module | |
//! | --- | --- |
//! | [`rows`] | the rows: plain values |
//! | [`store`] | tables, snapshots, watches, change iterators |
//! | [`writer`] | the only way into the tables |
//! | [`selection`], [`maglev`] | which backends a frontend uses, and which of them a new flow |
//! | [`render`] | what a row becomes in the maps of an EPIC node or of a client node |
//! | [`reconciler`] | makes the maps hold it |
//! | [`maps`] | the trait behind which the maps are, in memory and faulty forms, the text form |
//!
//! The operator needs tables and Writer only. An agent does it all:
//!
//! ```
//! use std::sync::Arc;
//!
//! use epic_lb::reconciler::{Backoff, Limits, PruneRequest, Reconciler, run};
//! use epic_lb::render::NodeSide;
//! use epic_lb::*;
//! use tokio::sync::watch;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let writer = Writer::new(Tables::new());
//! // Nothing is pruned before this source has listed.
//! let listed = writer.register_initializer("load-balancers");
//!
//! // What is pinned is read back here; `FakeMaps` stands for the BPF maps.
//! let side = NodeSide::new("node1", /* Config::maglev_seed */ 7);
//! let reconciler = Reconciler::new(writer.clone(), FakeMaps::new(), side, Backoff::default())?;
//! let (_stop, stopped) = watch::channel(false);
//! let confirm = |_: PruneRequest| true; // an agent lists at the API server again
//! let (mut handle, _task) =
//!     run(reconciler, Arc::clone(writer.tables()), confirm, Limits::default(), stopped);
//!
//! // One coherent snapshot of custom resources becomes one transaction.
//! let name = ServiceName::new("epic-acme", "web");
//! let service = Service::new(name.clone(), "uid", GroupId::new(1)?, ServiceId::new(1)?);
//! let vip = FrontendKey::new("192.0.2.7".parse()?, 80, Protocol::Tcp);
//! let mut txn = writer.write();
//! txn.retain_services(Source::Resource, &[name.clone()].into());
//! txn.upsert_service_and_frontends(
//!     Service { keys: Some(ServiceKeys { data: [DataKey([1; 16]); 3], node: None }), ..service },
//!     vec![FrontendParams { vip_owner: true, ..FrontendParams::new(vip, name.clone(), 0) }],
//! )?;
//! let proxy = Backend::proxy(name.clone(), "100.64.0.1".parse()?, ProxyId::new(1)?);
//! txn.set_backends(&name, Source::Resource, [proxy]);
//! txn.set_proxies([]);
//! listed.complete(&mut txn);
//! let revision = txn.commit();
//!
//! // Everything of that transaction is in the maps: what the agent may report.
//! let progress = handle.wait_until_reconciled(revision).await;
//! assert!(progress.covers(revision), "{}", progress.health);
//! # Ok(())
//! # }
//! ```

pub mod maglev;
pub mod maps;
pub mod reconciler;
pub mod render;
pub mod rows;
pub mod selection;
pub mod store;
pub mod writer;

pub use epic_model::edge::Edge;
pub use epic_model::id::{EndpointId, GroupId, ProxyId, ServiceId, TunnelId};
pub use maps::{FakeMaps, Faults, FaultyMaps, LbMaps, MapError, MapId, MapKey, MapValue};
pub use rows::{
    Alias, AliasKey, Backend, BackendKey, BackendState, DataKey, EpicNode, Frontend, FrontendKey,
    FrontendParams, FrontendType, LbPolicy, Link, Pass, PassKey, Protocol, Proxy, ProxyState, Role, Scope,
    Selected, Service, ServiceKeys, ServiceName, Source, TargetPort, Tunnel, Veth,
};
pub use store::{Change, Changes, Entry, Row, Snapshot, Status, StatusKind, Table, TableId, Tables};
pub use writer::{Initializer, RowKey, WriteError, WriteTxn, Writer, debug_dump};
