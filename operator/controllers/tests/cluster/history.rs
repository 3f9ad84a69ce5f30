//! What the API server saw, in its order: every version of every object of the watched kinds.
//!
//! Uniqueness is a statement about all moments, so it is judged from here: at each revision no value is granted twice,
//! and none changes while its object lives.

use std::collections::BTreeMap;
use std::sync::Arc;

use epic_control_plane::Request;
use futures::{StreamExt, TryStreamExt};
use kube::api::{Api, ApiResource, DynamicObject, WatchEvent, WatchParams};
use kube::{Client, ResourceExt};
use parking_lot::Mutex;
use serde_json::Value;
use tokio::task::JoinSet;

/// One event.
#[derive(Clone, Debug)]
pub(crate) struct Event {
    /// Its revision.
    pub(crate) revision: u64,
    /// Kind of the object.
    pub(crate) kind: &'static str,
    /// Whether the object is gone with it.
    pub(crate) deleted: bool,
    /// The object as it is at this revision.
    pub(crate) object: Arc<DynamicObject>,
}

/// Records until dropped.
pub(crate) struct History {
    events: Arc<Mutex<Vec<Event>>>,
    _tasks: JoinSet<()>,
}

/// A kind that is recorded: group, plural, kind.
type Recorded = (&'static str, &'static str, &'static str);

const OURS: &[Recorded] = &[
    ("epic.acnodal.io", "epics", "EPIC"),
    ("epic.acnodal.io", "epicnodes", "EPICNode"),
    ("epic.acnodal.io", "accounts", "Account"),
    ("epic.acnodal.io", "addressclaims", "AddressClaim"),
    ("epic.acnodal.io", "addresspools", "AddressPool"),
    ("epic.acnodal.io", "servicegroups", "ServiceGroup"),
    ("epic.acnodal.io", "loadbalancers", "LoadBalancer"),
    ("epic.acnodal.io", "endpoints", "Endpoint"),
];

/// What is written because of them: by the operator, by Kubernetes' own controllers, by agents and kubelets.
const MADE: &[Recorded] = &[
    ("", "namespaces", "Namespace"),
    ("", "configmaps", "ConfigMap"),
    ("", "secrets", "Secret"),
    ("", "serviceaccounts", "ServiceAccount"),
    ("", "pods", "Pod"),
    ("", "nodes", "Node"),
    ("apps", "deployments", "Deployment"),
    ("apps", "replicasets", "ReplicaSet"),
    ("coordination.k8s.io", "leases", "Lease"),
    ("events.k8s.io", "events", "Event"),
    ("policy", "poddisruptionbudgets", "PodDisruptionBudget"),
    ("rbac.authorization.k8s.io", "rolebindings", "RoleBinding"),
];

impl History {
    /// Records EPIC's kinds and every kind that EPIC causes writes to, from now on.
    pub(crate) async fn record(client: &Client) -> Self {
        let events = Arc::new(Mutex::new(Vec::new()));
        let mut tasks = JoinSet::new();
        for (group, plural, kind) in OURS.iter().chain(MADE) {
            let resource = ApiResource {
                group: (*group).to_owned(),
                version: "v1".to_owned(),
                api_version: if group.is_empty() { "v1".to_owned() } else { format!("{group}/v1") },
                kind: (*kind).to_owned(),
                plural: (*plural).to_owned(),
            };
            let path = match *group {
                "" => format!("/api/v1/{plural}?limit=1"),
                group => format!("/apis/{group}/v1/{plural}?limit=1"),
            };
            let list = Request::get(&path).send(client).await.expect_ok();
            let from = list["metadata"]["resourceVersion"].as_str().expect("a revision").to_owned();
            let api = Api::all_with(client.clone(), &resource);
            tasks.spawn(follow(api, kind, from, Arc::clone(&events)));
        }
        Self { events, _tasks: tasks }
    }

    /// All events so far, in the API server's order.
    pub(crate) fn events(&self) -> Vec<Event> {
        let mut events = self.events.lock().clone();
        events.sort_by_key(|event| event.revision);
        events
    }

    /// How often objects of each kind were written or deleted.
    pub(crate) fn by_kind(&self) -> BTreeMap<&'static str, usize> {
        let mut counts = BTreeMap::new();
        self.events.lock().iter().for_each(|event| *counts.entry(event.kind).or_default() += 1);
        counts
    }

    /// How many there are.
    pub(crate) fn len(&self) -> usize {
        self.events.lock().len()
    }
}

async fn follow(
    api: Api<DynamicObject>,
    kind: &'static str,
    mut from: String,
    events: Arc<Mutex<Vec<Event>>>,
) {
    loop {
        let parameters = WatchParams::default().timeout(280);
        let Ok(stream) = api.watch(&parameters, &from).await else {
            tokio::time::sleep(std::time::Duration::from_millis(200)).await;
            continue;
        };
        let mut stream = stream.boxed();
        while let Ok(Some(event)) = stream.try_next().await {
            let (object, deleted) = match event {
                WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
                WatchEvent::Deleted(object) => (object, true),
                WatchEvent::Bookmark(bookmark) => {
                    from = bookmark.metadata.resource_version;
                    continue;
                }
                // Nothing may be missing from what is judged.
                WatchEvent::Error(error) => panic!("the history of {kind} has a gap: {error}"),
            };
            from = object.resource_version().unwrap_or_default();
            let revision = from.parse().expect("a revision is a number");
            events.lock().push(Event { revision, kind, deleted, object: Arc::new(object) });
        }
    }
}

/// A value and where it must be unique.
type Granted = BTreeMap<(String, String), u64>;

/// The values that an object holds: (scope, name of the grant) → value.
fn granted(kind: &str, object: &DynamicObject) -> Vec<(String, String, String)> {
    let status = &object.data["status"];
    let namespace = object.namespace().unwrap_or_default();
    let mut found = Vec::new();
    let mut add = |scope: String, what: String, value: &Value| {
        let text =
            value.as_str().map(str::to_owned).or_else(|| value.as_u64().map(|number| number.to_string()));
        if let Some(text) = text {
            found.push((scope, what, text));
        }
    };
    match kind {
        "Account" => add("group".into(), "group-id".into(), &status["group-id"]),
        "Endpoint" => add(format!("endpoint {namespace}"), "endpoint-id".into(), &status["endpoint-id"]),
        "LoadBalancer" => {
            add(format!("service {namespace}"), "service-id".into(), &status["service-id"]);
            add("address".into(), "public-address".into(), &status["public-address"]);
            for proxy in status["proxies"].as_array().into_iter().flatten() {
                let pod = proxy["pod-uid"].as_str().unwrap_or_default();
                add("proxy".into(), format!("proxy of {pod}"), &proxy["proxy-id"]);
            }
            for (client, entry) in status["gue-tunnel-endpoints"].as_object().into_iter().flatten() {
                let alternates = entry["alternates"].as_array().into_iter().flatten();
                for leg in std::iter::once(entry).chain(alternates) {
                    let epic = leg["epic-address"].as_str().unwrap_or_default();
                    add("tunnel".into(), format!("tunnel {client} {epic}"), &leg["tunnel-id"]);
                }
            }
        }
        _ => {}
    }
    found
}

/// Asserts that at no moment a value was granted twice in its scope, and that none changed while its object lived.
/// Answers how many grants were seen.
pub(crate) fn assert_unique(events: &[Event]) -> usize {
    let mut holders: BTreeMap<(String, String), (String, String)> = BTreeMap::new();
    let mut by_object: BTreeMap<String, BTreeMap<(String, String), String>> = BTreeMap::new();
    let mut grants: Granted = BTreeMap::new();
    for event in events {
        let uid = event.object.uid().unwrap_or_default();
        let before = by_object.remove(&uid).unwrap_or_default();
        let after: BTreeMap<(String, String), String> = match event.deleted {
            true => BTreeMap::new(),
            false => granted(event.kind, &event.object)
                .into_iter()
                .map(|(scope, what, value)| ((scope, what), value))
                .collect(),
        };
        let who = format!(
            "{} {}/{}",
            event.kind,
            event.object.namespace().unwrap_or_default(),
            event.object.name_any()
        );
        for ((scope, what), value) in &before {
            match after.get(&(scope.clone(), what.clone())) {
                Some(same) if same == value => {}
                Some(other) => {
                    panic!("{what} of {who} changed from {value} to {other} at {}", event.revision)
                }
                None => {
                    let fixed = ["group-id", "service-id", "endpoint-id", "public-address"];
                    assert!(
                        event.deleted || !fixed.contains(&what.as_str()),
                        "{what} of {who} was taken away at {}",
                        event.revision
                    );
                    holders.remove(&(scope.clone(), value.clone()));
                }
            }
        }
        for ((scope, what), value) in &after {
            if before.contains_key(&(scope.clone(), what.clone())) {
                continue;
            }
            let mine = (uid.clone(), format!("{what} of {who}"));
            if let Some((_, theirs)) = holders.insert((scope.clone(), value.clone()), mine.clone()) {
                panic!("{scope} {value} is {} and {theirs} at {}", mine.1, event.revision);
            }
            *grants.entry((scope.clone(), value.clone())).or_default() += 1;
        }
        if !after.is_empty() {
            by_object.insert(uid, after);
        }
    }
    grants.values().map(|count| usize::try_from(*count).unwrap_or_default()).sum()
}
