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
use epic_xds::{Report, Reports};
use k8s_openapi::api::core::v1::Pod;
use kates::{Key, Snapshot};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::sleep;
use tokio_util::sync::CancellationToken;

use super::condition::{Answer, pod_condition, read};
use crate::context::Shared;
use crate::proxy::objects_of;
use crate::reconcile::{now, publish_status};

/// Longest time until a write that failed is tried again.
const AGAIN: Duration = Duration::from_secs(2);

/// Follows the reports until `shutdown`.
pub(super) async fn run(context: Shared, reports: Arc<Reports>, shutdown: CancellationToken) {
    let mut watch = reports.watch();
    let mut updates = context.watches.updates();
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
        failed = pass(&context, &snapshot, &reports.rows()).await;
    }
}

/// Writes what differs; says whether something is left to be tried again.
async fn pass(context: &Shared, snapshot: &Snapshot, rows: &[Report]) -> bool {
    let mut failed = false;
    let mut by_balancer: BTreeMap<Key, Vec<&Report>> = BTreeMap::new();
    for row in rows.iter().filter(|row| row.connected) {
        let key = Key::namespaced(row.identity.namespace.as_ref(), row.identity.load_balancer.as_ref());
        by_balancer.entry(key).or_default().push(row);
    }
    for (key, rows) in by_balancer {
        let Some(balancer) = snapshot.get::<LoadBalancer>(&key) else {
            context.assigned.forget(&key);
            continue;
        };
        let pods = objects_of(snapshot, balancer);
        let mut assigned: BTreeSet<String> = BTreeSet::new();
        for row in rows.into_iter().filter(|row| balancer.uid().as_deref() == Some(row.identity.uid.as_ref()))
        {
            let Some(pod) = pods.iter().find(|pod| pod.name_any() == *row.node.pod) else { continue };
            failed |= answer(context, pod, row).await;
            if is_ready(pod) {
                let names = row.progress.endpoints.iter().filter_map(|known| known.object.split_once('/'));
                assigned.extend(names.map(|(_, name)| name.to_owned()));
            }
        }
        for name in &assigned {
            failed |= first_programmed(context, snapshot, &key, name).await;
        }
        context.assigned.publish(&key, assigned);
    }
    failed
}

async fn answer(context: &Shared, pod: &Pod, row: &Report) -> bool {
    let rejection = row.progress.rejections.iter().next();
    let wanted = match (rejection, row.progress.configured) {
        (Some(((kind, name), rejection)), _) => {
            Answer::Rejected(format!("{kind:?} {name}: {}", rejection.message))
        }
        (None, Some(revision)) => Answer::Acknowledged(revision.generation),
        (None, None) => return false,
    };
    if read(pod).as_ref() == Some(&wanted) {
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
        Ok(_) => false,
        Err(error) if error.is_not_found() || error.is_conflict() => false,
        Err(error) => {
            tracing::warn!(pod = pod.name_any(), %error, "condition not written");
            true
        }
    }
}

/// Sets `Programmed` of an Endpoint that a ready proxy of this replica has in its assignment.
async fn first_programmed(context: &Shared, snapshot: &Snapshot, balancer: &Key, name: &str) -> bool {
    let key = Key::namespaced(balancer.namespace().unwrap_or_default(), name);
    let Some(endpoint) = snapshot.get::<Endpoint>(&key) else { return false };
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
