//! The agent of a client node, a plain host or a node of a tenant's cluster.
//!
//! It has a kubeconfig for its tenant's namespace and nothing else. Tasks: the agent ([`agent`]), the reconciler, the
//! hello caller, the renewal of the token, health and metrics, and the socket for the commands.

mod agent;
pub mod calling;
pub mod renewal;
#[cfg(test)]
mod tests;
pub mod ways;

use std::net::IpAddr;
use std::path::PathBuf;

use epic_ops::{Metrics, Readiness};
use tokio_util::sync::CancellationToken;

use crate::{Host, connect, device, nft};

/// How the agent was started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Identity of this node: what stands in Endpoints as `node-address`.
    pub node_address: IpAddr,
    /// Kubeconfig.
    pub kubeconfig: PathBuf,
    /// Namespace of the tenant; the one of the kubeconfig unless given.
    pub namespace: Option<String>,
    /// The host.
    pub host: Host,
}

/// Why the agent ended.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// No API server.
    #[error(transparent)]
    Connect(#[from] connect::Error),
    /// The data plane.
    #[error(transparent)]
    Datapath(#[from] epic_datapath::Error),
    /// The device or its routes.
    #[error(transparent)]
    Device(#[from] device::Error),
    /// The nftables table.
    #[error(transparent)]
    Nft(#[from] nft::Error),
    /// The maps could not be read at the start.
    #[error("cannot read the maps: {0}")]
    Maps(#[from] epic_reconciler::MapError),
    /// No random number for the session.
    #[error("the kernel gives no random bytes: {0}")]
    Random(getrandom::Error),
    /// The token in the kubeconfig.
    #[error(transparent)]
    Renewal(#[from] renewal::Error),
    /// Netlink or signals.
    #[error("the kernel refused: {0}")]
    Kernel(#[from] std::io::Error),
    /// The administrative port.
    #[error(transparent)]
    Serve(#[from] epic_ops::ServeError),
}

/// Runs until it is asked to end. Programs, maps, device and routes stay: packets go on.
///
/// # Errors
/// What cannot be cured by waiting, first of all a route of this host that conflicts with the proxy addresses.
pub async fn run(settings: Settings) -> Result<(), Error> {
    crate::run(settings.host.listen, |readiness, metrics, shutdown| {
        work(settings, readiness, metrics, shutdown)
    })
    .await
}

async fn work(
    settings: Settings,
    readiness: Readiness,
    metrics: Metrics,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let starting = readiness.hold("start");
    epic_datapath::kernel::check().map_err(epic_datapath::Error::from)?;
    let connection = renewal::connect(&settings.kubeconfig).await?;
    let namespace = settings.namespace.clone().unwrap_or_else(|| connection.namespace.clone());
    let renewing = tokio::spawn(renewal::run(connection.clone(), namespace.clone(), shutdown.clone()));
    let ended =
        agent::run(settings, connection, namespace, (readiness, starting), metrics, shutdown.clone()).await;
    shutdown.cancel();
    let _ = renewing.await;
    ended
}

/// Takes away everything that [`run`] leaves: programs, pins, device, routes and rules.
///
/// # Errors
/// An agent is running, or the kernel refused.
pub async fn remove(bpffs_dir: &std::path::Path) -> Result<(), Error> {
    epic_datapath::remove(bpffs_dir)?;
    let netlink = crate::netlink::Netlink::connect()?;
    device::remove(&netlink).await?;
    nft::remove().await?;
    Ok(())
}
