//! The agent of an EPIC node.
//!
//! Tasks: the agent itself ([`agent`]: objects and netlink in, tables out, and what follows when the maps hold them),
//! the reconciler, the hello responder, the writer of the EPICNode, the Lease, health and metrics, and the socket for
//! the commands. Losing the API server stops the writers of the API and nothing else.

mod agent;
pub mod announce;
pub mod answering;
pub mod arp;
pub mod awaited;
pub mod behind;
pub mod gate;
pub mod guard;
mod host;
pub mod in_force;
pub mod inputs;
pub mod interfaces;
pub mod judgement;
pub mod lease;
mod networks;
pub mod owner;
pub mod removal;
pub mod report;
pub mod services;
#[cfg(test)]
mod situations;
#[cfg(test)]
mod tests;
pub mod told;
pub mod watched;

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use epic_abi::maps::Side;
use epic_crds::well_known::{ANNOTATION_UNINSTALL, EPIC_NAMESPACE};
use epic_crds::{EPIC, EPICNode, EPICNodeReason};
use epic_datapath::Datapath;
use epic_ops::{Metrics, Readiness};
use k8s_openapi::api::apps::v1::DaemonSet;
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::OwnerReference;
use kates::{Client, Key, Settings as ClientSettings};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use self::judgement::Judgement;
use self::lease::Contact;
use self::owner::Owner;
use self::report::Report;
use crate::{Host, connect, metrics, unreadable};

/// How the agent was started.
#[derive(Clone, Debug)]
pub struct Settings {
    /// Name of the Node.
    pub node: String,
    /// Name of the pod that this agent runs in, in namespace epic: by it the agent knows when its DaemonSet is deleted.
    pub pod: Option<String>,
    /// Kubeconfig; without one, the ServiceAccount of the pod.
    pub kubeconfig: Option<PathBuf>,
    /// What else there is than EPIC's objects.
    pub services: services::Flags,
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
    /// Hello messages.
    #[error(transparent)]
    Answering(#[from] answering::Error),
    /// The maps could not be read at the start.
    #[error("cannot read the maps: {0}")]
    Maps(#[from] epic_reconciler::MapError),
    /// Netlink or signals.
    #[error("the kernel refused: {0}")]
    Kernel(#[from] std::io::Error),
    /// A source of services.
    #[error(transparent)]
    Sources(#[from] epic_sources::FlagsError),
    /// The administrative port.
    #[error(transparent)]
    Serve(#[from] epic_ops::ServeError),
}

/// How long to wait before the API server is asked again at the start.
const ASK_AGAIN: Duration = Duration::from_secs(2);

/// Runs until it is asked to end.
///
/// # Errors
/// What cannot be cured by waiting.
pub async fn run(settings: Settings) -> Result<(), Error> {
    crate::run(settings.host.listen, |readiness, registry, shutdown| {
        work(settings, readiness, registry, shutdown)
    })
    .await
}

async fn work(
    settings: Settings,
    readiness: Readiness,
    registry: Metrics,
    shutdown: CancellationToken,
) -> Result<(), Error> {
    let (shutdown, node) = (&shutdown, settings.node.clone());
    let starting = readiness.hold("start");
    let config = connect::config(settings.kubeconfig.as_deref()).await?;
    let kube = kube::Client::try_from(config).map_err(connect::Error::from)?;
    let client = Client::with_settings(
        kube,
        ClientSettings { field_manager: Some("epic-agent".to_owned()), ..ClientSettings::default() },
    );
    starting.because("waiting for the API server to show this Node");
    let first_owner = until(shutdown, || first_owner(&client, &settings.node)).await;
    let Some(first_owner) = first_owner else { return Ok(()) };
    let key = Key::namespaced(EPIC_NAMESPACE, settings.node.as_str());
    let own = until(shutdown, || client.get_opt::<EPICNode>(&key)).await;
    let Some(own) = own else { return Ok(()) };
    let before = own.and_then(|own| own.status).unwrap_or_default();
    let first = first_report(before.boot_id.as_deref());
    if let Err(error) = epic_datapath::kernel::check() {
        let error = epic_datapath::Error::from(error);
        return fail(&client, &settings.node, &first_owner, first, error).await;
    }
    let (reports, receiver) = watch::channel(first.clone());
    unreadable::tell(client.poison_reports(), &registry);
    let daemon_set = until(shutdown, || daemon_set(&client, settings.pod.as_deref())).await;
    let Some(daemon_set) = daemon_set else { return Ok(()) };
    let reported = before.load_balancers_revision.as_deref();
    let accumulator = watched::watch(&client, &settings.node, daemon_set.as_deref(), reported);
    let owner =
        Owner { node: settings.node.clone(), first: first_owner.clone(), accumulator: accumulator.clone() };
    let contact = Arc::new(Contact::new(Instant::now()));
    let lease = lease::run(client.clone(), owner.clone(), Arc::clone(&contact), shutdown.clone());
    let publisher = report::run(client.clone(), owner, receiver, shutdown.clone());
    starting.because("waiting for all kinds to be listed");
    let tasks = [tokio::spawn(lease), tokio::spawn(publisher)];
    let synced = tokio::select! {
        snapshot = accumulator.synced() => snapshot,
        () = shutdown.cancelled() => return Ok(()),
        () = tell_pending(&accumulator, &starting) => return Ok(()),
    };
    if watched::epic(&synced).is_some_and(|epic| is_uninstalled(epic)) {
        drop(starting);
        let removed = epic_datapath::remove(&settings.host.bpffs_dir);
        detached(&accumulator, &reports, removed, shutdown).await;
    } else {
        let datapath = match Datapath::open(&settings.host.datapath(Side::Node)) {
            Ok(datapath) => datapath,
            Err(error) => {
                tasks.iter().for_each(tokio::task::JoinHandle::abort);
                return fail(&client, &settings.node, &first_owner, first, error).await;
            }
        };
        let bpffs_dir = settings.host.bpffs_dir.clone();
        let parts = agent::Parts {
            settings,
            client: client.clone(),
            accumulator: accumulator.clone(),
            datapath,
            before,
            contact,
            reports: reports.clone(),
            readiness: readiness.clone(),
            registry,
            shutdown: shutdown.clone(),
        };
        let end = agent::run(parts, starting).await?;
        match end {
            agent::End::Uninstalled(removed) => detached(&accumulator, &reports, removed, shutdown).await,
            agent::End::Asked => {
                if let Some(name) = daemon_set
                    && removal::ask(&client, &accumulator, &name).await
                {
                    removed(&client, &node, &reports.borrow().clone(), &bpffs_dir).await;
                }
            }
        }
    }
    shutdown.cancel();
    for task in tasks {
        let _ = task.await;
    }
    Ok(())
}

/// Tries until the API server answers; `None` when asked to end meanwhile.
async fn until<T, F, Fut>(shutdown: &CancellationToken, mut ask: F) -> Option<T>
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Result<T, kates::Error>>,
{
    loop {
        let answer = tokio::select! {
            answer = ask() => answer,
            () = shutdown.cancelled() => return None,
        };
        match answer {
            Ok(answer) => return Some(answer),
            Err(error) => tracing::warn!(error = metrics::chain(&error), "asking again"),
        }
        tokio::select! {
            () = tokio::time::sleep(ASK_AGAIN) => {}
            () = shutdown.cancelled() => return None,
        }
    }
}

async fn first_owner(client: &Client, node: &str) -> Result<OwnerReference, kates::Error> {
    Ok(owner::reference(&client.get::<Node>(&Key::cluster(node)).await?))
}

/// After a reboot nothing is programmed any more; after a mere restart everything still is.
fn first_report(earlier_boot: Option<&str>) -> Report {
    let boot_id = host::boot_id();
    let ready = (earlier_boot != Some(boot_id.as_str())).then(Judgement::starting);
    let detached = Some(Judgement::new(false, EPICNodeReason::Attached, ""));
    Report { boot_id, kernel: host::kernel(), ready, detached, ..Report::default() }
}

/// The DaemonSet of this agent, by its pod. One that may not be read counts as none: it is not watched then, for an agent
/// waits for all that it watches.
async fn daemon_set(client: &Client, pod: Option<&str>) -> Result<Option<String>, kates::Error> {
    let Some(pod) = pod else { return Ok(None) };
    let found = match client.get_opt::<Pod>(&Key::namespaced(EPIC_NAMESPACE, pod)).await {
        Ok(found) => found.and_then(|pod| removal::daemon_set_of(&pod)),
        Err(error) if error.is_forbidden() => None,
        Err(error) => return Err(error),
    };
    let Some(name) = found else { return Ok(None) };
    match client.get_opt::<DaemonSet>(&Key::namespaced(EPIC_NAMESPACE, name.as_str())).await {
        Ok(found) => Ok(found.map(|_| name)),
        Err(error) if error.is_forbidden() => {
            tracing::warn!("this agent may not read its DaemonSet, so it will not know when that is deleted");
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// Takes programs and pins away, and says so if anybody listens: rights may be gone already.
async fn removed(client: &Client, node: &str, last: &Report, bpffs_dir: &Path) {
    let removed = epic_datapath::remove(bpffs_dir);
    match &removed {
        Ok(()) => tracing::info!("detached: the DaemonSet of this agent is deleted"),
        Err(error) => {
            tracing::error!(%error, "the DaemonSet of this agent is deleted, and programs or pins stay")
        }
    }
    let report = without_programs(last.clone(), removed, "the DaemonSet of the agents was deleted");
    // Nobody owns an EPICNode of a node without an agent: it is not made again.
    let written = tokio::time::timeout(ASK_AGAIN, report::write(client, node, None, &report)).await;
    if !matches!(written, Ok(Ok(()))) {
        tracing::info!("the EPICNode was not written");
    }
}

/// Takes away what an agent left on this node: programs, links, maps.
///
/// # Errors
/// An agent is running, or the kernel refused.
pub fn remove(bpffs_dir: &Path) -> Result<(), epic_datapath::Error> {
    epic_datapath::remove(bpffs_dir)
}

/// Says in the EPICNode why this node cannot serve, and ends.
async fn fail(
    client: &Client,
    node: &str,
    owner: &OwnerReference,
    first: Report,
    error: epic_datapath::Error,
) -> Result<(), Error> {
    let report = Report { ready: Some(Judgement::without_datapath(&error)), ..first };
    if let Err(error) = report::write(client, node, Some(owner), &report).await {
        tracing::warn!(error = metrics::chain(&error), "the EPICNode was not written");
    }
    Err(error.into())
}

async fn tell_pending(accumulator: &kates::Accumulator, starting: &epic_ops::readiness::Pending) {
    loop {
        let named: Vec<String> =
            accumulator.pending().into_iter().map(|(kind, why)| format!("{kind}: {why}")).collect();
        starting.because(format!("not listed yet: {}", named.join("; ")));
        tokio::time::sleep(Duration::from_secs(1)).await;
    }
}

/// Whether EPIC is being taken off the cluster.
fn is_uninstalled(epic: &EPIC) -> bool {
    epic.metadata.annotations.as_ref().is_some_and(|all| all.contains_key(ANNOTATION_UNINSTALL))
}

/// What there is to report when programs and maps were removed, or should have been.
fn without_programs(last: Report, removed: Result<(), epic_datapath::Error>, why: &str) -> Report {
    let (detached, why) = match removed {
        Ok(()) => (Judgement::new(true, EPICNodeReason::Detached, ""), why),
        Err(error) => (
            Judgement::new(false, EPICNodeReason::DetachFailed, error.to_string()),
            "programs or pins could not be removed",
        ),
    };
    Report {
        ready: Some(Judgement::new(false, EPICNodeReason::Detached, why)),
        detached: Some(detached),
        answers: Some(Default::default()),
        conflicts: Some(Default::default()),
        programs: Some(Vec::new()),
        map_usage: Some(Vec::new()),
        tunnels: None,
        ..last
    }
}

/// Says that everything is removed, and waits until EPIC comes back or the agent is ended.
async fn detached(
    accumulator: &kates::Accumulator,
    reports: &watch::Sender<Report>,
    removed: Result<(), epic_datapath::Error>,
    shutdown: &CancellationToken,
) {
    tracing::info!(done = removed.is_ok(), "detached for uninstallation");
    reports.send_modify(|report| {
        *report = without_programs(std::mem::take(report), removed, "EPIC is being uninstalled");
    });
    let mut updates = accumulator.updates();
    loop {
        let update = tokio::select! {
            update = updates.next() => update,
            () = shutdown.cancelled() => return,
        };
        if watched::epic(&update.snapshot).is_some_and(|epic| !is_uninstalled(epic)) {
            tracing::info!("EPIC is back; starting over");
            return;
        }
    }
}
