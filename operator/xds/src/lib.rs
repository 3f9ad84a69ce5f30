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
//! certificate and nothing else; unchanged content is never sent again; rejected content is offered again ever more
//! rarely until it changes; what a proxy acknowledged comes back as a row, never as a call.
//! What it does not do: read Kubernetes, store certificates, or write status.
//!
//! How an operator wires it:
//!
//! ```no_run
//! use std::{net::Ipv4Addr, sync::Arc, time::SystemTime};
//! use epic_xds::{Bootstrap, Credentials, Findings, Identity, Limits, Metrics, Reports, Server, Tls, Views, pki, sync};
//!
//! # async fn run(
//! #     tables: epic_lb::Reader,
//! #     registry: &mut prometheus_client::registry::Registry,
//! #     shutdown: tokio_util::sync::CancellationToken,
//! # ) -> Result<(), Box<dyn std::error::Error>> {
//! // Once for the installation, stored create-only; then per replica, again when `pki::is_fresh` says no.
//! let authority = pki::create_authority(SystemTime::now())?;
//! let server = pki::issue_server(&authority, SystemTime::now())?;
//! let credentials = Credentials {
//!     certificate: server.certificate,
//!     key: server.key,
//!     client_authorities: authority.certificate.clone(),
//! };
//! let tls = Tls::new(&credentials)?; // later: tls.replace(&renewed)?
//!
//! let (views, reports, findings) = (Views::new(), Reports::new(), Findings::new());
//! tokio::spawn(sync::run(tables, views.clone())); // waits until the tables are initialized
//! let listener = tokio::net::TcpListener::bind((Ipv4Addr::UNSPECIFIED, epic_xds::bootstrap::XDS_PORT)).await?;
//! let metrics = Metrics::register(registry);
//! let server = Server { views, reports: reports.clone(), findings, metrics, tls, limits: Limits::default() };
//! tokio::spawn(server.serve(listener, shutdown));
//!
//! // Per LoadBalancer: a Secret (ca.crt, tls.crt, tls.key) and a ConfigMap for its proxies.
//! let identity = Identity::new("epic-red", "web", "5c7c5f4e-7a43-4f5e-9d7e-1f2b3c4d5e6f");
//! let client = pki::issue_client(&authority, &identity, SystemTime::now())?;
//! let bootstrap =
//!     Bootstrap::new("$(POD_NAMESPACE)/$(POD_NAME)", identity.cluster(), Ipv4Addr::new(10, 96, 0, 17).into());
//! for (name, content) in bootstrap.files().entries() { /* ConfigMap entry */ }
//! let args = bootstrap.args();
//!
//! // What comes back: conditions of pods and Endpoints.
//! let mut watch = reports.watch();
//! loop {
//!     for report in watch.changed().await.into_iter().filter(|report| report.connected) {
//!         let (pod, progress) = (&report.node.pod, &report.progress);
//!         // `configured` of `pod`: False with the first of `progress.rejections`, else True with
//!         // `progress.configured.generation`. Endpoints in `progress.endpoints` are programmed.
//!     }
//! }
//! # }
//! ```

pub mod authority;
pub mod bootstrap;
pub mod engine;
pub mod health;
pub mod identity;
pub mod metrics;
pub mod pki;
pub mod report;
pub mod resources;
pub mod server;
pub mod software;
pub mod sync;
pub mod views;

pub use authority::Authorities;
pub use bootstrap::{Bootstrap, Files};
pub use engine::{EndpointRef, Kind, Revision, View};
pub use health::{Finding, Findings};
pub use identity::{Identity, NodeName};
pub use metrics::Metrics;
pub use report::{Report, Reports};
pub use server::{Credentials, Limits, Server, Tls};
pub use software::Software;
pub use views::Views;
