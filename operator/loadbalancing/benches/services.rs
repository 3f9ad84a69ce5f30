//! Services with one endpoint and one proxy inserted and deleted through Writer, reconciler and maps in memory, and one
//! proxy of a service replaced.
//!
//! One iteration of each also runs under `cargo test`, so that they keep compiling and working.

#![expect(missing_docs, reason = "criterion_group! makes a public function")]

use std::hint::black_box;
use std::time::Instant;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use epic_lb::reconciler::{Backoff, Reconciler};
use epic_lb::render::NodeSide;
use epic_lb::{
    Alias, AliasKey, Backend, DataKey, FakeMaps, FrontendKey, FrontendParams, GroupId, Link, Protocol, Proxy,
    ProxyId, ProxyState, Service, ServiceId, ServiceKeys, ServiceName, Source, Tables, Tunnel, TunnelId,
    WriteTxn, Writer,
};

type Engine = Reconciler<FakeMaps, NodeSide>;

fn name(i: u32) -> ServiceName {
    ServiceName::new("epic-acme", format!("web-{i}"))
}

/// One service with a frontend, a remote proxy, a tunnel and an endpoint.
fn insert(txn: &mut WriteTxn<'_>, i: u32) {
    let name = name(i);
    let id = |value: u32| value % 60_000 + 1;
    let keys = [DataKey([i as u8; 16]); 3];
    let service = Service {
        keys: Some(ServiceKeys { data: keys, node: Some(keys) }),
        ..Service::new(
            name.clone(),
            format!("uid-{i}"),
            GroupId::new(i / 60_000 + 1).expect("valid"),
            ServiceId::new(id(i)).expect("valid"),
        )
    };
    let vip = std::net::Ipv4Addr::from(0xC000_0000 + i);
    let key = FrontendKey::new(vip.into(), 80, Protocol::Tcp);
    txn.upsert_service_and_frontends(service, vec![FrontendParams::new(key, name.clone(), 0)])
        .expect("valid");
    let tunnel = TunnelId::new(i + 1).expect("valid");
    txn.upsert_tunnel(Tunnel {
        id: tunnel,
        service: name.clone(),
        client_node: [203, 0, 113, 9].into(),
        epic_node: "node1".into(),
        epic_address: [198, 51, 100, 1].into(),
        epic_port: 6080,
        link: Link { ifindex: 2, mtu: 1500, local: [198, 51, 100, 1].into() },
    });
    txn.upsert_alias(Alias {
        key: AliasKey { service: name.clone(), address: [100, 127, 0, 1].into() },
        tunnel: Some(tunnel),
        real_address: [10, 244, 1, 7].into(),
        protocol: Protocol::Tcp,
        port: 8080,
        endpoint: "endpoint".into(),
    });
    proxy(txn, &name, i + 1);
}

fn proxy(txn: &mut WriteTxn<'_>, service: &ServiceName, id: u32) {
    let address = std::net::Ipv4Addr::from(0x6440_0000 + id).into();
    let id = ProxyId::new(id).expect("valid");
    txn.upsert_proxy(Proxy {
        id,
        service: service.clone(),
        address,
        pod: "proxy".into(),
        pod_uid: "uid".into(),
        node: "node2".into(),
        node_address: [198, 51, 100, 2].into(),
        state: ProxyState::Ready,
        local: None,
    });
    txn.upsert_backends(service, Source::Resource, [Backend::proxy(service.clone(), address, id)]);
}

fn engine() -> (Writer, Engine) {
    let writer = Writer::new(Tables::new());
    let side = NodeSide::new("node1", 1);
    let engine = Reconciler::new(writer.clone(), FakeMaps::new(), side, Backoff::default()).expect("valid");
    (writer, engine)
}

fn settle(engine: &mut Engine) {
    let now = Instant::now();
    while let Some(request) = engine.round(now).ask {
        engine.confirm_prune(request);
    }
    assert!(engine.progress().health.is_ok());
}

fn services(c: &mut Criterion) {
    let mut group = c.benchmark_group("services");
    group.sample_size(10);
    for n in [1u32, 100, 1_000] {
        group.throughput(Throughput::Elements(u64::from(n)));
        group.bench_with_input(BenchmarkId::new("insert_and_delete", n), &n, |b, &n| {
            b.iter_batched(
                engine,
                |(writer, mut engine)| {
                    let mut txn = writer.write();
                    (0..n).for_each(|i| insert(&mut txn, i));
                    txn.commit();
                    settle(&mut engine);
                    let mut txn = writer.write();
                    (0..n).for_each(|i| assert!(txn.delete_service_and_frontends(&name(i))));
                    txn.set_proxies([]);
                    txn.set_aliases([]);
                    txn.set_tunnels([]);
                    txn.commit();
                    settle(&mut engine);
                    assert!(engine.maps().content().is_empty());
                },
                BatchSize::PerIteration,
            );
        });
    }
    group.finish();
}

fn one_proxy_replaced(c: &mut Criterion) {
    let mut group = c.benchmark_group("replace_one_proxy");
    for n in [2u32, 20] {
        group.bench_with_input(BenchmarkId::from_parameter(n), &n, |b, &n| {
            let (writer, mut engine) = engine();
            let mut txn = writer.write();
            insert(&mut txn, 0);
            (1..n).for_each(|id| proxy(&mut txn, &name(0), id + 1));
            txn.commit();
            settle(&mut engine);
            let mut next = n;
            b.iter(|| {
                next += 1;
                let mut txn = writer.write();
                let old = next - n;
                let address = std::net::Ipv4Addr::from(0x6440_0000 + old).into();
                txn.delete_proxy(ProxyId::new(old).expect("valid"));
                txn.release_backend(&name(0), address, 0, Protocol::Any);
                proxy(&mut txn, &name(0), next);
                txn.commit();
                settle(&mut engine);
            });
        });
    }
    group.finish();
}

fn tables(c: &mut Criterion) {
    let (writer, _) = engine();
    let mut txn = writer.write();
    (0..1_000).for_each(|i| insert(&mut txn, i));
    txn.commit();
    let mut group = c.benchmark_group("tables");
    group.bench_function("snapshot", |b| b.iter(|| black_box(writer.tables().snapshot()).revision()));
    let snapshot = writer.snapshot();
    let wanted = name(500);
    group.bench_function("lookup", |b| b.iter(|| snapshot.services.get(black_box(&wanted)).is_some()));
    group.throughput(Throughput::Elements(100));
    group.bench_function("upsert_100_aborted", |b| {
        b.iter(|| {
            let mut txn = writer.write();
            (1_000..1_100).for_each(|i| insert(&mut txn, i));
            txn.abort();
        });
    });
    group.bench_function("upsert_100_unchanged", |b| {
        b.iter(|| {
            let mut txn = writer.write();
            (0..100).for_each(|i| insert(&mut txn, i));
            txn.commit()
        });
    });
    group.finish();
}

criterion_group!(benches, services, one_proxy_replaced, tables);
criterion_main!(benches);
