//! Envoy resources from the tables, and the protocol engine that serves them.
//!
//! Expected flow:
//!
//! ```text
//! epic-lb tables ──▶ sync ──▶ resources::build (pure) ──▶ Views ──▶ server (one task a stream) ──▶ Envoy
//!                                                                      │ engine::DeltaSession (pure)
//!                                                     Reports ◀────────┘ what was acknowledged or rejected
//! ```
//!
//! Guarantees: nothing is served before the tables are initialized; a client sees the view of the identity in its
//! certificate and nothing else; unchanged content is never sent again; rejected content is not sent again until it
//! changes; what a proxy acknowledged comes back as a row, never as a call.
//! What it does not do: read Kubernetes, store certificates, or write status.

pub mod bootstrap;
pub mod engine;
pub mod identity;
pub mod metrics;
pub mod pki;
pub mod report;
pub mod resources;
pub mod server;
pub mod sync;
pub mod views;

pub use bootstrap::{Bootstrap, Files};
pub use engine::{EndpointRef, Kind, Revision, View};
pub use identity::{Identity, NodeName};
pub use metrics::Metrics;
pub use report::{Report, Reports};
pub use server::{Credentials, Limits, Server, Tls};
pub use views::Views;
