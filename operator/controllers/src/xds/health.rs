//! `Healthy` of Endpoints: what the proxies that this replica serves have found.
//!
//! Each replica says it for its own proxies: it puts their names into `status.unhealthy-in` of an Endpoint, or takes them
//! out, and leaves those of others alone. So two replicas never contradict each other, whichever writes last. Names of
//! proxies that are gone are taken out by the Endpoint's controller.
//!
//! At most one Endpoint a second is written for each LoadBalancer and replica, by turns, so one that comes and goes does
//! not keep the others from being written, and a client node that dies with hundreds of Endpoints is no storm of writes.
//! An Endpoint that nobody ever found unhealthy is not written at all.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use epic_crds::condition::{HEALTHY, find, set};
use epic_crds::{Endpoint, EndpointReason, EndpointStatus, LoadBalancer};
use epic_model::address;
use epic_xds::health::{Finding, Findings};
use k8s_openapi::apimachinery::pkg::apis::meta::v1::Time;
use kates::{Key, Snapshot};
use kube::ResourceExt;
use tokio::time::{Instant, MissedTickBehavior, interval_at};
use tokio_util::sync::CancellationToken;

use crate::context::Shared;
use crate::reconcile::{now, publish_status};

/// Time between two writes for one LoadBalancer.
const PACE: Duration = Duration::from_secs(1);

/// Most names that stand in a status.
const MAX_NAMES: usize = 128;

/// The Endpoint written last, by LoadBalancer: the next one has its turn.
type Turns = BTreeMap<Key, String>;

/// Follows the findings until `shutdown`.
pub(super) async fn run(context: Shared, findings: Arc<Findings>, shutdown: CancellationToken) {
    let mut changed = findings.watch();
    let mut pace = interval_at(Instant::now() + PACE, PACE);
    pace.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut turns = Turns::new();
    let mut is_settled = true;
    let mut again = Instant::now();
    loop {
        tokio::select! {
            () = shutdown.cancelled() => return,
            _ = pace.tick() => {}
        }
        // Endpoints come and go without a finding, so what is settled is looked at again now and then.
        let has_news = changed.has_changed().unwrap_or(false);
        if is_settled && !has_news && Instant::now() < again {
            continue;
        }
        changed.mark_unchanged();
        again = Instant::now() + context.settings.full_pass;
        is_settled = match context.snapshot() {
            Ok(snapshot) => pass(&context, &snapshot, &findings.rows(), &mut turns).await,
            Err(_) => false,
        };
    }
}

/// Writes one Endpoint of each LoadBalancer that has one to be written; says whether nothing is left.
async fn pass(context: &Shared, snapshot: &Snapshot, rows: &[Arc<Finding>], turns: &mut Turns) -> bool {
    let mut by_balancer: BTreeMap<Key, Vec<&Finding>> = BTreeMap::new();
    for row in rows {
        let of = &row.identity;
        by_balancer.entry(Key::namespaced(&*of.namespace, &*of.load_balancer)).or_default().push(row);
    }
    turns.retain(|balancer, _| by_balancer.contains_key(balancer));
    let mut is_settled = true;
    for (key, rows) in by_balancer {
        let Some(balancer) = snapshot.get::<LoadBalancer>(&key) else { continue };
        let differing = differing(snapshot, balancer, &rows);
        let Some((endpoint, names)) = next(&differing, turns.get(&key).map(String::as_str)) else { continue };
        is_settled = false;
        turns.insert(key, endpoint.name_any());
        let mut after = endpoint.as_ref().clone();
        apply(after.status.get_or_insert_default(), names.clone(), endpoint.metadata.generation, &now());
        if let Err(error) = publish_status(context, endpoint.as_ref(), after).await {
            tracing::debug!(endpoint = %Key::of(endpoint.as_ref()), %error, "health not written; it is tried again");
        }
    }
    is_settled
}

/// The Endpoints of a LoadBalancer whose status is to name other proxies, by name, each with the names.
fn differing<'s>(
    snapshot: &'s Snapshot,
    balancer: &LoadBalancer,
    rows: &[&Finding],
) -> Vec<(&'s Arc<Endpoint>, BTreeSet<String>)> {
    let rows = believed(balancer, rows);
    let is_anything_unhealthy = rows.iter().any(|row| !row.unhealthy.is_empty());
    let namespace = balancer.namespace().unwrap_or_default();
    let endpoints = snapshot.in_namespace::<Endpoint>(&namespace);
    let mut found = Vec::new();
    for endpoint in endpoints.filter(|endpoint| endpoint.spec.load_balancer == balancer.name_any()) {
        let known = &endpoint.status.as_ref().map(|status| status.unhealthy_in.clone()).unwrap_or_default();
        if known.is_empty() && !is_anything_unhealthy {
            continue;
        }
        let before: BTreeSet<String> = known.iter().cloned().collect();
        let names = found_in(&before, dialled(endpoint), &rows);
        if names != before {
            found.push((endpoint, names));
        }
    }
    found.sort_by_key(|(endpoint, _)| endpoint.name_any());
    found
}

/// What the listed proxies of a LoadBalancer say. A pod may call itself what it likes, and one that is not listed yet or no
/// more would be taken out again by the Endpoint's controller.
fn believed<'f>(balancer: &LoadBalancer, rows: &[&'f Finding]) -> Vec<&'f Finding> {
    let listed = balancer.status.iter().flat_map(|status| &status.proxies);
    let listed: BTreeSet<&str> = listed.map(|proxy| proxy.pod.as_str()).collect();
    let uid = balancer.uid().unwrap_or_default();
    let is_of = |row: &&Finding| *row.identity.uid == *uid && listed.contains(&*row.node.pod);
    rows.iter().copied().filter(is_of).collect()
}

/// Who finds what is dialled unhealthy: those that did before, but for the proxies of `rows`, which say so now or do not.
fn found_in(before: &BTreeSet<String>, dialled: Option<SocketAddr>, rows: &[&Finding]) -> BTreeSet<String> {
    let mut names = before.clone();
    for row in rows {
        if dialled.is_some_and(|dialled| row.unhealthy.contains(&dialled)) {
            names.insert(row.node.pod.to_string());
        } else {
            names.remove(&*row.node.pod);
        }
    }
    names.into_iter().take(MAX_NAMES).collect()
}

/// The address that proxies dial for an Endpoint.
fn dialled(endpoint: &Endpoint) -> Option<SocketAddr> {
    let text = match endpoint.spec.node_address {
        Some(_) => endpoint.status.as_ref()?.alias_address.as_deref()?,
        None => &endpoint.spec.address,
    };
    Some(SocketAddr::new(address::parse(text).ok()?, u16::try_from(endpoint.spec.port.port).ok()?))
}

/// The first one after the one that was written last.
fn next<'d, T>(
    differing: &'d [(&'d Arc<Endpoint>, T)],
    last: Option<&str>,
) -> Option<&'d (&'d Arc<Endpoint>, T)> {
    let after = differing.iter().find(|(endpoint, _)| last.is_none_or(|last| *endpoint.name_any() > *last));
    after.or(differing.first())
}

/// Sets who finds the Endpoint unhealthy, and the condition that follows from it.
pub(crate) fn apply(
    status: &mut EndpointStatus,
    names: BTreeSet<String>,
    generation: Option<i64>,
    now: &Time,
) {
    status.unhealthy_in = names.into_iter().collect();
    let names = &status.unhealthy_in;
    let conditions = &mut status.conditions;
    if names.is_empty() {
        if find(conditions, HEALTHY).is_some() {
            set(conditions, HEALTHY, true, EndpointReason::Healthy, "", generation, now);
        }
        return;
    }
    let shown: Vec<&str> = names.iter().take(3).map(String::as_str).collect();
    let more = names.len() - shown.len();
    let others = if more > 0 { format!(" and {more} more") } else { String::new() };
    let text = format!(
        "connections or health checks of its proxies {}{others} fail; they send it nothing while others are healthy",
        shown.join(", ")
    );
    set(conditions, HEALTHY, false, EndpointReason::Unhealthy, text, generation, now);
}

/// Takes out proxies that are no more.
pub(crate) fn forget_gone(
    status: &mut EndpointStatus,
    balancer: Option<&LoadBalancer>,
    generation: Option<i64>,
    now: &Time,
) {
    let Some(listed) = balancer.and_then(|balancer| balancer.status.as_ref()) else { return };
    let is_there = |name: &String| listed.proxies.iter().any(|proxy| proxy.pod == *name);
    let names: BTreeSet<String> = status.unhealthy_in.iter().filter(|name| is_there(name)).cloned().collect();
    if names.len() != status.unhealthy_in.len() {
        apply(status, names, generation, now);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use epic_crds::ConditionStatus;
    use serde_json::json;

    fn at(second: i64) -> Time {
        Time(jiff::Timestamp::from_second(second).unwrap())
    }

    fn endpoint(name: &str) -> Arc<Endpoint> {
        let value = json!({
            "apiVersion": "epic.acnodal.io/v1", "kind": "Endpoint",
            "metadata": {"name": name, "namespace": "epic-red", "uid": name, "generation": 4},
            "spec": {"load-balancer": "web", "address": "10.0.0.9", "node-address": "10.0.0.1", "port": {"port": 8080}},
            "status": {"alias-address": "100.127.0.1"},
        });
        Arc::new(serde_json::from_value(value).unwrap())
    }

    fn names(list: &[&str]) -> BTreeSet<String> {
        list.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn an_endpoint_that_never_was_unhealthy_has_no_condition_and_one_that_was_says_when_it_recovered() {
        let mut status = EndpointStatus::default();
        apply(&mut status, names(&[]), Some(1), &at(1));
        assert_eq!(status, EndpointStatus::default());
        apply(&mut status, names(&["web-1", "web-2", "web-3", "web-4"]), Some(1), &at(2));
        let known = find(&status.conditions, HEALTHY).unwrap().clone();
        assert_eq!(known.status, ConditionStatus::False);
        assert!(known.message.contains("web-1, web-2, web-3 and 1 more"), "{}", known.message);
        apply(&mut status, names(&[]), Some(1), &at(3));
        let known = find(&status.conditions, HEALTHY).unwrap();
        assert_eq!((known.status, &known.last_transition_time), (ConditionStatus::True, &at(3)));
    }

    #[test]
    fn the_table_says_what_the_health_of_an_endpoint_is() {
        let after = |found: &[&[&str]]| {
            let mut status = EndpointStatus::default();
            found.iter().for_each(|list| apply(&mut status, names(list), None, &at(1)));
            status.conditions
        };
        let found = vec![
            ("no proxy ever found it unhealthy", after(&[&[]])),
            ("a proxy finds it unhealthy", after(&[&["web-1"]])),
            ("none does any more", after(&[&["web-1"], &[]])),
        ];
        crate::situations::check("Endpoint: its health", found);
    }

    /// LoadBalancer `web` with proxy `web-1`.
    fn balancer() -> LoadBalancer {
        serde_json::from_value(json!({
            "apiVersion": "epic.acnodal.io/v1", "kind": "LoadBalancer", "metadata": {"name": "web", "uid": "u"},
            "spec": {"public-ports": [], "service-group": "g"},
            "status": {"proxies": [{"pod": "web-1", "pod-uid": "1", "state": "Ready"}]},
        }))
        .unwrap()
    }

    fn finding(pod: &str, unhealthy: &[&str]) -> Finding {
        Finding {
            identity: epic_xds::Identity::new("epic-red", "web", "u"),
            node: epic_xds::NodeName { pod: pod.into() },
            unhealthy: unhealthy.iter().map(|text| text.parse().unwrap()).collect(),
        }
    }

    #[test]
    fn a_pod_that_is_no_listed_proxy_of_the_load_balancer_is_not_believed() {
        let (listed, stranger) = (finding("web-1", &[]), finding("api-1", &[]));
        let successor =
            Finding { identity: epic_xds::Identity::new("epic-red", "web", "v"), ..listed.clone() };
        assert_eq!(believed(&balancer(), &[&listed, &stranger, &successor]), [&listed]);
    }

    #[test]
    fn proxies_that_are_gone_find_nothing_any_more() {
        let balancer = balancer();
        let mut status = EndpointStatus::default();
        apply(&mut status, names(&["web-1", "web-2"]), None, &at(1));
        forget_gone(&mut status, None, None, &at(2));
        assert_eq!(
            status.unhealthy_in,
            ["web-1", "web-2"],
            "nothing is known while the LoadBalancer cannot be read"
        );
        forget_gone(&mut status, Some(&balancer), None, &at(2));
        assert_eq!(status.unhealthy_in, ["web-1"]);
    }

    #[test]
    fn replicas_of_the_operator_speak_for_their_own_proxies_alone() {
        let dialled = Some("100.127.0.1:8080".parse().unwrap());
        let (ill, well) = (finding("web-1", &["100.127.0.1:8080"]), finding("web-2", &["100.127.0.2:8080"]));
        let mut known = names(&[]);
        for _ in 0..2 {
            // One serves web-1, the other web-2.
            known = found_in(&known, dialled, &[&ill]);
            known = found_in(&known, dialled, &[&well]);
            assert_eq!(known, names(&["web-1"]));
        }
        assert_eq!(found_in(&known, dialled, &[&finding("web-1", &[])]), names(&[]));
    }

    #[test]
    fn endpoints_are_written_by_turns() {
        let (one, two, three) = (endpoint("a"), endpoint("b"), endpoint("c"));
        let differing = [(&one, ()), (&two, ()), (&three, ())];
        let name = |last| next(&differing, last).unwrap().0.name_any();
        assert_eq!(name(None), "a");
        assert_eq!(name(Some("a")), "b");
        assert_eq!(name(Some("aa")), "b", "the one before may be gone");
        assert_eq!(name(Some("c")), "a");
        assert!(next::<()>(&[], Some("a")).is_none());
    }

    #[test]
    fn an_endpoint_is_found_by_what_proxies_dial() {
        assert_eq!(dialled(&endpoint("a")), Some("100.127.0.1:8080".parse().unwrap()));
        let mut plain = endpoint("a").as_ref().clone();
        plain.spec.node_address = None;
        assert_eq!(dialled(&plain), Some("10.0.0.9:8080".parse().unwrap()));
    }
}
