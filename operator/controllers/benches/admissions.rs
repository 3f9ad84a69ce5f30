//! Who is within the limits of an Account: one pass over all Endpoints of a namespace, each of which asks, most of them to
//! be refused. Ten times the objects cost ten times the time, and not a hundred; the ratio is printed.
//!
//! One iteration of each also runs under `cargo test`, so that they keep compiling and working.

#![expect(missing_docs, reason = "criterion_group! makes a public function")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot make its objects has nothing to tell")]

use std::hint::black_box;
use std::sync::Arc;
use std::time::{Duration, Instant};

use clap::Parser;
use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use epic_controllers::account::Admissions;
use epic_controllers::context::Context;
use epic_controllers::leader::Leadership;
use epic_controllers::settings::Settings;
use epic_crds::{Account, Endpoint};
use epic_fake_api::Server;
use epic_ops::Metrics;
use kates::{Key, Snapshot};
use kube::ResourceExt;
use serde_json::{Value, json};

const NAMESPACE: &str = "epic-red";
/// Endpoints that the Account may have.
const LIMIT: usize = 100;
const COUNTS: [usize; 2] = [1_000, 10_000];

fn object(kind: &str, namespace: &str, name: &str, spec: &Value) -> Value {
    json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": kind, "spec": spec,
        "metadata": {"name": name, "namespace": namespace, "creationTimestamp": "2026-01-01T00:00:00Z"},
    })
}

/// A namespace with as many Endpoints, as the operator's watches show it.
async fn namespace(count: usize) -> Snapshot {
    let server = Server::new();
    server.put("accounts", object("Account", "epic", "red", &json!({"endpoint-limit": LIMIT})));
    for number in 0..count {
        let address = format!("10.{}.{}.1", 1 + number / 250, number % 250);
        let spec = json!({"load-balancer": "web", "address": address, "port": {"port": 8080}});
        server.put("endpoints", object("Endpoint", NAMESPACE, &format!("pod-{number}"), &spec));
    }
    let settings = Settings::parse_from(["epic-operator"]);
    let context = Context::new(server.client(), settings, Leadership::always(), &Metrics::new());
    context.watches.synced().await;
    context.snapshot().unwrap()
}

/// Every Endpoint asks once; answers how many are refused.
fn pass(snapshot: &Snapshot, account: &Account) -> usize {
    let admissions = Admissions::default();
    let endpoints = snapshot.in_namespace::<Endpoint>(NAMESPACE);
    let refused = endpoints.filter(|endpoint| {
        let limits = admissions.of(snapshot, account, NAMESPACE);
        limits.endpoints.refused.contains(&endpoint.uid().unwrap_or_default().into())
    });
    refused.count()
}

/// The shortest of some.
fn timed(snapshot: &Snapshot, account: &Account) -> Duration {
    let once = |_| {
        let began = Instant::now();
        black_box(pass(snapshot, account));
        began.elapsed()
    };
    (0..5).map(once).min().unwrap()
}

fn all_of_a_namespace(c: &mut Criterion) {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
    let mut group = c.benchmark_group("who_is_within_the_limits");
    group.sample_size(10);
    let mut times = Vec::new();
    for count in COUNTS {
        let snapshot = runtime.block_on(namespace(count));
        let account = snapshot.get::<Account>(&Key::namespaced("epic", "red")).map(Arc::clone).unwrap();
        assert_eq!(pass(&snapshot, &account), count - LIMIT);
        times.push(timed(&snapshot, &account));
        group.bench_function(BenchmarkId::from_parameter(count), |b| b.iter(|| pass(&snapshot, &account)));
    }
    group.finish();
    println!(
        "admission_pass_ratio {:.1}: {:?} for {} Endpoints, {:?} for {}",
        times[1].as_secs_f64() / times[0].as_secs_f64(),
        times[1],
        COUNTS[1],
        times[0],
        COUNTS[0]
    );
}

criterion_group!(benches, all_of_a_namespace);
criterion_main!(benches);
