//! What an address that cannot be had costs, and whom.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use epic_control_plane::{Request, eventually};
use epic_crds::condition::{AVAILABLE, PROGRAMMED};
use epic_crds::{AddressClaim, AddressPool, HasConditions, LoadBalancer};
use kube::ResourceExt;
use serde_json::{Value, json};
use tokio::time::{Instant, sleep};

use super::Cluster;
use super::harness::Harness;
use super::operator::Operator;
use super::tenants::{all, apply_until_taken, load_balancer, object};

/// LoadBalancers that ask outside of every pool.
const REFUSED: usize = 20;
/// How long nothing is asked of the API server: longer than any requeue but that of the full pass.
const QUIET: Duration = Duration::from_secs(60);
/// How long the address of another tenant may take meanwhile; on a machine where it takes long anyhow, three times that.
const BYSTANDER: Duration = Duration::from_secs(5);

/// Calls that the API server has served for EPIC's kinds, by verb and resource. Watches are none, and what EPICNodes
/// report comes from the harness.
async fn calls(cluster: &Cluster) -> BTreeMap<String, u64> {
    let answer = Request::get("/metrics").send(&cluster.admin).await;
    let text = answer.body.as_str().unwrap_or_else(|| panic!("no metrics: {}", answer.message())).to_owned();
    let label = |line: &str, name: &str| {
        let (_, rest) = line.split_once(&format!("{name}=\""))?;
        rest.split_once('"').map(|(value, _)| value.to_owned())
    };
    let mut calls = BTreeMap::new();
    for line in text.lines().filter(|line| line.starts_with("apiserver_request_total{")) {
        let (group, verb, resource) = (label(line, "group"), label(line, "verb"), label(line, "resource"));
        let (Some(group), Some(verb), Some(resource)) = (group, verb, resource) else { continue };
        if group != "epic.acnodal.io" || verb == "WATCH" || resource == "epicnodes" {
            continue;
        }
        let count: f64 = line.rsplit(' ').next().and_then(|count| count.parse().ok()).unwrap_or_default();
        *calls.entry(format!("{verb} {resource}")).or_insert(0) += count as u64;
    }
    assert!(calls.contains_key("LIST addressclaims"), "these are no counts of calls: {calls:?}");
    calls
}

fn asking(namespace: &str, name: &str, address: &str) -> Value {
    let mut balancer = load_balancer(namespace, name, "own");
    balancer["spec"]["public-address"] = address.into();
    balancer
}

async fn address_of(cluster: &Cluster, balancer: &Value) -> Option<String> {
    let found = Request::get(&Request::path_of(balancer)).send(&cluster.admin).await;
    found.body["status"]["public-address"].as_str().map(str::to_owned)
}

/// What the Events about an object tell, by their reasons.
async fn told(cluster: &Cluster, namespace: &str, name: &str) -> BTreeMap<String, BTreeSet<String>> {
    let path = format!("/apis/events.k8s.io/v1/namespaces/{namespace}/events");
    let events = Request::get(&path).send(&cluster.admin).await.expect_ok();
    let mut told: BTreeMap<String, BTreeSet<String>> = BTreeMap::new();
    for event in events["items"].as_array().into_iter().flatten() {
        if event["regarding"]["name"] == name
            && let (Some(reason), Some(note)) = (event["reason"].as_str(), event["note"].as_str())
        {
            told.entry(reason.to_owned()).or_default().insert(note.to_owned());
        }
    }
    told
}

/// Creates a LoadBalancer of another tenant; answers it, its address and how long that took.
async fn bystander(cluster: &Cluster, name: &str) -> (Value, String, Duration) {
    let balancer = load_balancer("epic-blue", name, "own");
    let began = Instant::now();
    Request::create(&balancer).send(&cluster.admin).await.expect_ok();
    let address = eventually("an address", || address_of(cluster, &balancer)).await;
    (balancer, address, began.elapsed())
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn addresses_that_cannot_be_had_cost_no_call_and_hold_up_nobody() {
    let cluster = Cluster::start().await;
    let _harness = Harness::start(&cluster, 1).await;
    let operator = Operator::start(&cluster).await;
    operator.ready().await;
    for object in [
        object("EPIC", "epic", "epic", json!({})),
        object("AddressPool", "epic", "default", json!({"addresses": ["192.0.2.1-192.0.2.2", "192.0.2.9"]})),
        object("Account", "epic", "red", json!({"proxy-limit": 100})),
        object("Account", "epic", "blue", json!({})),
    ] {
        Request::create(&object).send(&cluster.admin).await.expect_ok();
    }
    for namespace in ["epic-red", "epic-blue"] {
        let group = object("ServiceGroup", namespace, "own", json!({"envoy-replicas": 1}));
        apply_until_taken(&cluster.admin, &group).await;
    }
    let (first, _, alone) = bystander(&cluster, "first").await;
    Request::delete(&Request::path_of(&first)).send(&cluster.admin).await.expect_ok();
    eventually("its address being free again", || async {
        all::<AddressClaim>(&cluster.admin).await.is_empty().then_some(())
    })
    .await;
    for number in 0..REFUSED {
        let balancer = asking("epic-red", &format!("outside{number}"), "8.8.8.8");
        Request::create(&balancer).send(&cluster.admin).await.expect_ok();
    }
    let message = eventually("all being refused", || async {
        let found = all::<LoadBalancer>(&cluster.admin).await;
        let refused: Vec<_> = found.iter().filter_map(|balancer| balancer.condition(PROGRAMMED)).collect();
        let all = refused.iter().filter(|known| known.reason == "AddressNotInPool").count() == REFUSED;
        all.then(|| refused[0].message.clone())
    })
    .await;
    assert!(message.contains("\"default\" holds 192.0.2.1-192.0.2.2, 192.0.2.9"), "{message}");

    // Counts of members and figures of pools follow within moments; then nothing is asked any more.
    eventually("the first quiet moment", || async {
        let before = calls(&cluster).await;
        sleep(Duration::from_secs(2)).await;
        // Asking for the metrics is no call for a kind of EPIC's.
        (calls(&cluster).await == before).then_some(())
    })
    .await;
    let before = calls(&cluster).await;
    let quiet = async {
        sleep(QUIET).await;
        calls(&cluster).await
    };
    let after = cluster.aside(quiet).await;
    assert_eq!(after, before, "calls in {QUIET:?} for {REFUSED} refused load balancers");

    // Another tenant waits for none of them.
    let (bystander, address, took) = bystander(&cluster, "bystander").await;
    println!("the bystander has {address} after {took:?}, and {alone:?} when it was alone");
    assert!(took <= BYSTANDER.max(3 * alone), "{took:?}, and {alone:?} alone");

    // What waits for an event gets it: an address that is taken and given back, a range that is added.
    let mut heir = asking("epic-red", "heir", &address);
    heir["spec"]["service-id"] = json!(4711);
    Request::create(&heir).send(&cluster.admin).await.expect_ok();
    eventually("the heir being refused", || async {
        let found = all::<LoadBalancer>(&cluster.admin).await;
        let heir = found.iter().find(|balancer| balancer.name_any() == "heir")?;
        (heir.condition(PROGRAMMED)?.reason == "AddressTaken").then_some(())
    })
    .await;
    Request::delete(&Request::path_of(&bystander)).send(&cluster.admin).await.expect_ok();
    eventually("the heir having the address", || async {
        (address_of(&cluster, &heir).await.as_deref() == Some(address.as_str())).then_some(())
    })
    .await;
    // What was asked for and given is told, as what the operator chose is.
    eventually("the heir being told of its ID and its address", || async {
        let told = told(&cluster, "epic-red", "heir").await;
        let allocated = BTreeSet::from([format!("public address {address}"), "service id 4711".to_owned()]);
        let proxies = told
            .get("ProxyChanged")
            .is_some_and(|notes| notes.iter().all(|note| note.ends_with("takes traffic")));
        (told.get("Allocated") == Some(&allocated) && proxies).then_some(())
    })
    .await;
    // So is the way of the address from one to the other.
    eventually("the claim's Events", || async {
        let told = told(&cluster, "epic", &address).await;
        let of = |reason: &str, words: &str| {
            told.get(reason).is_some_and(|notes| notes.iter().any(|note| note.contains(words)))
        };
        let claimed = of("Claimed", "epic-blue/bystander") && of("Claimed", "epic-red/heir");
        let released = of("Releasing", "epic-blue/bystander") && of("Released", "epic-blue/bystander");
        (claimed && released).then_some(())
    })
    .await;
    let pool = object("AddressPool", "epic", "default", json!({}));
    let wider = json!({"spec": {"addresses": ["192.0.2.1-192.0.2.2", "8.8.8.8"]}});
    Request::merge(&Request::path_of(&pool), &wider).send(&cluster.admin).await.expect_ok();
    eventually("one of them having its address", || async {
        let found = all::<LoadBalancer>(&cluster.admin).await;
        let shows = |balancer: &LoadBalancer| {
            balancer.status.as_ref().and_then(|status| status.public_address.clone()).as_deref()
                == Some("8.8.8.8")
        };
        found.iter().any(shows).then_some(())
    })
    .await;

    // A pool that takes over from another one: the claims follow their addresses, and nobody loses one.
    let renamed = object(
        "AddressPool",
        "epic",
        "public",
        json!({"addresses": ["192.0.2.1-192.0.2.2", "8.8.8.8"], "advertise": {"l2": {}}}),
    );
    Request::create(&renamed).send(&cluster.admin).await.expect_ok();
    let elsewhere = json!({"spec": {"addresses": ["198.51.100.0/30"]}});
    Request::merge(&Request::path_of(&pool), &elsewhere).send(&cluster.admin).await.expect_ok();
    eventually("all claims naming the pool that holds them", || async {
        let claims = all::<AddressClaim>(&cluster.admin).await;
        let bound = || claims.iter().filter(|claim| !claim.is_releasing());
        (bound().count() == 2 && bound().all(|claim| claim.spec.pool == "public")).then_some(())
    })
    .await;
    assert_eq!(address_of(&cluster, &heir).await, Some(address));
    eventually("the pool's figures", || async {
        let pools = all::<AddressPool>(&cluster.admin).await;
        let public = pools.iter().find(|pool| pool.name_any() == "public")?;
        let ipv4 = public.status.as_ref()?.ipv4.as_ref()?;
        let figures = (ipv4.total_count, ipv4.used_count, ipv4.free) == (Some(3), Some(2), Some(1));
        (figures && public.is_condition_true(AVAILABLE)).then_some(())
    })
    .await;
}
