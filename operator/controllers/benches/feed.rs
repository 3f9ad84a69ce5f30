//! The rows of all LoadBalancers of one namespace with an Endpoint each, as after an operator's start: what doubles
//! with their number, and not with its square.
//!
//! One iteration of each also runs under `cargo test`, so that they keep compiling and working.

#![expect(missing_docs, reason = "criterion_group! makes a public function")]
#![expect(clippy::unwrap_used, reason = "a bench that cannot make its objects has nothing to tell")]

use std::hint::black_box;

use criterion::{BenchmarkId, Criterion, criterion_group, criterion_main};
use epic_controllers::xds::feed::{Members, rows};
use epic_crds::{Endpoint, LoadBalancer};
use serde_json::{Value, json};

fn condition(type_: &str) -> Value {
    json!({"type": type_, "status": "True", "reason": "x", "message": "", "observedGeneration": 1,
        "lastTransitionTime": "2026-01-01T00:00:00Z"})
}

fn balancer(n: u16) -> LoadBalancer {
    let [high, low] = n.to_be_bytes();
    serde_json::from_value(json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": "LoadBalancer",
        "metadata": {"name": format!("web-{n}"), "namespace": "epic-red", "uid": format!("uid-{n}")},
        "spec": {"public-ports": [{"port": 80, "targetPort": 8080}], "service-group": "g"},
        "status": {
            "group-id": 1, "service-id": n + 1, "public-address": format!("10.1.{high}.{low}"),
            "ports": [{"port": 80, "protocol": "TCP", "slot": 0, "target-port": 8080}],
            "conditions": [condition("Accepted"), condition("Programmed")],
        },
    }))
    .unwrap()
}

fn endpoint(n: u16) -> Endpoint {
    let [high, low] = n.to_be_bytes();
    serde_json::from_value(json!({
        "apiVersion": "epic.acnodal.io/v1", "kind": "Endpoint",
        "metadata": {"name": format!("pod-{n}"), "namespace": "epic-red", "uid": format!("pod-{n}")},
        "spec": {"load-balancer": format!("web-{n}"), "address": format!("10.244.{high}.{low}"),
            "node-address": "192.168.1.1", "port": {"port": 8080}},
        "status": {"alias-address": format!("100.127.{high}.{low}"), "conditions": [condition("Accepted")]},
    }))
    .unwrap()
}

fn all_of_a_namespace(c: &mut Criterion) {
    let mut group = c.benchmark_group("rows_of_all_load_balancers");
    group.sample_size(10);
    for count in [1_000, 2_000] {
        let balancers: Vec<LoadBalancer> = (0..count).map(balancer).collect();
        let endpoints: Vec<Endpoint> = (0..count).map(endpoint).collect();
        group.bench_function(BenchmarkId::from_parameter(count), |b| {
            b.iter(|| {
                let members: Members<'_> = endpoints.iter().collect();
                let backends = balancers.iter().filter_map(|one| rows(one, None, None, &members));
                let backends: usize = backends.map(|(_, _, backends)| backends.len()).sum();
                assert_eq!(black_box(backends), usize::from(count));
            });
        });
    }
    group.finish();
}

criterion_group!(benches, all_of_a_namespace);
criterion_main!(benches);
