//! Node and client agents: discovery, tunnels, tables to maps.
//!
//! Expected flow, on both sides: watched objects and netlink → [`desired`] (pure) → Writer → tables → reconciler →
//! maps. Beside it runs [`hello`], which alone writes where the other ends of tunnels are. [`node`] and [`client`]
//! are the two processes, [`inspect`] the commands beside them.

pub mod client;
pub mod connect;
pub mod desired;
pub mod device;
pub mod hello;
pub mod inspect;
pub mod metrics;
pub mod netlink;
pub mod nft;
pub mod node;
pub mod remotes;

use std::net::SocketAddr;

use epic_ops::{Metrics, Readiness, ServeError};
use tokio::sync::broadcast;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

/// Serves health and metrics. Without them nobody can tell how the agent is doing, so it ends when they cannot be.
fn administer(
    listen: SocketAddr,
    readiness: &Readiness,
    metrics: &Metrics,
    shutdown: &CancellationToken,
) -> JoinHandle<Result<(), ServeError>> {
    let served = epic_ops::serve(listen, readiness.clone(), metrics.clone(), shutdown.clone());
    let end = shutdown.clone();
    tokio::spawn(async move {
        let served = served.await;
        if served.is_err() {
            end.cancel();
        }
        served
    })
}

/// Logs objects that cannot be read; everything else goes on without them.
async fn tell_poisoned(mut reports: broadcast::Receiver<kates::Poison>) {
    loop {
        match reports.recv().await {
            Ok(poison) => tracing::warn!(
                kind = poison.kind,
                object = %poison.key,
                error = poison.error,
                earlier_state_kept = poison.earlier_state_shown,
                "an object cannot be read"
            ),
            Err(broadcast::error::RecvError::Lagged(missed)) => {
                tracing::warn!(missed, "further objects cannot be read");
            }
            Err(broadcast::error::RecvError::Closed) => return,
        }
    }
}
