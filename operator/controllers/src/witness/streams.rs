//! The proxies that are connected to this replica, named in a Lease of its own: `epic-streams-<pod>`.
//!
//! Renewed at a steady pace whether or not the set changed, so that the replica's own life shows as well. It belongs to
//! the replica's pod and goes with it. A proxy is named by its ID, so thousands take a few kilobytes.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use epic_crds::LoadBalancer;
use epic_crds::well_known::{ANNOTATION_STREAMS, LABEL_STREAMS, streams_lease_name};
use epic_xds::{Report, Reports};
use k8s_openapi::api::coordination::v1::{Lease, LeaseSpec};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::apimachinery::pkg::apis::meta::v1::{MicroTime, ObjectMeta, OwnerReference};
use k8s_openapi::jiff::Timestamp;
use kates::{Key, Snapshot};
use kube::ResourceExt;
use kube::api::{Patch, PatchParams};
use serde_json::json;
use tokio::time::{MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::peers::{Peers, Place};
use super::{SILENT_AFTER, ids};
use crate::context::Shared;

/// Between two renewals, and so the longest time until a change is named.
const RENEW: Duration = Duration::from_secs(10);

/// The proxies that a replica's Lease names.
pub(super) fn named(lease: &Lease) -> impl Iterator<Item = u32> + '_ {
    let text = lease.annotations().get(ANNOTATION_STREAMS).map_or("", String::as_str);
    // A text of somebody else's must not make this process count for ever.
    ids::parse(text).flat_map(|range| range.take(MOST)).take(MOST)
}

/// More proxies than one replica can serve.
const MOST: usize = 100_000;

/// Renews until `shutdown`. A renewal that fails is made again at the next time.
pub async fn run(context: Shared, reports: Arc<Reports>, shutdown: CancellationToken) {
    let own = streams_lease_name(&context.settings.identity);
    let (mut place, mut peers) = (None, Peers::default());
    let mut timer = interval(RENEW);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = timer.tick() => {}
        }
        let Ok(snapshot) = context.snapshot() else { continue };
        let all = snapshot.list::<Lease>().map(|lease| &**lease);
        let others: Vec<&Lease> = all
            .filter(|lease| lease.labels().contains_key(LABEL_STREAMS) && lease.name_any() != own)
            .collect();
        // Nobody asks for the place of a replica that is alone.
        if place.is_none() && !others.is_empty() {
            place = own_pod(&context).await.ok().flatten().as_ref().and_then(Place::of);
        }
        let mut says = BTreeMap::new();
        if let Some(place) = &place {
            says = place.annotations(peers.is_isolated(place, others).await);
        }
        let connected = ids::format(&connected(&snapshot, &reports.rows()));
        says.insert(ANNOTATION_STREAMS.to_owned(), connected);
        if let Err(error) = renew(&context, &own, says).await {
            tracing::warn!(%error, "the Lease that names this replica's proxies was not renewed");
        }
    }
}

/// IDs of the proxies that have an open stream.
fn connected(snapshot: &Snapshot, rows: &[Report]) -> BTreeSet<u32> {
    let id = |row: &Report| {
        let identity = &row.identity;
        let key = Key::namespaced(identity.namespace.as_ref(), identity.load_balancer.as_ref());
        let balancer = snapshot.get::<LoadBalancer>(&key)?;
        if balancer.metadata.uid.as_deref() != Some(identity.uid.as_ref()) {
            return None;
        }
        let mut proxies = balancer.status.iter().flat_map(|status| &status.proxies);
        let proxy = proxies.find(|proxy| proxy.pod == *row.node.pod)?;
        u32::try_from(proxy.proxy_id?).ok()
    };
    rows.iter().filter(|row| row.connected).filter_map(id).collect()
}

/// The pod of this replica; `None` for a process that is no pod.
async fn own_pod(context: &Shared) -> Result<Option<Pod>, kates::Error> {
    let (namespace, replica) = (context.settings.namespace.as_str(), context.settings.identity.as_str());
    context.client.get_opt::<Pod>(&Key::namespaced(namespace, replica)).await
}

async fn renew(context: &Shared, name: &str, says: BTreeMap<String, String>) -> Result<(), kates::Error> {
    let (namespace, replica) = (&context.settings.namespace, &context.settings.identity);
    let key = Key::namespaced(namespace.as_str(), name);
    let now = MicroTime(Timestamp::now());
    let patch = json!({
        "metadata": {"annotations": says},
        "spec": {"renewTime": now},
    });
    context.counters.wrote("Lease");
    match context.client.patch::<Lease, _>(&key, &PatchParams::default(), &Patch::Merge(patch)).await {
        Ok(_) => Ok(()),
        Err(error) if error.is_not_found() => {
            let pod = own_pod(context).await?;
            let mut lease = Lease {
                metadata: ObjectMeta {
                    name: Some(name.to_owned()),
                    namespace: Some(namespace.clone()),
                    labels: Some([(LABEL_STREAMS.to_owned(), String::new())].into()),
                    annotations: Some(says),
                    // A process that is no pod leaves its Lease behind, where it falls silent.
                    owner_references: pod.map(|pod| vec![owner(&pod)]),
                    ..ObjectMeta::default()
                },
                spec: Some(LeaseSpec {
                    acquire_time: Some(now.clone()),
                    holder_identity: Some(replica.clone()),
                    lease_duration_seconds: Some(i32::try_from(SILENT_AFTER.as_secs()).unwrap_or(i32::MAX)),
                    renew_time: Some(now),
                    ..LeaseSpec::default()
                }),
            };
            context.client.create(&mut lease).await
        }
        Err(error) => Err(error),
    }
}

fn owner(pod: &Pod) -> OwnerReference {
    OwnerReference {
        api_version: "v1".to_owned(),
        kind: "Pod".to_owned(),
        name: pod.name_any(),
        uid: pod.uid().unwrap_or_default(),
        ..OwnerReference::default()
    }
}
