//! Kubelets and node agents, as far as the control plane can tell: pods get a node, an address and their conditions,
//! proxies acknowledge what they should be configured with, EPICNodes report revisions and tunnels, Leases are
//! renewed, and pods that are to end do.
//!
//! Everything follows from one snapshot; what is refused is tried with the next one.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use epic_control_plane::Request;
use epic_crds::condition::PROGRAMMED;
use epic_crds::well_known::{LABEL_LOAD_BALANCER, POD_CONDITION_CONFIGURED, POD_CONDITION_PROGRAMMED};
use epic_crds::{AddressClaim, HasConditions, LoadBalancer};
use k8s_openapi::api::core::v1::Pod;
use k8s_openapi::jiff::Timestamp;
use kates::Query;
use kube::core::Expression;
use kube::{Client, ResourceExt};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

use super::Cluster;

/// How often Leases and Nodes show that they live; what else is written follows from a change.
const HEARTBEAT: Duration = Duration::from_secs(10);
/// Between two reports of a node, as agents keep it: all LoadBalancers that wait are looked at with each.
const BETWEEN_REPORTS: Duration = Duration::from_millis(500);

/// Played nodes; dropping it ends them.
pub(crate) struct Harness {
    _tasks: JoinSet<()>,
}

impl Harness {
    /// Plays this many nodes, `node1` to `nodeN`.
    pub(crate) async fn start(cluster: &Arc<Cluster>, nodes: usize) -> Self {
        for number in 1..=nodes {
            join(&cluster.admin, number).await;
        }
        let mut tasks = JoinSet::new();
        tasks.spawn(run(cluster.admin.clone(), nodes));
        Self { _tasks: tasks }
    }
}

fn name(number: usize) -> String {
    format!("node{number}")
}

fn gue_address(number: usize) -> String {
    format!("192.168.77.{}", 100 + number)
}

async fn join(admin: &Client, number: usize) {
    let node = json!({"apiVersion": "v1", "kind": "Node", "metadata": {"name": name(number)}});
    let node = Request::create(&node).send(admin).await.expect_ok();
    heartbeat(admin, number).await;
    let owner = json!({
        "apiVersion": "v1", "kind": "Node", "name": name(number), "uid": node["metadata"]["uid"],
    });
    let ours = json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": "EPICNode",
        "metadata": {"name": name(number), "namespace": "epic", "ownerReferences": [owner]},
    });
    Request::create(&ours).send(admin).await.expect_ok();
    report(admin, number, &json!({"addresses": [gue_address(number)]})).await;
}

fn path_of_node(number: usize) -> String {
    format!("/apis/epic.acnodal.io/v1/namespaces/epic/epicnodes/{}/status", name(number))
}

async fn report(admin: &Client, number: usize, status: &Value) {
    Request::merge(&path_of_node(number), &json!({"status": status})).send(admin).await;
}

async fn heartbeat(admin: &Client, number: usize) {
    let now = Timestamp::now();
    let seconds = now.strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let ready = json!({
        "type": "Ready", "status": "True", "reason": "KubeletReady", "message": "",
        "lastHeartbeatTime": seconds, "lastTransitionTime": "2026-01-01T00:00:00Z",
    });
    let status = json!({"status": {
        "conditions": [ready],
        "addresses": [{"type": "InternalIP", "address": gue_address(number)}],
    }});
    Request::strategic(&format!("/api/v1/nodes/{}/status", name(number)), &status).send(admin).await;
    let lease = json!({
        "apiVersion": "coordination.k8s.io/v1", "kind": "Lease",
        "metadata": {"name": format!("epic-node-{}", name(number)), "namespace": "epic"},
        "spec": {
            "holderIdentity": name(number),
            "leaseDurationSeconds": 40,
            "renewTime": now.strftime("%Y-%m-%dT%H:%M:%S%.6fZ").to_string(),
        },
    });
    Request::apply(&lease).send(admin).await;
}

async fn run(admin: Client, nodes: usize) {
    let watches = kates::Client::new(admin.clone())
        .accumulate()
        .watch::<Pod>(Query::all().labels(Expression::Exists(LABEL_LOAD_BALANCER.to_owned())))
        .watch::<LoadBalancer>(Query::all())
        .watch::<AddressClaim>(Query::all())
        .start();
    let mut updates = watches.updates();
    let (mut beat, mut reported) = (Instant::now(), Instant::now());
    let mut unreported: Option<kates::Snapshot> = None;
    let mut states: Vec<BTreeSet<i64>> = vec![BTreeSet::new(); nodes];
    loop {
        if beat.elapsed() >= HEARTBEAT {
            beat = Instant::now();
            for number in 1..=nodes {
                heartbeat(&admin, number).await;
            }
        }
        let wait = if unreported.is_some() { BETWEEN_REPORTS } else { Duration::from_secs(1) };
        if let Ok(update) = timeout(wait, updates.next()).await {
            for pod in update.snapshot.list::<Pod>() {
                play(&admin, &update.snapshot, pod, nodes).await;
            }
            unreported = Some(update.snapshot);
        }
        if reported.elapsed() < BETWEEN_REPORTS {
            continue;
        }
        let Some(snapshot) = unreported.take() else { continue };
        reported = Instant::now();
        let awaited = snapshot.list::<LoadBalancer>().any(|balancer| !balancer.is_condition_true(PROGRAMMED))
            || snapshot.list::<AddressClaim>().any(|claim| claim.status.is_some());
        let revision = if awaited { current_revision(&admin).await } else { None };
        for number in 1..=nodes {
            let ids = tunnels(&snapshot, &gue_address(number));
            let moved = ids != states[number - 1];
            if !moved && revision.is_none() {
                continue;
            }
            let mut status = json!({});
            if let Some(revision) = &revision {
                status["load-balancers-revision"] = revision.as_str().into();
            }
            if moved {
                let list: Vec<Value> = ids
                    .iter()
                    .map(|id| json!({"tunnel-id": id, "up": true, "nat": false, "since": "2026-01-01T00:00:00Z"}))
                    .collect();
                status["tunnels"] = json!({"up": ids.len(), "down": 0, "total": ids.len(), "states": list});
            }
            report(&admin, number, &status).await;
            states[number - 1] = ids;
        }
    }
}

/// The revision of now, which is that of nothing but a quorum list.
async fn current_revision(admin: &Client) -> Option<String> {
    let list = Request::get("/apis/epic.acnodal.io/v1/loadbalancers?limit=1").send(admin).await;
    list.body["metadata"]["resourceVersion"].as_str().map(str::to_owned)
}

fn tunnels(snapshot: &kates::Snapshot, address: &str) -> BTreeSet<i64> {
    snapshot
        .list::<LoadBalancer>()
        .flat_map(|balancer| balancer.status.clone().unwrap_or_default().gue_tunnel_endpoints.into_values())
        .flat_map(|entry| entry.legs().collect::<Vec<_>>())
        .filter(|leg| leg.epic_address == address)
        .map(|leg| leg.tunnel_id)
        .collect()
}

async fn play(admin: &Client, snapshot: &kates::Snapshot, pod: &Pod, nodes: usize) {
    let path = format!("/api/v1/namespaces/{}/pods/{}", pod.namespace().unwrap_or_default(), pod.name_any());
    let uid = pod.uid().unwrap_or_default();
    if pod.metadata.deletion_timestamp.is_some() {
        Request::delete(&format!("{path}?gracePeriodSeconds=0")).send(admin).await;
        return;
    }
    let seed = uid.bytes().fold(0_usize, |sum, byte| sum.wrapping_mul(31).wrapping_add(usize::from(byte)));
    let Some(node) = pod.spec.as_ref().and_then(|spec| spec.node_name.clone()) else {
        let node = json!({"apiVersion": "v1", "kind": "Node", "name": name(1 + seed % nodes)});
        let binding = json!({
            "apiVersion": "v1", "kind": "Binding",
            "metadata": {"name": pod.name_any(), "namespace": pod.namespace(), "uid": uid}, "target": node,
        });
        Request::post(&format!("{path}/binding"), &binding).send(admin).await;
        return;
    };
    let conditions = pod.status.as_ref().and_then(|status| status.conditions.clone()).unwrap_or_default();
    let holds = |type_: &str| conditions.iter().any(|known| known.type_ == type_ && known.status == "True");
    let balancer = snapshot.list::<LoadBalancer>().find(|balancer| {
        let proxies = balancer.status.iter().flat_map(|status| &status.proxies);
        proxies.into_iter().any(|proxy| proxy.pod_uid == uid)
    });
    let mut wanted: Vec<Value> = Vec::new();
    let condition = |type_: &str, status: &str, message: &str| json!({"type": type_, "status": status, "message": message, "lastTransitionTime": "2026-01-01T00:00:00Z"});
    for type_ in ["PodScheduled", "Initialized", "ContainersReady"] {
        if !holds(type_) {
            wanted.push(condition(type_, "True", ""));
        }
    }
    // What an agent programs is a pod whose uid stands in the list; its gate opens the pod.
    if balancer.is_some() {
        for type_ in [POD_CONDITION_PROGRAMMED, "Ready"] {
            if !holds(type_) {
                wanted.push(condition(type_, "True", ""));
            }
        }
    }
    // What xDS would say: the generation whose slots the status shows.
    let generation = balancer.and_then(|balancer| balancer.condition(PROGRAMMED)?.observed_generation);
    if let Some(generation) = generation {
        let message = format!("generation {generation}");
        let known = conditions.iter().find(|known| known.type_ == POD_CONDITION_CONFIGURED);
        if known.and_then(|known| known.message.as_deref()) != Some(&message) {
            wanted.push(condition(POD_CONDITION_CONFIGURED, "True", &message));
        }
    }
    if wanted.is_empty() {
        return;
    }
    let ip = format!("10.244.{}.{}", seed / 251 % 251, seed % 251);
    let patch = json!({
        "metadata": {"uid": uid, "annotations": {
            "epic.acnodal.io/ifindex": (2 + seed % 1000).to_string(),
            "epic.acnodal.io/ifname": format!("veth{}", seed % 1000),
        }},
        "status": {
            "phase": "Running", "podIP": ip, "podIPs": [{"ip": ip}], "hostIP": gue_address(1),
            "conditions": wanted,
            "containerStatuses": [{
                "name": "envoy", "ready": true, "started": true, "restartCount": 0, "image": "epic/envoy:dev",
                "imageID": node, "state": {"running": {"startedAt": "2026-01-01T00:00:00Z"}},
            }],
        },
    });
    Request::strategic(&format!("{path}/status"), &patch).send(admin).await;
}
