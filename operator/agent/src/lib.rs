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
mod plane;
pub mod remotes;
mod sizes;
mod unreadable;
mod wakes;

pub use sizes::SizeFlags;

use std::collections::BTreeSet;
use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;

use epic_datapath::{Attached, Attachment, Datapath, Kept, Options, Sizes};
use epic_ops::{Metrics, Readiness, ServeError};
use tokio_util::sync::CancellationToken;

/// What both agents are told of the host they run on.
#[derive(Clone, Debug)]
pub struct Host {
    /// Directory of pins.
    pub bpffs_dir: PathBuf,
    /// Where health and metrics are served.
    pub listen: SocketAddr,
    /// Unix socket for the commands.
    pub socket: PathBuf,
    /// How the reconciler works.
    pub reconciler: epic_reconciler::Settings,
    /// What the maps have room for.
    pub sizes: Sizes,
}

impl Host {
    /// How the data plane of one side is opened here.
    fn datapath(&self, side: epic_abi::maps::Side) -> Options {
        Options { sizes: self.sizes, ..Options::new(&self.bpffs_dir, side) }
    }
}

/// Runs `work` beside health and metrics, until it ends or is asked to. Without health and metrics nobody can tell how
/// the agent is doing, so it ends when they cannot be served.
async fn run<E, W>(
    listen: SocketAddr,
    work: impl FnOnce(Readiness, Metrics, CancellationToken) -> W,
) -> Result<(), E>
where
    E: From<io::Error> + From<ServeError>,
    W: Future<Output = Result<(), E>>,
{
    let shutdown = epic_ops::shutdown::on_signal()?;
    let (readiness, metrics) = (Readiness::new(), Metrics::new());
    let served = epic_ops::serve(listen, readiness.clone(), metrics.clone(), shutdown.clone());
    let end = shutdown.clone();
    let server = tokio::spawn(async move {
        let served = served.await;
        if served.is_err() {
            end.cancel();
        }
        served
    });
    let worked = work(readiness, metrics, shutdown.clone()).await;
    shutdown.cancel();
    worked?;
    match server.await {
        Ok(served) => served.map_err(E::from),
        Err(_) => Ok(()),
    }
}

/// Closes a gate of readiness, and logs why when that is new.
fn not_ready(readiness: &Readiness, what: &str, why: &str) {
    if readiness.pending().get(what).map(String::as_str) != Some(why) {
        tracing::warn!(what, why, "cannot decide; everything stays as it is");
    }
    readiness.gate(what).close(why);
}

/// Lets the programs run on this agent's maps as soon as those are complete. Until then another layout serves, of which the
/// agent knows nothing to tell anybody. Says whether they do.
fn take_over(
    datapath: &mut Datapath,
    complete: bool,
    health: impl std::fmt::Display,
    readiness: &Readiness,
) -> bool {
    if datapath.is_serving() {
        return true;
    }
    let former = datapath.adopted().former.clone().unwrap_or_default();
    if !complete {
        let why = format!("{former} serves until the maps of this version are written: {health}");
        not_ready(readiness, "layout", &why);
        return false;
    }
    match datapath.switch() {
        Ok(()) => {
            tracing::info!(former, "the programs run on the maps of this version");
            readiness.gate("layout").open();
        }
        Err(error) => {
            not_ready(readiness, "layout", &format!("{former} serves in part, trying again: {error}"))
        }
    }
    datapath.is_serving()
}

/// Attaches these programs and detaches all others that are ours. An interface that is gone meanwhile is left out.
fn hang(datapath: &Datapath, wanted: &BTreeSet<Attachment>) -> Result<Kept, epic_datapath::Error> {
    let kept = datapath.keep_only(wanted)?;
    for (attachment, how) in kept.done.iter().filter(|(_, how)| **how != Attached::Kept) {
        tracing::info!(%attachment, ?how, "attached");
    }
    Ok(kept)
}
