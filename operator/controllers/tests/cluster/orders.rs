//! The samples, applied and deleted in any order.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use epic_control_plane::Request;
use epic_crds::well_known::policy;
use epic_crds::{Account, Endpoint, LoadBalancer};
use kube::ResourceExt;
use rand::rngs::StdRng;
use rand::seq::SliceRandom;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::Cluster;
use super::harness::Harness;
use super::history::{History, assert_unique};
use super::operator::Operator;
use super::tenants::{PATIENCE, all, apply_until_taken, remains, unconverged, until_nothing_is_left};

/// Orders tried.
const ORDERS: u64 = 6;

/// How many orders are tried; `EPIC_ORDERS` says another number (`make test-full`: 40).
fn orders() -> u64 {
    std::env::var("EPIC_ORDERS").ok().and_then(|text| text.parse().ok()).unwrap_or(ORDERS)
}

/// All objects of `config/samples`.
pub(crate) fn samples() -> Vec<Value> {
    let root = Path::new(env!("EPIC_CHECKOUT")).join("config/samples");
    let mut found = Vec::new();
    let mut folders = vec![root];
    while let Some(folder) = folders.pop() {
        for entry in
            std::fs::read_dir(&folder).expect("the samples").map(|entry| entry.expect("an entry").path())
        {
            if entry.is_dir() {
                folders.push(entry);
            } else if entry.extension().is_some_and(|extension| extension == "yaml") {
                let text = std::fs::read_to_string(&entry).expect("a sample");
                let documents = serde_yaml::Deserializer::from_str(&text);
                found.extend(documents.map(|one| {
                    serde::Deserialize::deserialize(one)
                        .unwrap_or_else(|error| panic!("{}: {error}", entry.display()))
                }));
            }
        }
    }
    found.retain(|object: &Value| object.is_object());
    assert!(found.len() >= 11, "the samples are there");
    found
}

/// The state in the end without what is allocated, timed or named at random.
async fn end_state(cluster: &Cluster) -> BTreeMap<String, Value> {
    let mut state = BTreeMap::new();
    for plural in ["epics", "accounts", "addresspools", "servicegroups", "loadbalancers", "endpoints"] {
        let list = Request::get(&format!("/apis/epic.acnodal.io/v1/{plural}"))
            .send(&cluster.admin)
            .await
            .expect_ok();
        for mut item in list["items"].as_array().cloned().unwrap_or_default() {
            let key = format!("{plural} {} {}", item["metadata"]["namespace"], item["metadata"]["name"]);
            blank(&mut item);
            state.insert(key, json!([item["spec"], item["status"]]));
        }
    }
    state
}

/// Replaces what differs from run to run by whether it is there.
fn blank(value: &mut Value) {
    const ALLOCATED: [&str; 27] = [
        "group-id",
        "service-id",
        "endpoint-id",
        "tunnel-id",
        "proxy-id",
        "public-address",
        "alias-address",
        "proxy-address",
        "proxy-ifindex",
        "proxy-ifname",
        "ifindex",
        "ifname",
        "pod",
        "pod-uid",
        "namespace-uid",
        "node",
        "epic-address",
        "current-group-id",
        "current-tunnel-id",
        "current-proxy-id",
        "current-service-id",
        "current-endpoint-id",
        "ipv6",
        "lastTransitionTime",
        "observedGeneration",
        "message",
        "alternates",
    ];
    match value {
        Value::Object(map) => {
            map.retain(|key, _| key != "alternates");
            for (key, value) in map.iter_mut() {
                if ALLOCATED.contains(&key.as_str()) {
                    *value = json!("…");
                } else {
                    blank(value);
                }
            }
        }
        Value::Array(list) => {
            list.iter_mut().for_each(blank);
            list.sort_by_key(Value::to_string);
        }
        _ => {}
    }
}

async fn assert_values_in_range(cluster: &Cluster) {
    let unique = |values: Vec<Option<i64>>, most: i64| {
        let found: BTreeSet<i64> = values.iter().copied().flatten().collect();
        assert_eq!(found.len(), values.len(), "each has a value of its own: {values:?}");
        assert!(found.iter().all(|value| (1..=most).contains(value)), "{found:?} lie in 1 to {most}");
    };
    let accounts = all::<Account>(&cluster.admin).await;
    unique(accounts.iter().map(|account| account.status.as_ref()?.group_id).collect(), 65_535);
    let balancers = all::<LoadBalancer>(&cluster.admin).await;
    let endpoints = all::<Endpoint>(&cluster.admin).await;
    for account in &accounts {
        let namespace = format!("epic-{}", account.name_any());
        let of = |object: &dyn Fn() -> Option<String>| object().as_deref() == Some(namespace.as_str());
        let services = balancers.iter().filter(|balancer| of(&|| balancer.namespace()));
        unique(services.map(|balancer| balancer.status.as_ref()?.service_id).collect(), 65_535);
        let own = endpoints.iter().filter(|endpoint| of(&|| endpoint.namespace()));
        unique(own.map(|endpoint| endpoint.status.as_ref()?.endpoint_id).collect(), 65_534);
    }
    let proxies = balancers.iter().flat_map(|balancer| balancer.status.clone().unwrap_or_default().proxies);
    unique(proxies.map(|proxy| proxy.proxy_id).collect(), (1 << 21) - 2);
    let tunnels = balancers.iter().flat_map(|balancer| {
        let entries = balancer.status.clone().unwrap_or_default().gue_tunnel_endpoints.into_values();
        entries
            .flat_map(|entry| entry.legs().map(|leg| Some(leg.tunnel_id)).collect::<Vec<_>>())
            .collect::<Vec<_>>()
    });
    unique(tunnels.collect(), i64::from(u32::MAX));
    for balancer in &balancers {
        let address = balancer.status.clone().unwrap_or_default().public_address.expect("an address");
        let last: u8 =
            address.strip_prefix("192.168.77.").expect("an address of the pool").parse().expect("a number");
        assert!((2..=31).contains(&last), "{address} lies in the pool");
    }
    let requested =
        balancers.iter().find(|balancer| balancer.name_any() == "sample-acnodal").expect("the sample");
    let status = requested.status.clone().unwrap_or_default();
    assert_eq!(status.public_address.as_deref(), Some("192.168.77.2"));
}

/// Deletes everything in this order, and what is refused because it is in use once more, as whoever gave the command
/// would; says how much was refused.
async fn delete_all(cluster: &Cluster, order: &[Value], random: &mut StdRng) -> usize {
    let (mut left, mut refused) = (order.to_vec(), 0);
    let deadline = Instant::now() + PATIENCE;
    while !left.is_empty() {
        let mut again = Vec::new();
        for object in left {
            let answer = Request::delete(&Request::path_of(&object)).send(&cluster.admin).await;
            if answer.code == 403 {
                assert!(answer.message().contains(policy::IN_USE), "{}", answer.message());
                again.push(object);
            }
            sleep(Duration::from_millis(random.random_range(0..100))).await;
        }
        assert!(Instant::now() < deadline, "these stay in use: {again:#?}");
        refused += again.len();
        left = again;
    }
    refused
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn samples_in_any_order_end_alike_and_deleted_in_any_order_leave_nothing() {
    let cluster = Cluster::start().await;
    let _harness = Harness::start(&cluster, 2).await;
    let history = History::record(&cluster.admin).await;
    let operator = Operator::start(&cluster).await;
    operator.ready().await;
    let mut expected: Option<BTreeMap<String, Value>> = None;
    let mut refused = 0;
    for seed in 0..orders() {
        let mut random = StdRng::seed_from_u64(seed);
        let mut order = samples();
        order.shuffle(&mut random);
        // An object whose namespace does not exist yet is tried again while the others go on.
        let mut appliers = tokio::task::JoinSet::new();
        for object in order.clone() {
            let pause = Duration::from_millis(random.random_range(0..150));
            let (cluster, first) =
                (Arc::clone(&cluster), Request::create(&object).send(&cluster.admin).await);
            if !first.is_ok() {
                appliers.spawn(async move { apply_until_taken(&cluster.admin, &object).await });
            }
            sleep(pause).await;
        }
        while appliers.join_next().await.is_some() {}
        let what = format!("order {seed}: the samples being served");
        until_nothing_is_left(&what, || unconverged(&cluster.admin)).await;
        assert_values_in_range(&cluster).await;
        let state = end_state(&cluster).await;
        match &expected {
            None => expected = Some(state),
            Some(expected) => {
                for (key, value) in expected {
                    assert_eq!(state.get(key), Some(value), "order {seed}: {key} is as in the first order");
                }
                assert_eq!(state.len(), expected.len());
            }
        }
        order.shuffle(&mut random);
        refused += delete_all(&cluster, &order, &mut random).await;
        let what = format!("order {seed}: everything being gone");
        until_nothing_is_left(&what, || remains(&cluster.admin)).await;
    }
    assert!(refused > 0, "something in use was to be deleted first");
    let grants = assert_unique(&history.events());
    assert!(u64::try_from(grants).is_ok_and(|grants| grants >= orders() * 10), "{grants} grants were seen");
}
