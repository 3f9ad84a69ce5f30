//! What a tenant can create at all, before anything of it is judged.

use std::time::{Duration, Instant};

use epic_control_plane::{Identity, Request, eventually};
use futures::{StreamExt, stream};
use kube::Client;
use serde_json::{Value, json};

use super::Cluster;
use super::harness::Harness;
use super::operator::Operator;
use super::tenants::{load_balancer, object, unconverged, until_nothing_is_left};

const QUOTA: &str = "/api/v1/namespaces/epic-red/resourcequotas/epic-limits";
/// Objects that the tenant tries to create; `EPIC_FLOOD` says another number (`make test-full`: 5,000).
const FLOOD: usize = 600;
/// Time from one creation to the next: kubectl and client-go send 50 requests a second. More at once is a matter of the API
/// server's own fairness, on whose cores the test runs as well.
const PACE: Duration = Duration::from_millis(20);
/// One object of the bystander in each half of the comparison stands against this many of the flood: it comes about as fast.
const FLOOD_FOR_ONE: usize = 50;

/// How long the bystander's LoadBalancers wait for their service ID, sorted.
async fn bystander(admin: &Client, prefix: &str, samples: usize) -> Vec<Duration> {
    let mut waits = Vec::new();
    for number in 0..samples {
        let balancer = load_balancer("epic-blue", &format!("{prefix}{number}"), "small");
        let began = Instant::now();
        Request::create(&balancer).send(admin).await.expect_ok();
        eventually("the bystander's service ID", || async {
            let found = Request::get(&Request::path_of(&balancer)).send(admin).await;
            found.body["status"]["service-id"].is_i64().then_some(())
        })
        .await;
        waits.push(began.elapsed());
    }
    waits.sort();
    waits
}

/// The wait that this share of all does not exceed, by nearest rank.
fn percentile(sorted: &[Duration], percent: usize) -> Duration {
    let rank = (sorted.len() * percent).div_ceil(100);
    sorted.get(rank.saturating_sub(1)).copied().unwrap_or_default()
}

fn flood_size() -> usize {
    std::env::var("EPIC_FLOOD").ok().and_then(|text| text.parse().ok()).unwrap_or(FLOOD)
}

async fn hard(admin: &Client) -> Value {
    let quota = Request::get(QUOTA).send(admin).await;
    quota.body["spec"]["hard"]["count/loadbalancers.epic.acnodal.io"].clone()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_flood_of_creations_ends_at_the_quota_in_its_words_and_the_tenant_cannot_move_it() {
    let cluster = Cluster::start().await;
    let admin = &cluster.admin;
    let _harness = Harness::start(&cluster, 1).await;
    let operator = Operator::start(&cluster).await;
    operator.ready().await;
    let size = flood_size();
    let samples = size / FLOOD_FOR_ONE;
    let alice = json!([{"kind": "User", "name": "alice"}]);
    for object in [
        object("EPIC", "epic", "epic", json!({})),
        object("AddressPool", "epic", "default", json!({"addresses": ["192.0.2.0/24"]})),
        object("ServiceGroup", "epic", "small", json!({"envoy-replicas": 1})),
        object("Account", "epic", "red", json!({"load-balancer-limit": 100, "subjects": alice})),
        object("Account", "epic", "blue", json!({"load-balancer-limit": 2 * samples + 1})),
    ] {
        Request::create(&object).send(admin).await.expect_ok();
    }
    until_nothing_is_left("the accounts being ready", || unconverged(admin)).await;

    let tenant = cluster.control_plane.client(&Identity::user("alice")).await.expect("alice");
    let config = Request::get("/api/v1/namespaces/epic-red/configmaps/epic-limits");
    let data = config.send(&tenant).await.expect_ok()["data"].clone();
    assert_eq!(data["load-balancers"], "0 of 100");
    assert!(
        data["service-groups"].as_str().is_some_and(|text| text.starts_with("small: 1 proxies")),
        "{data}"
    );
    let wider = json!({"spec": {"hard": {"count/loadbalancers.epic.acnodal.io": "9999"}}});
    assert_eq!(Request::merge(QUOTA, &wider).send(&tenant).await.code, 403);
    assert_eq!(Request::delete(QUOTA).send(&tenant).await.code, 403);

    // Before and after, since the bystander's own objects become more.
    let mut quiet = bystander(admin, "before", samples.div_ceil(2)).await;
    // A group that is not there: what is counted here is objects, and none of them gets a proxy.
    let mut pace = tokio::time::interval(PACE);
    let turns = stream::poll_fn(|context| pace.poll_tick(context).map(Some)).zip(stream::iter(0..size));
    let flood = turns.map(|(_, number)| {
        let (tenant, balancer) = (&tenant, load_balancer("epic-red", &format!("flood{number}"), "none"));
        async move { Request::create(&balancer).send(tenant).await }
    });
    let flood = flood.buffer_unordered(16).collect::<Vec<_>>();
    let passes = operator.passes("LoadBalancer").await;
    let (answers, flooded) = tokio::join!(flood, bystander(admin, "flood", samples));
    let passes = operator.passes("LoadBalancer").await - passes;
    quiet.extend(bystander(admin, "after", samples / 2).await);
    quiet.sort();
    let created = answers.iter().filter(|answer| answer.is_ok()).count();
    let by_quota = |message: &str| message.contains("exceeded quota: epic-limits");
    let refused = answers.iter().filter(|answer| answer.code == 403 && by_quota(answer.message())).count();
    println!("{size} creations at a limit of 100: {created} objects, {refused} refused by the quota");
    for percent in [50, 99] {
        let (flooded, quiet) = (percentile(&flooded, percent), percentile(&quiet, percent));
        println!(
            "a bystander waits {flooded:?} instead of {quiet:?}, {:.2} times as long (p{percent} of {samples} and {samples})",
            flooded.as_secs_f64() / quiet.as_secs_f64()
        );
    }
    assert_eq!((created, refused), (120, size - 120));
    // Each of them for itself: one that is judged once costs two or three, and one of the bystander's fifteen.
    let most = 5 * created + 30 * samples;
    assert!(passes <= most as u64, "{passes} passes over LoadBalancers where {most} are enough");

    // Kept as it is written, and current.
    Request::merge(QUOTA, &wider).send(admin).await.expect_ok();
    eventually("the quota being restored", || async { (hard(admin).await == "120").then_some(()) }).await;
    let account = "/apis/epic.acnodal.io/v1/namespaces/epic/accounts/red";
    let raised = json!({"spec": {"load-balancer-limit": 200}});
    Request::merge(account, &raised).send(admin).await.expect_ok();
    eventually("the quota following", || async { (hard(admin).await == "230").then_some(()) }).await;
}
