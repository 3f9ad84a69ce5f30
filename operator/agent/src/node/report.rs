//! What an EPIC node says of itself: the EPICNode object, created and written by its agent alone.
//!
//! The status is a value made of facts and of the status before; it is written when it differs, at most once a
//! [`BETWEEN`]. An agent that ends writes nothing: its programs go on, and the addresses of its node stay.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use epic_crds::condition::{self, DETACHED, READY};
use epic_crds::rest;
use epic_crds::well_known::EPIC_NAMESPACE;
use epic_crds::{
    AddressClaim, ConditionStatus, EPICNode, EPICNodeReason, EPICNodeSpec, EPICNodeStatus,
    HasConditions as _, LoadBalancer, MapUsage, NodeProgram, NodeTunnel, NodeTunnels,
};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kates::{Client, Key, Version};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::owner::{self, Owner};
use crate::hello::Nanos;
use crate::hello::responder::Heard;

/// At least between two writes.
pub const BETWEEN: Duration = Duration::from_millis(500);
/// Before a failed write is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// Tunnels whose state is listed; the rest is in the counts alone.
const MOST_STATES: usize = 8_192;

/// A condition before it has a time.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Judgement {
    /// Whether it holds.
    pub status: bool,
    /// Why.
    pub reason: EPICNodeReason,
    /// For people.
    pub message: String,
}

impl Judgement {
    /// A condition of these parts.
    pub fn new(status: bool, reason: EPICNodeReason, message: impl Into<String>) -> Self {
        Self { status, reason, message: message.into() }
    }
}

/// What there is to report. `None` leaves what was reported before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// GUE addresses.
    pub addresses: Option<Vec<IpAddr>>,
    /// Boot id of the kernel.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel: String,
    /// Attached programs.
    pub programs: Option<Vec<NodeProgram>>,
    /// Revision up to which the maps are complete.
    pub revision: Option<String>,
    /// Tunnels.
    pub tunnels: Option<NodeTunnels>,
    /// How full maps are.
    pub map_usage: Option<Vec<MapUsage>>,
    /// Whether this node carries traffic.
    pub ready: Option<Judgement>,
    /// Whether everything was removed.
    pub detached: Option<Judgement>,
}

/// The new status out of the one before.
pub fn status(report: &Report, before: &EPICNodeStatus, now: &Time) -> EPICNodeStatus {
    let mut status = before.clone();
    let set = |target: &mut Option<String>, value: &str| {
        if !value.is_empty() {
            *target = Some(value.to_owned());
        }
    };
    set(&mut status.boot_id, &report.boot_id);
    set(&mut status.kernel, &report.kernel);
    if let Some(addresses) = &report.addresses {
        status.addresses = addresses.iter().map(ToString::to_string).collect();
    }
    if let Some(programs) = &report.programs {
        status.programs.clone_from(programs);
    }
    if let Some(revision) = &report.revision {
        status.load_balancers_revision = Some(revision.clone());
    }
    if let Some(tunnels) = &report.tunnels {
        status.tunnels = Some(tunnels.clone());
    }
    if let Some(usage) = &report.map_usage {
        status.map_usage.clone_from(usage);
    }
    for (type_, judgement) in [(READY, &report.ready), (DETACHED, &report.detached)] {
        if let Some(j) = judgement {
            let holds = ConditionStatus::from(j.status);
            condition::set(&mut status.conditions, type_, holds, j.reason, j.message.as_str(), None, now);
        }
    }
    // A newer agent may have served this node before a rollback.
    rest::carry(&mut status, before);
    status
}

/// The revision to report: the one reached, but only if somebody waits for more than was reported, or nothing was.
pub fn revision(reported: Option<&str>, reached: Option<&Version>, awaited: &[Version]) -> Option<String> {
    let reached = reached?;
    let Some(reported) = reported.map(Version::from) else { return Some(reached.as_str().to_owned()) };
    let is_awaited = awaited.iter().any(|awaited| !reported.reaches(awaited));
    (is_awaited && reached.reaches(&reported) && *reached != reported).then(|| reached.as_str().to_owned())
}

/// The revisions that somebody waits for.
pub fn awaited<'a>(
    load_balancers: impl Iterator<Item = &'a LoadBalancer>,
    claims: impl Iterator<Item = &'a AddressClaim>,
) -> Vec<Version> {
    let unprogrammed = load_balancers.filter(|object| {
        let programmed = object.condition(condition::PROGRAMMED);
        programmed.is_some_and(|condition| condition.status == ConditionStatus::False)
    });
    let unprogrammed = unprogrammed.filter_map(|object| object.metadata.resource_version.as_deref());
    let releasing = claims.filter(|claim| claim.is_releasing());
    let releasing = releasing.filter_map(|claim| claim.status.as_ref()?.release_revision.as_deref());
    unprogrammed.chain(releasing).map(Version::from).collect()
}

/// The state of every tunnel. `settled` is false shortly after a start: then a tunnel that was up counts as up until
/// its client had the time to call.
pub fn tunnels(
    ids: &BTreeSet<u32>,
    heard: &BTreeMap<u32, Heard>,
    before: Option<&NodeTunnels>,
    settled: bool,
    clock: Nanos,
    now: &Time,
) -> NodeTunnels {
    let earlier: BTreeMap<i64, &NodeTunnel> =
        before.iter().flat_map(|t| &t.states).map(|state| (state.tunnel_id, state)).collect();
    let states: Vec<NodeTunnel> = ids
        .iter()
        .map(|id| {
            let earlier = earlier.get(&i64::from(*id));
            let heard = heard.get(id);
            let lately = heard.is_some_and(|heard| heard.is_up(clock));
            let up = lately || (!settled && heard.is_some() && earlier.is_some_and(|state| state.up));
            let nat = heard.map_or_else(|| earlier.is_some_and(|state| state.nat), |heard| heard.nat);
            let since = earlier.filter(|state| state.up == up).map_or(now, |state| &state.since);
            NodeTunnel { tunnel_id: i64::from(*id), up, nat, since: since.clone(), rest: Default::default() }
        })
        .collect();
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let up = states.iter().filter(|state| state.up).count();
    NodeTunnels {
        up: count(up),
        down: count(states.len() - up),
        total: count(states.len()),
        states: states.into_iter().take(MOST_STATES).collect(),
        ..Default::default()
    }
}

/// Writes reports until `shutdown`, the last one always, those before it as time allows. An EPICNode that somebody has
/// deleted is made again: other nodes take this one's address from it.
pub async fn run(
    client: Client,
    owner: Owner,
    mut reports: watch::Receiver<Report>,
    shutdown: CancellationToken,
) {
    let mut updates = owner.accumulator.updates();
    loop {
        let report = reports.borrow_and_update().clone();
        let pause = match write(&client, &owner.node, owner.now().as_ref(), &report).await {
            Ok(()) => BETWEEN,
            Err(error) => {
                reports.mark_changed();
                if !error.is_conflict() {
                    tracing::warn!(error = crate::metrics::chain(&error), "the EPICNode was not written");
                }
                if error.is_conflict() { BETWEEN } else { AGAIN }
            }
        };
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = shutdown.cancelled() => return,
        }
        loop {
            tokio::select! {
                changed = reports.changed() => if changed.is_err() { return } else { break },
                update = updates.next() => if owner.misses_epic_node(&update.snapshot) { break },
                () = shutdown.cancelled() => return,
            }
        }
    }
}

/// Writes one report, if it says anything new. The EPICNode is made for `owner`, and without one it is not made.
///
/// # Errors
/// Whatever the API server answers.
pub async fn write(
    client: &Client,
    node: &str,
    owner: Option<&OwnerReference>,
    report: &Report,
) -> Result<(), kates::Error> {
    let key = Key::namespaced(EPIC_NAMESPACE, node);
    let mut object = match (client.get_opt::<EPICNode>(&key).await?, owner) {
        (Some(mut object), owner) => {
            if owner::is_astray(Some(&object.metadata), owner) {
                object.metadata.owner_references = owner.cloned().map(|owner| vec![owner]);
                client.update(&mut object).await?;
            }
            object
        }
        (None, Some(owner)) => {
            let mut object = EPICNode::new(node, EPICNodeSpec::default());
            object.metadata = ObjectMeta {
                name: Some(node.to_owned()),
                namespace: Some(EPIC_NAMESPACE.to_owned()),
                owner_references: Some(vec![owner.clone()]),
                ..ObjectMeta::default()
            };
            client.create(&mut object).await?;
            object
        }
        (None, None) => return Ok(()),
    };
    let before = object.status.clone().unwrap_or_default();
    let after = status(report, &before, &Time(Timestamp::now()));
    if object.status.as_ref() == Some(&after) {
        return Ok(());
    }
    object.status = Some(after);
    client.update_status(&mut object).await
}
