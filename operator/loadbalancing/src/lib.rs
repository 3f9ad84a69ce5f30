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

pub mod maglev;
pub mod maps;
pub mod reconciler;
pub mod render;
pub mod rows;
pub mod selection;
pub mod store;
pub mod writer;

pub use epic_model::id::{EndpointId, GroupId, ProxyId, ServiceId, TunnelId};
pub use maps::{FakeMaps, Faults, FaultyMaps, LbMaps, MapError, MapId, MapKey, MapValue};
pub use rows::{
    Alias, AliasKey, Backend, BackendKey, BackendState, DataKey, EpicNode, Frontend, FrontendKey,
    FrontendParams, FrontendType, LbPolicy, Link, Pass, PassKey, Protocol, Proxy, ProxyState, Role, Scope,
    Selected, Service, ServiceKeys, ServiceName, Source, TargetPort, Timeouts, Tunnel, Veth,
};
pub use store::{Change, Changes, Entry, Row, Snapshot, Status, StatusKind, Table, TableId, Tables};
pub use writer::{Initializer, RowKey, WriteError, WriteTxn, Writer, debug_dump};
