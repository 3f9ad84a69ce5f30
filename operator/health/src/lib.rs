//! Active health checks of backends, and the server that tells load balancers upstream what a node serves.
//!
//! Expected flow:
//!
//! ```text
//! backends ──▶ Checker: set, upsert, remove ──▶ schedule ──▶ Prober ──▶ backend
//!                                                   │           │
//! whoever selects ◀── Verdicts::next ◀── State ◀────┴── result ◀┘
//!
//! routers, load balancers ──▶ NodePorts ──▶ Answers: what is selected on this node
//! ```
//!
//! An observer: it is told who the backends are and tells who of them serves. What a verdict means (is a backend without
//! one used, are all used when too few are healthy) is up to who selects.
//!
//! Guarantees: the first result of a target decides, later ones by thresholds; a result counts only for the definition
//! that it was asked by, and a removed target has no verdict; targets of one group delay each other and nobody else; what
//! this node lacks is not held against a target; memory and time are in proportion to the targets, whatever reads the
//! verdicts.
//! Assumptions: a key stands for one place in one service, so that the verdict about a shared address is not one
//! tenant's word about another's backend; a group stands for whoever is to pay for slow answers; a place is one that its
//! group may reach by other ways too, since a reason tells its reader what there is.
//! Caveats: after a restart nothing is known until the first results, which come within a timeout unless a group has more
//! silent targets than its budget; [`Stats::unknown`] says how many are missing. A target that cannot be asked for a
//! reason of this node stays unknown, and [`Stats::trouble`] says why.
//! What it does not do: know services, tables or Kubernetes, choose backends, remember verdicts over a restart, TLS.
//!
//! | module | |
//! | --- | --- |
//! | [`Check`], [`Probe`], [`Target`] | what is asked, of whom |
//! | [`State`], [`Thresholds`] | from results to verdicts, as values |
//! | [`Checker`], [`Driver`], [`Verdicts`] | the handle, the task, what comes out |
//! | [`Limits`], [`Stats`] | how much at once, and how it is going |
//! | [`Prober`], [`NetworkProber`] | who asks: TCP, HTTP/1.1, gRPC |
//! | [`node_port`] | HealthCheckNodePort |
//!
//! ```
//! use epic_health::{Check, Checker, NetworkProber, Probe, Settings, Target};
//! use tokio::net::TcpListener;
//!
//! # #[tokio::main(flavor = "current_thread")]
//! # async fn main() -> Result<(), Box<dyn std::error::Error>> {
//! let (checker, driver, mut verdicts) = Checker::new(Settings::default());
//! let driver = tokio::spawn(driver.run(NetworkProber));
//!
//! // Two backends of one tenant: something listens at the first, nothing at the second.
//! let listener = TcpListener::bind("127.0.0.1:0").await?;
//! let alive = listener.local_addr()?;
//! let dead = TcpListener::bind("127.0.0.1:0").await?.local_addr()?;
//! let check = std::sync::Arc::new(Check::new(Probe::Tcp));
//! checker.upsert("web-1", Target::new("acme", alive, check.clone()));
//! checker.upsert("web-2", Target::new("acme", dead, check));
//!
//! let mut found = Vec::new();
//! while found.len() < 2 {
//!     found.extend(verdicts.next().await.ok_or("the driver ended")?);
//! }
//! found.sort_by_key(|verdict| verdict.key);
//! assert!(found[0].healthy);
//! assert!(!found[1].healthy);
//! assert_eq!(&*found[1].reason, "connection refused");
//!
//! checker.remove("web-2");
//! assert_eq!(checker.stats().targets, 1);
//! driver.abort();
//! # Ok(())
//! # }
//! ```

mod check;
mod checker;
pub mod node_port;
mod probe;
mod prober;
mod schedule;
mod state;
mod target;
mod verdict;

pub use check::{Check, Probe, WrongAnswer};
pub use checker::{Checker, Driver, Settings, Verdicts};
pub use probe::NetworkProber;
pub use prober::Prober;
pub use schedule::{Limits, Stats};
pub use state::{Health, Outcome, State, Thresholds};
pub use target::{Origin, Place, Target};
pub use verdict::{Failure, Verdict};
