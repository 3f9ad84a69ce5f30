//! What proxies answered, written where people look: the pod condition `configured` and the first `Programmed` of an
//! Endpoint.
//!
//! Written by the replica that serves the stream, with or without the Lease, and only to pods that are proxies of the
//! LoadBalancer in the stream's certificate. A write that is refused is made again with the next change, or at the
//! latest after [`AGAIN`].

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use epic_crds::condition::{ACCEPTED, PROGRAMMED, set};
use epic_crds::{ConditionStatus, Endpoint, EndpointReason, HasConditions, LoadBalancer};
use epic_xds::report::StreamId;
use epic_xds::{Report, Reports};
use k8s_openapi::api::core::v1::Pod;
use kates::{Key, Snapshot};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::assigned::Assignee;
use super::condition::{Answer, pod_condition, read};
use crate::context::Shared;
use crate::proxy::{Index, listed};
use crate::reconcile::{now, publish_status};

/// Longest time until a write that failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// What this process has written for each stream. A stream says a thing once: one that is dead and not yet noticed,
/// here or on another replica, must not contradict its successor for ever.
type Told = BTreeMap<StreamId, Answer>;

/// Follows the reports until `shutdown`.
pub(super) async fn run(context: Shared, reports: Arc<Reports>, shutdown: CancellationToken) {
    let mut watch = reports.watch();
    let mut updates = context.watches.updates();
    let mut told = Told::new();
    let mut failed = false;
    loop {
        let again = if failed { AGAIN } else { context.settings.full_pass };
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = watch.changed() => {}
            () = updates.changed() => { updates.update(); }
            () = sleep(again) => {}
        }
        let Ok(snapshot) = context.snapshot() else { continue };
        failed = pass(&context, &snapshot, &reports.rows(), &mut told).await;
    }
}

/// The latest stream of every pod, by LoadBalancer.
fn latest(rows: &[Report]) -> BTreeMap<Key, BTreeMap<&str, &Report>> {
    let mut found: BTreeMap<Key, BTreeMap<&str, &Report>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.connected) {
        let key = Key::namespaced(row.identity.namespace.as_ref(), row.identity.load_balancer.as_ref());
        let pods = found.entry(key).or_default();
        let known = pods.entry(row.node.pod.as_ref()).or_insert(row);
        if known.stream < row.stream {
            *known = row;
        }
    }
    found
}

/// Writes what differs; says whether something is left to be tried again.
async fn pass(context: &Shared, snapshot: &Snapshot, rows: &[Report], told: &mut Told) -> bool {
    let mut failed = false;
    told.retain(|stream, _| rows.iter().any(|row| row.stream == *stream));
    let by_balancer = latest(rows);
    context.assigned.retain(&by_balancer.keys().cloned().collect());
    if by_balancer.is_empty() {
        return false;
    }
    let index = Index::new(snapshot);
    for (key, rows) in by_balancer {
        let Some(balancer) = snapshot.get::<LoadBalancer>(&key) else { continue };
        let pods = index.objects(&balancer.metadata, listed(balancer));
        let mut assigned: BTreeSet<Assignee> = BTreeSet::new();
        for row in
            rows.into_values().filter(|row| balancer.uid().as_deref() == Some(row.identity.uid.as_ref()))
        {
            let Some(pod) = pods.iter().find(|pod| pod.name_any() == *row.node.pod) else { continue };
            failed |= answer(context, pod, row, told).await;
            if is_ready(pod) {
                let endpoints = row.progress.endpoints.iter();
                let named =
                    endpoints.filter_map(|known| Some((known.uid.as_ref(), known.object.split_once('/')?.1)));
                assigned.extend(named.map(|(uid, name)| (uid.to_owned(), name.to_owned())));
            }
        }
        for assignee in &assigned {
            failed |= first_programmed(context, snapshot, &key, assignee).await;
        }
        context.assigned.publish(&key, assigned);
    }
    failed
}

/// What a stream's proxy answered; `None` before it has answered anything.
fn said(row: &Report) -> Option<Answer> {
    match (row.progress.rejections.iter().next(), row.progress.configured) {
        (Some(((kind, name), rejection)), _) => {
            Some(Answer::Rejected(format!("{kind:?} {name}: {}", rejection.message)))
        }
        (None, Some(revision)) => Some(Answer::Acknowledged(revision.generation)),
        (None, None) => None,
    }
}

async fn answer(context: &Shared, pod: &Pod, row: &Report, told: &mut Told) -> bool {
    let Some(wanted) = said(row) else { return false };
    if told.get(&row.stream) == Some(&wanted) {
        return false;
    }
    if read(pod).as_ref() == Some(&wanted) {
        told.insert(row.stream, wanted);
        return false;
    }
    // The uid makes sure that a successor of the same name is not meant; conditions merge by type.
    let patch = json!({
        "metadata": {"uid": pod.uid()},
        "status": {"conditions": [pod_condition(&wanted, now())]},
    });
    context.counters.wrote("Pod");
    let written = context
        .client
        .patch_status::<Pod, _>(&Key::of(pod), &PatchParams::default(), &Patch::Strategic(patch))
        .await;
    match written {
        Ok(_) => {
            told.insert(row.stream, wanted);
            false
        }
        Err(error) if error.is_not_found() || error.is_conflict() => false,
        Err(error) => {
            tracing::warn!(pod = pod.name_any(), %error, "condition not written");
            true
        }
    }
}

/// Sets `Programmed` of an Endpoint that a ready proxy of this replica has in its assignment.
async fn first_programmed(
    context: &Shared,
    snapshot: &Snapshot,
    balancer: &Key,
    (uid, name): &Assignee,
) -> bool {
    let key = Key::namespaced(balancer.namespace().unwrap_or_default(), name.as_str());
    let Some(endpoint) = snapshot.get::<Endpoint>(&key) else { return false };
    if endpoint.metadata.uid.as_ref() != Some(uid) {
        return false;
    }
    let generation = endpoint.metadata.generation;
    let told = endpoint.condition(PROGRAMMED).is_some_and(|known| {
        known.status == ConditionStatus::True && known.observed_generation == generation
    });
    if told || !endpoint.is_condition_true(ACCEPTED) {
        return false;
    }
    let mut after = endpoint.as_ref().clone();
    let conditions = &mut after.status.get_or_insert_default().conditions;
    set(conditions, PROGRAMMED, true, EndpointReason::Programmed, "", generation, &now());
    match publish_status(context, endpoint.as_ref(), after).await {
        Ok(_) => false,
        Err(error) => {
            tracing::debug!(endpoint = %key, %error, "condition not written");
            true
        }
    }
}

fn is_ready(pod: &Pod) -> bool {
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.as_deref()).unwrap_or_default();
    conditions.iter().any(|known| known.type_ == "Ready" && known.status == "True")
}
