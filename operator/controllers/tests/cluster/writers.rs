//! Two operators write at once, without a leader, and are killed at random, while four writers change what there is.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use epic_control_plane::Request;
use epic_crds::{Account, Endpoint, LoadBalancer};
use kube::ResourceExt;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Value, json};
use tokio::task::JoinSet;
use tokio::time::sleep;

use super::Cluster;
use super::harness::Harness;
use super::history::{Event, History, assert_unique};
use super::operator::Operator;
use super::tenants::{
    all, apply_until_taken, endpoint, load_balancer, object, unconverged, until_nothing_is_left,
};

const ACCOUNTS: [&str; 3] = ["red", "green", "blue"];
/// LoadBalancers of each account; a tenth of them out of a pool of two addresses.
const BALANCERS: usize = 20;
const ENDPOINTS: usize = 2;
const WRITERS: usize = 4;
/// Replacements each writer makes.
const CHURN: usize = 12;
/// How long nothing may be written once all is done.
const QUIET: Duration = Duration::from_secs(30);

/// Objects with their counters a few values before their end.
async fn worn_platform(cluster: &Cluster) {
    let admin = &cluster.admin;
    let counters = |object: Value, status: Value| async move {
        let mut created = Request::create(&object).send(admin).await.expect_ok();
        created["status"] = status;
        Request::replace(&created, "status").send(admin).await.expect_ok();
    };
    counters(
        object("EPIC", "epic", "epic", json!({})),
        json!({"current-group-id": 65_534, "current-tunnel-id": u32::MAX - 20, "current-proxy-id": (1 << 21) - 20}),
    )
    .await;
    for account in ACCOUNTS {
        counters(
            object("Account", "epic", account, json!({"proxy-limit": 100})),
            json!({"current-service-id": 65_530, "current-endpoint-id": 65_520}),
        )
        .await;
        for (kind, name, spec) in [
            ("AddressPool", format!("tight-{account}"), json!({"addresses": [tight(account)]})),
            (
                "ServiceGroup",
                format!("tight-{account}"),
                json!({"address-pools": [format!("tight-{account}")], "envoy-replicas": 1}),
            ),
        ] {
            Request::create(&object(kind, "epic", &name, spec)).send(admin).await.expect_ok();
        }
    }
    for object in [
        object("AddressPool", "epic", "default", json!({"addresses": ["198.51.100.0/25"]})),
        object("ServiceGroup", "epic", "shared", json!({"envoy-replicas": 2})),
    ] {
        Request::create(&object).send(admin).await.expect_ok();
    }
}

/// Two addresses for each account.
fn tight(account: &str) -> String {
    let last = ACCOUNTS.iter().position(|name| *name == account).unwrap_or_default() * 2 + 10;
    format!("203.0.113.{last}-203.0.113.{}", last + 1)
}

fn balancer(account: &str, number: usize) -> Value {
    let group = if number < 2 { format!("tight-{account}") } else { "shared".to_owned() };
    load_balancer(&format!("epic-{account}"), &format!("lb{number}"), &group)
}

fn endpoints(account: &str, number: usize) -> impl Iterator<Item = Value> + use<'_> {
    (0..ENDPOINTS).map(move |index| {
        let node = format!("172.16.{}.{}", number % 7, 1 + index);
        let (namespace, name) = (format!("epic-{account}"), format!("lb{number}-{index}"));
        endpoint(&namespace, &name, &format!("lb{number}"), &format!("10.244.{number}.{}", 5 + index), &node)
    })
}

/// One writer: its share of the objects, then replacements of them.
async fn write(cluster: Arc<Cluster>, writer: usize) {
    let mut random = StdRng::seed_from_u64(writer as u64);
    let mut mine = Vec::new();
    for account in ACCOUNTS {
        mine.extend(
            (0..BALANCERS).filter(|number| number % WRITERS == writer).map(|number| (account, number)),
        );
    }
    for (account, number) in &mine {
        // Endpoints before their LoadBalancer as often as after it.
        let mut objects: Vec<Value> = endpoints(account, *number).collect();
        objects.insert(random.random_range(0..=objects.len()), balancer(account, *number));
        for object in &objects {
            apply_until_taken(&cluster.admin, object).await;
        }
    }
    for _ in 0..CHURN {
        // Every second time one that competes for two addresses.
        let tight: Vec<_> = mine.iter().filter(|(_, number)| *number < 2).collect();
        let (account, number) = match tight.is_empty() || random.random() {
            true => mine[random.random_range(0..mine.len())],
            false => *tight[random.random_range(0..tight.len())],
        };
        let old = match random.random_range(0..3) {
            0 => endpoints(account, number).next().expect("an endpoint"),
            _ => balancer(account, number),
        };
        Request::delete(&Request::path_of(&old)).send(&cluster.admin).await;
        sleep(Duration::from_millis(random.random_range(0..400))).await;
        apply_until_taken(&cluster.admin, &old).await;
    }
}

/// Starts two operators and kills one or the other at random until told to stop; answers those that run then.
async fn mortal_operators(cluster: Arc<Cluster>, stop: Arc<AtomicBool>) -> (Vec<Operator>, usize) {
    let mut random = StdRng::seed_from_u64(7);
    let mut running = vec![Operator::start(&cluster).await, Operator::start(&cluster).await];
    let mut killed = 0;
    while !stop.load(Ordering::Relaxed) {
        sleep(Duration::from_millis(random.random_range(1_000..6_000))).await;
        let victim = running.remove(random.random_range(0..2));
        victim.kill();
        killed += 1;
        running.push(Operator::start(&cluster).await);
    }
    (running, killed)
}

/// Writes that a quiet system makes all the same: everything else is a finding.
///
/// - Leases: node agents, which the harness plays, and Kubernetes' own processes renew theirs. The operators of this
///   test hold none.
/// - Nodes: kubelets, which the harness plays, send heartbeats.
///
/// An EPICNode is none of them: its agent writes it when its tunnels change, or while something is awaited.
fn is_heartbeat(event: &Event) -> bool {
    let (namespace, name) = (event.object.namespace().unwrap_or_default(), event.object.name_any());
    match event.kind {
        "Lease" => namespace == "kube-system" || (namespace == "epic" && name.starts_with("epic-node-")),
        "Node" => true,
        _ => false,
    }
}

fn unexpected(events: &[Event]) -> Vec<String> {
    events
        .iter()
        .filter(|event| !is_heartbeat(event))
        .map(|event| {
            let object = &event.object;
            let by = object.managed_fields().iter().filter_map(|entry| entry.manager.clone());
            let by = by.collect::<BTreeSet<_>>();
            format!(
                "{} {}/{} by {by:?}",
                event.kind,
                object.namespace().unwrap_or_default(),
                object.name_any()
            )
        })
        .collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_operators_without_a_leader_give_no_value_twice_and_fall_silent() {
    let cluster = Cluster::start().await;
    worn_platform(&cluster).await;
    let history = History::record(&cluster.admin).await;
    let _harness = Harness::start(&cluster, 3).await;
    let stop = Arc::new(AtomicBool::new(false));
    let operators = tokio::spawn(mortal_operators(Arc::clone(&cluster), Arc::clone(&stop)));
    let started = std::time::Instant::now();
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        writers.spawn(write(Arc::clone(&cluster), writer));
    }
    while let Some(ended) = writers.join_next().await {
        ended.expect("a writer ends");
    }
    let written = started.elapsed();
    stop.store(true, Ordering::Relaxed);
    let (operators, killed) = operators.await.expect("the operators");
    until_nothing_is_left("everything being served", || unconverged(&cluster.admin)).await;
    let converged = started.elapsed();
    println!("written until then: {:?}", history.by_kind());
    for operator in &operators {
        println!("{}", operator.counters().await);
    }

    let counts = (
        all::<Account>(&cluster.admin).await.len(),
        all::<LoadBalancer>(&cluster.admin).await.len(),
        all::<Endpoint>(&cluster.admin).await.len(),
    );
    assert_eq!(counts, (3, 3 * BALANCERS, 3 * BALANCERS * ENDPOINTS));
    let grants = assert_unique(&history.events());
    for operator in operators {
        operator.kill();
    }

    // A restart in a converged system, and silence.
    let (first, second) = (Operator::start(&cluster).await, Operator::start(&cluster).await);
    first.ready().await;
    second.ready().await;
    let before = history.len();
    sleep(QUIET).await;
    let events = history.events();
    let written_meanwhile = unexpected(&events[before.min(events.len())..]);
    assert_eq!(written_meanwhile, Vec::<String>::new(), "nothing is written in a converged system");
    let tried = (first.writes().await, second.writes().await);
    assert_eq!(tried, (0, 0), "nor is it tried:\n{}", first.counters().await);
    println!(
        "{grants} grants over {} events, {killed} operators killed; written in {written:.1?}, converged after {converged:.1?}",
        events.len()
    );
}
