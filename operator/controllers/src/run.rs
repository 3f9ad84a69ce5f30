//! Starting and ending the operator: connection, leadership, allocators, controllers, xDS, health.
//!
//! Everything runs from the start and waits by itself for what it needs: controllers and allocators for every kind to
//! be listed and for leadership, xDS for certificates. `/readyz` names what is missing. On SIGTERM reconciles under
//! way end, then the Lease is given back.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use epic_crds::{EPIC, EpicReason};
use epic_ops::readiness::{Gate, Notice};
use epic_ops::{Metrics, Readiness, ServeError};
use kates::QueryStatus;
use kube::Resource as _;
use kube::config::{InferConfigError, KubeConfigOptions, Kubeconfig, KubeconfigError};
use kube::{Client, Config};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::{sleep, timeout};
use tokio_util::sync::CancellationToken;

use crate::context::{Context, Shared};
use crate::leader::Leadership;
use crate::metrics::WatchLabel;
use crate::settings::{Settings, UninstallArguments};
use crate::uninstall::Asks;
use crate::{
    account, address_pool, allocation, claim, endpoint, epic, load_balancer, node, poison, reconcile,
    relations, service_group, uninstall, witness, xds,
};

/// How long a connection may take to be made.
const CONNECT: Duration = Duration::from_secs(5);
/// How long a connection may be silent: longer than one watch lasts.
const SILENCE: Duration = Duration::from_secs(300);
/// How long sending a request may take.
const SEND: Duration = Duration::from_secs(15);
/// How long reconciles may take to end.
const DRAIN: Duration = Duration::from_secs(20);

/// The process cannot do its work.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The kubeconfig cannot be read or lacks something.
    #[error("cannot use the kubeconfig {0}")]
    Kubeconfig(String, #[source] KubeconfigError),
    /// Neither a kubeconfig nor the files of a pod.
    #[error("cannot find an API server; give --kubeconfig, or run as a pod")]
    Infer(#[from] InferConfigError),
    /// The client could not be built.
    #[error("cannot set up the connection to the API server")]
    Client(#[from] kube::Error),
    /// The kernel refuses a signal handler.
    #[error("cannot listen for signals")]
    Signals(#[from] std::io::Error),
    /// Health and metrics.
    #[error(transparent)]
    Ops(#[from] ServeError),
    /// xDS.
    #[error(transparent)]
    Xds(#[from] xds::Error),
    /// EPIC could not be taken off the cluster.
    #[error(transparent)]
    Uninstall(#[from] uninstall::Error),
}

/// A client with limits of its own: kube's defaults would let a dead connection hang.
///
/// # Errors
/// The configuration cannot be read.
pub async fn client(kubeconfig: Option<&Path>) -> Result<Client, Error> {
    let mut config = match kubeconfig {
        None => Config::infer().await?,
        Some(path) => {
            let unusable = |error| Error::Kubeconfig(path.display().to_string(), error);
            let file = Kubeconfig::read_from(path).map_err(unusable)?;
            Config::from_custom_kubeconfig(file, &KubeConfigOptions::default()).await.map_err(unusable)?
        }
    };
    config.connect_timeout = Some(CONNECT);
    config.read_timeout = Some(SILENCE);
    config.write_timeout = Some(SEND);
    // 429, 503 and 504 are tried again below us, within the limit of the call. Every write of ours may be repeated:
    // it carries a version, or finds its own object.
    config.default_retry = true;
    Ok(Client::try_from(config)?)
}

/// Is the operator until SIGTERM.
///
/// # Errors
/// [`Error`]: what makes it end by itself.
pub async fn operator(settings: Settings) -> Result<(), Error> {
    let shutdown = epic_ops::shutdown::on_signal()?;
    let client = client(settings.kubeconfig.as_deref()).await?;
    let (metrics, readiness) = (Metrics::new(), Readiness::new());
    let mut ops = tokio::spawn(epic_ops::serve(
        settings.ops_address,
        readiness.clone(),
        metrics.clone(),
        shutdown.clone(),
    ));
    let lease = readiness.hold("lease");
    // The Lease is given back when reconciles have ended, not when they are told to: until then they write.
    let ended_all = CancellationToken::new();
    let competed = lead(&client, &settings, &shutdown, &ended_all, &lease).await;
    let Some((leadership, held)) = competed else { return Ok(()) };
    drop(lease);
    let serves_xds = !settings.no_xds;
    let context = Context::new(client, settings, leadership, &metrics);
    let mut tasks = start(&context, &readiness, &shutdown);
    let mut served = {
        let (context, readiness, shutdown) = (Arc::clone(&context), readiness.clone(), shutdown.clone());
        tokio::spawn(async move {
            if serves_xds {
                return xds::run(context, &metrics, &readiness, shutdown).await;
            }
            shutdown.cancelled().await;
            Ok(())
        })
    };
    let ended = tokio::select! {
        ended = &mut ops => ended.unwrap_or(Ok(())).map_err(Error::from),
        ended = &mut served => ended.unwrap_or(Ok(())).map_err(Error::from),
    };
    shutdown.cancel();
    wind_down(&mut tasks, &ended_all, held).await;
    ended
}

/// Waits for the work that was told to end, and gives the Lease back after it.
async fn wind_down(tasks: &mut JoinSet<()>, ended_all: &CancellationToken, held: Option<JoinHandle<()>>) {
    let drained = timeout(DRAIN, async { while tasks.join_next().await.is_some() {} }).await;
    if drained.is_err() {
        tracing::warn!("some work did not end in time; it is done again by the next leader");
    }
    ended_all.cancel();
    if let Some(held) = held {
        // It bounds itself.
        let _ = held.await;
    }
}

/// Takes EPIC off the cluster, or up again; see [`uninstall`].
///
/// # Errors
/// [`Error`]: nothing more could be done.
pub async fn uninstall(settings: Settings, arguments: UninstallArguments) -> Result<(), Error> {
    let client = client(settings.kubeconfig.as_deref()).await?;
    let asks = if arguments.undo { Asks::ForEpic } else { Asks::ForUninstallation };
    if let Some(release) = &arguments.release
        && !asks.release(&client, &settings.namespace, release).await?
    {
        return Ok(());
    }
    if arguments.undo {
        uninstall::undo(&client, &settings.namespace).await?;
    } else {
        uninstall::run(&client, &settings.namespace, arguments.wait).await?;
    }
    Ok(())
}

async fn lead(
    client: &Client,
    settings: &Settings,
    shutdown: &CancellationToken,
    ended: &CancellationToken,
    pending: &epic_ops::readiness::Pending,
) -> Option<(Leadership, Option<JoinHandle<()>>)> {
    if settings.no_lease {
        return Some((Leadership::always(), None));
    }
    loop {
        let competed =
            Leadership::compete(client.clone(), &settings.namespace, &settings.identity, ended.clone()).await;
        match competed {
            Ok((leadership, held)) => return Some((leadership, Some(held))),
            Err(error) => {
                pending.because(format!("the Lease cannot be used: {error}"));
                tracing::warn!(%error, "the Lease cannot be used yet");
            }
        }
        tokio::select! {
            () = shutdown.cancelled() => return None,
            () = sleep(Duration::from_secs(2)) => {}
        }
    }
}

/// Starts everything that watches and writes; all of it ends with `shutdown`.
pub fn start(context: &Shared, readiness: &Readiness, shutdown: &CancellationToken) -> JoinSet<()> {
    let mut tasks = JoinSet::new();
    let synced = readiness.hold("watches");
    let watched = (Arc::clone(context), readiness.clone(), shutdown.clone());
    tasks.spawn(async move {
        let (context, readiness, shutdown) = watched;
        readiness_of_watches(&context, &readiness, synced, &shutdown).await;
    });
    tasks.spawn(allocation::run::run(Arc::clone(context), shutdown.clone()));
    tasks.spawn(poison::run(Arc::clone(context), shutdown.clone()));
    tasks.spawn(witness::run(Arc::clone(context), shutdown.clone()));
    macro_rules! control {
        ($relations:ident, $reconcile:path) => {
            let controller = relations::$relations(context);
            tasks.spawn(reconcile::run(controller, Arc::clone(context), shutdown.clone(), $reconcile));
        };
    }
    control!(epic, epic::reconcile);
    control!(account, account::reconcile);
    control!(namespace, account::departure::reconcile);
    control!(address_pool, address_pool::reconcile);
    control!(claim, claim::reconcile);
    control!(node, node::reconcile);
    control!(service_group, service_group::reconcile);
    control!(load_balancer, load_balancer::reconcile);
    control!(endpoint, endpoint::reconcile);
    tasks
}

/// Keeps `/readyz` and the gauges of leadership and of refused kinds true.
///
/// A kind that was never listed keeps the replica unready: it would serve a part of the world. One that is refused after
/// it was listed does not: the tables are whole, and a replica that is not ready takes xDS away from every proxy that
/// connects, as an accident with a role would in all replicas at once. It is shown, counted and told of.
async fn readiness_of_watches(
    context: &Shared,
    readiness: &Readiness,
    synced: epic_ops::readiness::Pending,
    shutdown: &CancellationToken,
) {
    let mut synced = Some(synced);
    let mut gates: BTreeMap<String, Gate> = BTreeMap::new();
    let mut refused: BTreeMap<String, Notice> = BTreeMap::new();
    loop {
        let (missing, stale) = judge(context.watches.pending(), &context.watches.status());
        for (name, reason) in &missing {
            gates.entry(name.clone()).or_insert_with(|| readiness.gate(name)).close(reason.as_str());
        }
        gates.retain(|name, gate| {
            let closed = missing.contains_key(name);
            if !closed {
                gate.open();
            }
            closed
        });
        for (kind, reason) in &stale {
            let label = WatchLabel { kind: kind.clone() };
            context.counters.refused.get_or_create(&label).set(1);
            refused.entry(kind.clone()).or_insert_with(|| {
                let text = format!("{reason}; going on with what was read before");
                tell_refused(context, kind, &text);
                readiness.notice(kind, text)
            });
        }
        refused.retain(|kind, _| {
            let label = WatchLabel { kind: kind.clone() };
            stale.contains_key(kind) || !context.counters.refused.remove(&label)
        });
        if missing.is_empty() {
            synced = None;
        } else if let Some(synced) = &synced {
            synced.because(format!("{} kinds are not listed", missing.len()));
        }
        context.counters.leads.set(i64::from(context.leadership.leads()));
        tokio::select! {
            () = shutdown.cancelled() => return,
            () = sleep(Duration::from_millis(500)) => {}
        }
    }
}

/// Of what may not be concluded from: the kinds that were never listed, and those that were and are refused since.
fn judge(
    pending: BTreeMap<String, String>,
    status: &BTreeMap<String, QueryStatus>,
) -> (BTreeMap<String, String>, BTreeMap<String, String>) {
    pending.into_iter().partition(|(name, _)| status.get(name).is_none_or(|status| !status.complete))
}

/// An Event on EPIC itself, where administrators look.
fn tell_refused(context: &Shared, kind: &str, text: &str) {
    tracing::error!(kind, text, "a kind is refused that was listed before");
    let Ok(snapshot) = context.snapshot() else { return };
    if let Some(epic) = snapshot.list::<EPIC>().next() {
        let text = format!("{kind}: {text}");
        context.events.warn(&epic.object_ref(&()), EpicReason::KindRefused, "Watch", &text);
    }
}

#[cfg(test)]
mod tests {
    use epic_crds::well_known::LEASE_OPERATOR;
    use epic_fake_api::Server;

    use super::*;
    use kates::Condition;

    fn holder(server: &Server) -> Option<String> {
        let lease = server.object("leases", "epic", LEASE_OPERATOR)?;
        lease["spec"]["holderIdentity"].as_str().filter(|name| !name.is_empty()).map(str::to_owned)
    }

    #[tokio::test(start_paused = true)]
    async fn the_lease_is_given_back_after_the_last_write_and_not_while_it_is_under_way() {
        let (server, shutdown, ended_all) =
            (Server::new(), CancellationToken::new(), CancellationToken::new());
        let competed = Leadership::compete(server.client(), "epic", "one", ended_all.clone()).await;
        let (mut leadership, held) = competed.unwrap();
        leadership.acquired().await;
        assert_eq!(holder(&server).as_deref(), Some("one"));
        let mut tasks = JoinSet::new();
        let (told, writes_to) = (shutdown.clone(), server.clone());
        tasks.spawn(async move {
            told.cancelled().await;
            // Longer than giving it back takes, and shorter than the drain.
            sleep(DRAIN / 4).await;
            let by = holder(&writes_to).unwrap_or_default();
            writes_to.put("configmaps", serde_json::json!({"metadata": {"name": "last"}, "by": by}));
        });
        shutdown.cancel();
        wind_down(&mut tasks, &ended_all, Some(held)).await;
        assert_eq!(server.object("configmaps", "", "last").unwrap()["by"], "one", "nobody else led yet");
        assert_eq!(holder(&server), None, "it was given back then");
        assert!(!leadership.leads());
    }

    #[tokio::test(start_paused = true)]
    async fn work_that_does_not_end_keeps_the_lease_no_longer_than_the_drain() {
        let (server, ended_all) = (Server::new(), CancellationToken::new());
        let competed = Leadership::compete(server.client(), "epic", "one", ended_all.clone()).await;
        let (mut leadership, held) = competed.unwrap();
        leadership.acquired().await;
        let mut tasks = JoinSet::new();
        tasks.spawn(std::future::pending::<()>());
        let began = tokio::time::Instant::now();
        wind_down(&mut tasks, &ended_all, Some(held)).await;
        assert!(began.elapsed() >= DRAIN, "{:?}", began.elapsed());
        assert_eq!(holder(&server), None);
    }

    #[test]
    fn a_kind_that_was_listed_once_and_is_refused_now_does_not_make_a_replica_unready() {
        let status = |complete| QueryStatus {
            condition: Condition::Refused("forbidden".to_owned()),
            complete,
            revision: None,
            ahead: 0,
        };
        let pending = |name: &str| (name.to_owned(), "forbidden".to_owned());
        let all = [("addresspools".to_owned(), status(true)), ("accounts".to_owned(), status(false))];
        let (missing, stale) = judge([pending("addresspools"), pending("accounts")].into(), &all.into());
        assert_eq!(missing, [pending("accounts")].into());
        assert_eq!(stale, [pending("addresspools")].into());
    }
}
