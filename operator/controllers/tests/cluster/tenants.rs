//! Objects of tenants, and questions about all of them.

use std::collections::BTreeSet;
use std::time::Duration;

use epic_control_plane::{Request, eventually};
use epic_crds::condition::{PROGRAMMED, READY};
use epic_crds::{Account, AddressClaim, EPIC, Endpoint, HasConditions, LoadBalancer};
use kube::api::{Api, ListParams};
use kube::{Client, ResourceExt};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

/// How long a busy machine may take for sixty LoadBalancers, with two operators that undo each other's claims.
pub(crate) const PATIENCE: Duration = Duration::from_secs(900);

pub(crate) fn object(kind: &str, namespace: &str, name: &str, spec: Value) -> Value {
    json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": kind,
        "metadata": {"namespace": namespace, "name": name}, "spec": spec,
    })
}

pub(crate) fn load_balancer(namespace: &str, name: &str, group: &str) -> Value {
    let spec = json!({"service-group": group, "public-ports": [{"port": 80, "protocol": "TCP", "targetPort": 8080}]});
    object("LoadBalancer", namespace, name, spec)
}

pub(crate) fn endpoint(namespace: &str, name: &str, balancer: &str, address: &str, node: &str) -> Value {
    let spec = json!({
        "load-balancer": balancer, "address": address, "node-address": node,
        "port": {"port": 8080, "protocol": "TCP"},
    });
    object("Endpoint", namespace, name, spec)
}

/// All objects of a kind. The API server refuses the list for a moment after the kind's definition has changed (429).
pub(crate) async fn all<K>(client: &Client) -> Vec<K>
where
    K: kube::Resource<DynamicType = ()> + Clone + DeserializeOwned + std::fmt::Debug,
{
    eventually("a list", || async {
        match Api::<K>::all(client.clone()).list(&ListParams::default()).await {
            Err(kube::Error::Api(status)) if status.code == 429 => None,
            listed => Some(listed.expect("a list").items),
        }
    })
    .await
}

/// Creates an object again and again until the API server takes it: namespaces and definitions come when they come.
pub(crate) async fn apply_until_taken(client: &Client, object: &Value) {
    let deadline = Instant::now() + PATIENCE;
    loop {
        let answer = Request::create(object).send(client).await;
        if answer.is_ok() {
            return;
        }
        assert!(Instant::now() < deadline, "{}: {}", object["kind"], answer.message());
        sleep(Duration::from_millis(100)).await;
    }
}

/// Asks until nothing is unfinished any more.
pub(crate) async fn until_nothing_is_left<F>(what: &str, mut unfinished: impl FnMut() -> F)
where
    F: Future<Output = Vec<String>>,
{
    let deadline = Instant::now() + PATIENCE;
    loop {
        let left = unfinished().await;
        if left.is_empty() {
            return;
        }
        assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}: {left:#?}");
        sleep(Duration::from_millis(250)).await;
    }
}

fn reason(object: &impl HasConditions, type_: &str) -> String {
    object
        .condition(type_)
        .map_or_else(|| "no condition".to_owned(), |c| format!("{} {}", c.reason, c.message))
}

/// What keeps the system from being converged: every object served, nothing reserved, claims as addresses.
pub(crate) async fn unconverged(client: &Client) -> Vec<String> {
    let mut left = Vec::new();
    for epic in all::<EPIC>(client).await {
        let status = epic.status.clone().unwrap_or_default();
        if !status.reservations.is_empty() {
            left.push(format!("EPIC has {} reservations", status.reservations.len()));
        }
        if !epic.is_condition_true(READY) {
            left.push(format!("EPIC: {}", reason(&epic, READY)));
        }
    }
    for account in all::<Account>(client).await {
        let status = account.status.clone().unwrap_or_default();
        if !status.reservations.is_empty() {
            left.push(format!("{} has {} reservations", account.name_any(), status.reservations.len()));
        }
        if !account.is_condition_true(READY) || account.spec.group_id != status.group_id {
            left.push(format!("Account {}: {}", account.name_any(), reason(&account, READY)));
        }
    }
    let mut shown = BTreeSet::new();
    for balancer in all::<LoadBalancer>(client).await {
        let status = balancer.status.clone().unwrap_or_default();
        shown.extend(status.public_address.clone());
        let complete = balancer.spec.service_id == status.service_id
            && balancer.spec.public_address == status.public_address;
        if !balancer.is_condition_true(READY) || !balancer.is_condition_true(PROGRAMMED) || !complete {
            left.push(format!("LoadBalancer {}: {}", balancer.name_any(), reason(&balancer, READY)));
        }
    }
    for endpoint in all::<Endpoint>(client).await {
        let status = endpoint.status.clone().unwrap_or_default();
        let through = status.alias_address.is_some() && status.tunnel_id.is_some();
        if !endpoint.is_condition_true("Accepted") || !endpoint.is_condition_true("TunnelUp") || !through {
            let why = format!("{}, {}", reason(&endpoint, "Accepted"), reason(&endpoint, "TunnelUp"));
            left.push(format!("Endpoint {}: {why}", endpoint.name_any()));
        }
    }
    for claim in all::<AddressClaim>(client).await {
        if claim.status.is_some() || !shown.remove(&claim.spec.address) {
            left.push(format!("claim {} is nobody's", claim.name_any()));
        }
    }
    left.extend(shown.into_iter().map(|address| format!("{address} has no claim")));
    left
}

/// What is still there of EPIC, its nodes aside.
pub(crate) async fn remains(client: &Client) -> Vec<String> {
    let mut left = Vec::new();
    for plural in
        ["epics", "accounts", "addresspools", "servicegroups", "loadbalancers", "endpoints", "addressclaims"]
    {
        let list = Request::get(&format!("/apis/epic.acnodal.io/v1/{plural}")).send(client).await.expect_ok();
        let items = list["items"].as_array().cloned().unwrap_or_default();
        left.extend(items.iter().map(|item| format!("{plural} {}", item["metadata"]["name"])));
    }
    let namespaces = Request::get("/api/v1/namespaces").send(client).await.expect_ok();
    for namespace in namespaces["items"].as_array().into_iter().flatten() {
        let name = namespace["metadata"]["name"].as_str().unwrap_or_default();
        if name.starts_with("epic-") {
            left.push(format!("namespace {name}: {}", namespace["status"]["conditions"]));
        }
    }
    left
}
