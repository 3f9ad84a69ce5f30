//! One look at one Endpoint among 5,000 of its LoadBalancer: judged with the few that decide about it, and with all.
//!
//! One iteration of each also runs under `cargo test`, so that they keep compiling and working.

#![expect(missing_docs, reason = "criterion_group! makes a public function")]

use std::hint::black_box;

use criterion::{Criterion, criterion_group, criterion_main};
use epic_controllers::endpoint::siblings::Siblings;
use epic_model::endpoint::{Endpoint, Surroundings, is_good, judge};
use epic_model::id::Seconds;
use epic_model::port::{EndpointPort, Protocol, PublicPort};
use kates::Key;

const ENDPOINTS: u16 = 5_000;
const NODES: u16 = 50;

fn endpoint(n: u16) -> Endpoint {
    let [high, low] = n.to_be_bytes();
    let [_, node] = (n % NODES).to_be_bytes();
    Endpoint {
        name: format!("pod-{n}").into(),
        uid: format!("uid-{n}").into(),
        created: Seconds(n.into()),
        address: [10, 244, high, low].into(),
        port: EndpointPort { name: None, port: 8080, protocol: Protocol::Tcp },
        node_address: Some([192, 168, 1, node].into()),
        cluster: Some("one".to_owned()),
    }
}

fn one_of_many(c: &mut Criterion) {
    let public = [PublicPort { name: None, port: 8080, protocol: Protocol::Tcp, target_port: None }];
    let around = Surroundings::default();
    let all: Vec<Endpoint> = (0..ENDPOINTS).map(endpoint).collect();
    let (balancer, mut siblings) = (Key::namespaced("epic-red", "web"), Siblings::default());
    for endpoint in &all {
        siblings.insert(&balancer, endpoint.clone());
    }
    let youngest = endpoint(ENDPOINTS - 1);
    let mut group = c.benchmark_group("one_endpoint_of_5000");
    group.bench_function("with_those_that_decide", |b| {
        b.iter(|| {
            let few = siblings.deciding(&balancer, &youngest, |one| is_good(one, &public, &around));
            black_box(judge(&few, &public, &around))
        });
    });
    group.bench_function("with_all", |b| b.iter(|| black_box(judge(&all, &public, &around))));
    group.bench_function("comes_and_goes", |b| {
        b.iter(|| {
            siblings.remove(&balancer, &youngest);
            siblings.insert(&balancer, youngest.clone());
            black_box(siblings.concerned(&balancer, &youngest))
        });
    });
    group.finish();
}

criterion_group!(benches, one_of_many);
criterion_main!(benches);
