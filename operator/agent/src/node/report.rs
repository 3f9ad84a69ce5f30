//! What an EPIC node says of itself: the EPICNode object, created and written by its agent alone.
//!
//! The status is a value made of facts and of the status before; it is written when it differs, and so seldom that all
//! nodes together write twenty times a second at most ([`pause`]). Whether the node is ready waits for no turn. Conditions
//! of others stay as they are. An agent that ends writes nothing: its programs go on, and the addresses of its node stay.
//!
//! Lists are bounded, so that the object stays small: of tunnels the exceptions are listed ([`tunnels`]).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use epic_crds::condition::{self, DETACHED, READY};
use epic_crds::rest;
use epic_crds::well_known::EPIC_NAMESPACE;
use epic_crds::{
    ConditionStatus, EPICNode, EPICNodeSpec, EPICNodeStatus, MapUsage, NodeAnswer, NodeConflict, NodeProgram,
    NodeTunnel, NodeTunnels,
};
use imbl::OrdSet;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{ObjectMeta, OwnerReference, Time};
use k8s_openapi::jiff::Timestamp;
use kates::{Client, Key, Version};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::arp::{self, Mac};
use super::behind::Behind;
use super::guard::Conflict;
use super::judgement::Judgement;
use super::owner::{self, Owner};
use crate::hello::Nanos;
use crate::hello::responder::Heard;

/// At least between two writes.
pub const BETWEEN: Duration = Duration::from_millis(500);
/// Times the number of nodes, at least between two writes of one.
const BETWEEN_ALL: Duration = Duration::from_millis(50);
/// Before a failed write is tried again.
const AGAIN: Duration = Duration::from_secs(2);
/// Tunnels that are down and listed.
const MOST_STATES: usize = 1_000;
/// Addresses and tunnels listed together, while addresses leave room: some 80 bytes each, so that the object stays below
/// 100 kB.
const MOST_ROWS: usize = 1_150;
/// Tunnels that are listed however many addresses there are.
const FEWEST_STATES: usize = 150;
/// Addresses that are listed.
pub const MOST_ANSWERS: usize = 8_192;
/// Conflicts that are listed.
const MOST_CONFLICTS: usize = 256;
/// Gateways that are listed.
const MOST_GATEWAYS: usize = 64;

/// What there is to report. `None` leaves what was reported before.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Report {
    /// GUE addresses.
    pub addresses: Option<Vec<IpAddr>>,
    /// Boot id of the kernel.
    pub boot_id: String,
    /// `uname -r`.
    pub kernel: String,
    /// Hardware addresses of the interfaces that answer for public addresses.
    pub macs: Option<Vec<Mac>>,
    /// Gateways of default routes.
    pub gateways: Option<BTreeSet<IpAddr>>,
    /// Public addresses that are answered for, and on which interface.
    pub answers: Option<(OrdSet<IpAddr>, String)>,
    /// Public addresses that somebody else has too, and on which interface he was heard.
    pub conflicts: Option<(BTreeMap<IpAddr, Conflict>, String)>,
    /// Attached programs.
    pub programs: Option<Vec<NodeProgram>>,
    /// Revision up to which the maps are complete.
    pub revision: Option<String>,
    /// What of that revision the maps do not hold.
    pub behind: Option<Behind>,
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
    if !report.boot_id.is_empty() && status.boot_id.as_deref() != Some(&report.boot_id) {
        // What was answered for before a reboot is not any more.
        status.answers.clear();
        status.answers_truncated = false;
    }
    set(&mut status.boot_id, &report.boot_id);
    set(&mut status.kernel, &report.kernel);
    if let Some(addresses) = &report.addresses {
        status.addresses = addresses.iter().map(ToString::to_string).collect();
    }
    if let Some(macs) = &report.macs {
        status.hardware_addresses = macs.iter().map(|mac| arp::text(*mac)).collect();
    }
    if let Some(gateways) = &report.gateways {
        status.gateways = gateways.iter().take(MOST_GATEWAYS).map(ToString::to_string).collect();
    }
    if let Some((addresses, interface)) = &report.answers {
        status.answers = answers(addresses, interface, &before.answers, now);
        status.answers_truncated = addresses.len() > MOST_ANSWERS;
    }
    if let Some((found, interface)) = &report.conflicts {
        let row = |(address, conflict): (&IpAddr, &Conflict)| NodeConflict {
            address: address.to_string(),
            mac: conflict.mac.map(arp::text),
            interface: interface.clone(),
            since: conflict.since.clone(),
            rest: Default::default(),
        };
        status.conflicts = found.iter().take(MOST_CONFLICTS).map(row).collect();
    }
    if let Some(programs) = &report.programs {
        status.programs.clone_from(programs);
    }
    if let Some(revision) = &report.revision {
        status.load_balancers_revision = Some(revision.clone());
    }
    if let Some(behind) = &report.behind {
        status.behind.clone_from(&behind.rows);
        status.behind_truncated = behind.truncated;
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
pub fn revision<'a>(
    reported: Option<&str>,
    reached: Option<&Version>,
    mut awaited: impl Iterator<Item = &'a Version>,
) -> Option<String> {
    let reached = reached?;
    let Some(reported) = reported.map(Version::from) else { return Some(reached.as_str().to_owned()) };
    let is_awaited = awaited.any(|awaited| !reported.reaches(awaited));
    (is_awaited && reached.reaches(&reported) && *reached != reported).then(|| reached.as_str().to_owned())
}

/// Addresses that are answered for, each since it was first reported on this interface.
fn answers(
    addresses: &OrdSet<IpAddr>,
    interface: &str,
    before: &[NodeAnswer],
    now: &Time,
) -> Vec<NodeAnswer> {
    let same = before.iter().filter(|answer| answer.interface == interface);
    let earlier: BTreeMap<&str, &NodeAnswer> = same.map(|answer| (answer.address.as_str(), answer)).collect();
    let row = |address: &IpAddr| {
        let address = address.to_string();
        let since = earlier.get(address.as_str()).map_or(now, |earlier| &earlier.since).clone();
        NodeAnswer { address, interface: interface.to_owned(), since, rest: Default::default() }
    };
    addresses.iter().take(MOST_ANSWERS).map(row).collect()
}

/// How many tunnels are up, and which are down. `settled` is false shortly after a start: then a tunnel that was up counts
/// as up until its client had the time to call. With so many `answers` in the same object fewer tunnels are listed.
pub fn tunnels(
    ids: &BTreeSet<u32>,
    heard: &BTreeMap<u32, Heard>,
    before: Option<&NodeTunnels>,
    settled: bool,
    answers: usize,
    (clock, now): (Nanos, &Time),
) -> NodeTunnels {
    let listed: BTreeMap<i64, &NodeTunnel> =
        before.iter().flat_map(|t| &t.states).map(|state| (state.tunnel_id, state)).collect();
    let was_up = |id: i64| match listed.get(&id) {
        Some(state) => state.up,
        None => before.is_some_and(|before| !before.truncated),
    };
    let mut states = Vec::new();
    for id in ids {
        let (number, heard) = (i64::from(*id), heard.get(id));
        let lately = heard.is_some_and(|heard| heard.is_up(clock));
        if lately || (!settled && heard.is_some() && was_up(number)) {
            continue;
        }
        let earlier = listed.get(&number).filter(|state| !state.up);
        states.push(NodeTunnel {
            tunnel_id: number,
            up: false,
            nat: heard.map_or_else(|| earlier.is_some_and(|state| state.nat), |heard| heard.nat),
            since: earlier.map_or(now, |state| &state.since).clone(),
            rest: Default::default(),
        });
    }
    let count = |n: usize| i64::try_from(n).unwrap_or(i64::MAX);
    let room = MOST_ROWS.saturating_sub(answers).clamp(FEWEST_STATES, MOST_STATES);
    let (down, truncated) = (states.len(), states.len() > room);
    states.truncate(room);
    NodeTunnels {
        up: count(ids.len() - down),
        down: count(down),
        total: count(ids.len()),
        states,
        truncated,
        ..Default::default()
    }
}

/// How long a node waits after a write before the next, where there are so many.
pub fn pause(nodes: usize) -> Duration {
    BETWEEN_ALL.saturating_mul(u32::try_from(nodes).unwrap_or(u32::MAX)).max(BETWEEN)
}

/// Whether others have to hear of it at once: the node goes out of service or comes back.
pub fn is_urgent(written: &Report, next: &Report) -> bool {
    let told = |report: &Report| {
        let said = |judgement: &Judgement| (judgement.status, judgement.reason);
        (report.ready.as_ref().map(said), report.detached.as_ref().map(said))
    };
    told(written) != told(next)
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
        let written = write(&client, &owner.node, owner.now().as_ref(), &report).await;
        let (least, most) = match &written {
            Ok(()) => (BETWEEN, pause(owner.nodes())),
            Err(error) => {
                if !error.is_conflict() {
                    tracing::warn!(error = crate::metrics::chain(error), "the EPICNode was not written");
                }
                let again = if error.is_conflict() { BETWEEN } else { AGAIN };
                (again, again)
            }
        };
        let urgent = async {
            tokio::time::sleep(least).await;
            // An answer means that the sender is gone, which is noticed below.
            let _ = reports.wait_for(|next| is_urgent(&report, next)).await;
        };
        tokio::select! {
            () = tokio::time::sleep(most) => {}
            () = urgent => {}
            () = shutdown.cancelled() => return,
        }
        // What was looked at above may have changed without being urgent.
        while written.is_ok() && *reports.borrow_and_update() == report {
            tokio::select! {
                changed = reports.changed() => if changed.is_err() { return },
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
