//! What one decision costs when there are many objects: a service ID for the last of `n` LoadBalancers of an account,
//! and an address for the last of `n` LoadBalancers of a pool.
//!
//! Both plans read everything at every call, so they are to grow as `n log n`, not faster.
//! One iteration of each also runs under `cargo test`, so that they keep compiling and working.

#![expect(missing_docs, reason = "criterion_group! makes a public function")]

use std::collections::BTreeMap;
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr};

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use epic_model::address::Family;
use epic_model::allocation::{self, Child, Counter, CounterState, Parent, SIXTEEN_BITS, Slot};
use epic_model::claim::{self, Asker, Claim, Interval, Phase, Pool};
use epic_model::id::{AccountName, Kind, ObjectVersion, Seconds};
use epic_model::name;

const SIZES: [u32; 3] = [100, 1_000, 10_000];

fn load_balancer(i: u32) -> ObjectVersion {
    ObjectVersion {
        kind: Kind::LoadBalancer,
        namespace: "epic-sample".into(),
        name: format!("web-{i}").as_str().into(),
        uid: format!("uid-{i}").as_str().into(),
        resource_version: (1_000 + i).to_string().as_str().into(),
    }
}

/// All but the last have their ID.
fn children(n: u32) -> Vec<Child> {
    let child = |i: u32| Child {
        object: load_balancer(i),
        created: Seconds(i64::from(i)),
        deleting: false,
        slots: vec![Slot::single(Counter::Service, (i < n).then_some(i), None)],
    };
    (1..=n).map(child).collect()
}

fn account(last: u32) -> Parent {
    Parent {
        uid: "uid-account".into(),
        resource_version: "1".into(),
        finalizer: true,
        deleting: false,
        counters: BTreeMap::from([(Counter::Service, CounterState { last, range: SIXTEEN_BITS })]),
        reservations: Vec::new(),
    }
}

fn address(i: u32) -> IpAddr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(198, 18, 0, 0)) + i).into()
}

fn claims(n: u32) -> Vec<Claim> {
    let claim = |i: u32| Claim {
        name: name::claim(address(i)),
        uid: format!("claim-{i}").as_str().into(),
        resource_version: "1".into(),
        address: address(i),
        pool: "default".into(),
        owner: load_balancer(i),
        phase: Phase::Bound,
        waiting_for: Vec::new(),
    };
    (1..n).map(claim).collect()
}

fn ids(c: &mut Criterion) {
    let mut group = c.benchmark_group("service_id");
    for n in SIZES {
        let (parent, children) = (account(n - 1), children(n));
        assert_eq!(allocation::plan(&parent, &children).writes.len(), 2, "reserve, then grant");
        group.throughput(Throughput::Elements(n.into()));
        group.bench_function(BenchmarkId::from_parameter(n), |b| {
            b.iter(|| allocation::plan(black_box(&parent), black_box(&children)));
        });
    }
    group.finish();
}

fn addresses(c: &mut Criterion) {
    let mut group = c.benchmark_group("address");
    for n in SIZES {
        let asker = Asker {
            object: load_balancer(n),
            account: AccountName::parse("sample").expect("a name"),
            deleting: false,
            family: Family::V4,
            requested: None,
            granted: None,
            pool_names: vec!["default".into()],
            most_claims: usize::MAX,
        };
        let range: Interval = "198.18.0.0-198.18.255.255".parse().expect("a range");
        let pools = [Pool::new("default", [range])];
        let (claims, spared) = (claims(n), claim::Spared::default());
        assert_eq!(claim::plan(&asker, &pools, &claims, &spared).writes.len(), 2, "claim, then grant");
        group.throughput(Throughput::Elements(n.into()));
        group.bench_function(BenchmarkId::from_parameter(n), |b| {
            b.iter(|| claim::plan(black_box(&asker), black_box(&pools), black_box(&claims), &spared));
        });
    }
    group.finish();
}

criterion_group!(benches, ids, addresses);
criterion_main!(benches);
