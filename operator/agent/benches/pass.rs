//! What a pass of a node's agent costs with 1,000 LoadBalancers, and what hellos cost its responder: those of clients, and
//! those that somebody makes up.
//!
//! One iteration of each also runs under `cargo test`, so that they keep compiling and working.

#![expect(missing_docs, reason = "criterion_group! makes a public function")]

use std::collections::{BTreeMap, BTreeSet};
use std::hint::black_box;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Instant;

use criterion::{BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use epic_abi::keys::CookieSecret;
use epic_agent::desired::ServiceRows;
use epic_agent::desired::keys::{Keyring, Master};
use epic_agent::desired::node::{Changes, Decision, Desired, Objects, Place};
use epic_agent::hello::SECOND;
use epic_agent::hello::caller::{Caller, Wanted};
use epic_agent::hello::responder::Responder;
use epic_agent::node::in_force::InForce;
use epic_lb::render::NodeSide;
use epic_lb::{FakeMaps, Link, ServiceName, Veth, Writer};
use epic_reconciler::{Budget, Reconciler};
use serde::de::DeserializeOwned;
use serde_json::{Value, json};

const BALANCERS: u32 = 1_000;
/// Endpoints of ten LoadBalancers.
const FEW: usize = 20;
const GUE: [u8; 4] = [198, 51, 100, 1];

fn read<K: DeserializeOwned>(object: Value) -> Arc<K> {
    Arc::new(serde_json::from_value(object).expect("an object of this kind"))
}

fn address(base: u32, i: u32) -> Ipv4Addr {
    Ipv4Addr::from(base + i)
}

/// LoadBalancer `i`: one proxy here and one elsewhere, two Endpoints behind one client node.
fn add(objects: &mut Objects, i: u32) {
    let (namespace, name) = (format!("epic-{}", i % 50), format!("web-{i}"));
    let uid = format!("1a8522b9-70a4-4a9c-bdd7-{i:012x}");
    let (vip, client) = (address(0xC000_0200, i), address(0x0A09_0000, i % 200));
    objects.load_balancers.push(read(json!({
        "metadata": {"name": name, "namespace": namespace, "uid": uid, "resourceVersion": "7", "generation": 1},
        "spec": {"service-group": "shared", "public-ports": [{"port": 80, "protocol": "TCP"}]},
        "status": {
            "group-id": i % 50 + 1, "service-id": i + 1, "public-address": vip, "key-generation": 2,
            "ports": [{"port": 80, "protocol": "TCP", "slot": 0}],
            "gue-tunnel-endpoints": {client.to_string(): {
                "epic-address": "198.51.100.1", "tunnel-id": i + 1,
                "epic-port": {"port": 6080, "protocol": "UDP", "appProtocol": "gue"},
            }},
            "proxies": [
                {"pod": "a", "pod-uid": format!("a{i}"), "node": "n1", "epic-address": "198.51.100.1",
                 "proxy-id": 2 * i + 1, "proxy-address": address(0x6440_0000, 2 * i + 1), "state": "Ready"},
                {"pod": "b", "pod-uid": format!("b{i}"), "node": "n2", "epic-address": "198.51.100.2",
                 "proxy-id": 2 * i + 2, "proxy-address": address(0x6440_0000, 2 * i + 2), "state": "Ready"},
            ],
        },
    })));
    for e in [2 * i, 2 * i + 1] {
        objects.endpoints.push(read(json!({
            "metadata": {"name": format!("e{e}"), "namespace": namespace, "generation": 1},
            "spec": {"load-balancer": name, "address": address(0x0AF4_0000, e), "node-address": client,
                     "port": {"port": 8080, "protocol": "TCP"}},
            "status": {"alias-address": address(0x647F_0000, e)},
        })));
    }
    objects.pods.push(read(json!({
        "metadata": {"name": "a", "namespace": namespace, "uid": format!("a{i}")},
        "status": {"phase": "Running", "podIP": address(0x0AF5_0000, i)},
    })));
    objects.claims.push(read(json!({
        "metadata": {"name": vip, "namespace": "epic"},
        "spec": {"address": vip, "pool": "edge", "owner": {
            "kind": "LoadBalancer", "namespace": namespace, "name": name, "uid": uid, "resource-version": "1"}},
    })));
}

fn objects(balancers: u32) -> Objects {
    let mut objects = Objects::default();
    (0..balancers).for_each(|i| add(&mut objects, i));
    objects.pools.push(read(json!({
        "metadata": {"name": "edge", "namespace": "epic"},
        "spec": {"addresses": ["192.0.2.0/20"], "advertise": {"l2": {}}},
    })));
    for n in 1..=2 {
        let ready = json!({"type": "Ready", "status": "True", "reason": "Ready", "message": "",
                           "lastTransitionTime": "2026-01-01T00:00:00Z"});
        objects.epic_nodes.push(read(json!({
            "metadata": {"name": format!("n{n}"), "namespace": "epic"},
            "status": {"addresses": [format!("198.51.100.{n}")], "conditions": [ready]},
        })));
        objects.nodes.push(read(json!({
            "metadata": {"name": format!("n{n}")}, "status": {"conditions": [{"type": "Ready", "status": "True"}]},
        })));
    }
    objects
}

fn veths(balancers: u32) -> BTreeMap<IpAddr, Vec<Veth>> {
    let veth = |i| {
        let pod_ip = IpAddr::from(address(0x0AF5_0000, i));
        let name = format!("veth{i}").into();
        (pod_ip, vec![Veth { ifindex: i + 10, ifname: name, pod_mac: [0; 6], host_mac: [0; 6], pod_ip }])
    };
    (0..balancers).map(veth).collect()
}

fn keyring() -> Keyring {
    Keyring::new(Master::new(&[7; 32]).expect("long enough"))
}

fn passes(criterion: &mut Criterion) {
    let (objects, veths) = (objects(BALANCERS), veths(BALANCERS));
    let place = Place { name: "n1".into(), link: Link { ifindex: 2, mtu: 1_500, local: GUE.into() } };
    let none = BTreeSet::new();
    let decide = |keyring: &mut Keyring| -> Desired {
        Decision::new(&objects, &place, keyring, &veths, &none, |_, _| true).into_desired()
    };
    let mut group = criterion.benchmark_group("pass_1000_load_balancers");
    group.bench_function("decide_keys_derived_anew", |bencher| bencher.iter(|| decide(&mut keyring())));
    let mut kept = keyring();
    group.bench_function("decide_keys_kept", |bencher| bencher.iter(|| decide(&mut kept)));
    let writer = Writer::new();
    let found = decide(&mut kept);
    assert_eq!((found.rows.services.len(), found.local.len()), (BALANCERS as usize, BALANCERS as usize));
    let (_, refused) = found.rows.clone().write(&writer, None);
    assert_eq!(refused, []);
    group.bench_function("write_unchanged_rows", |bencher| {
        bencher.iter(|| found.rows.clone().write(&writer, None));
    });
    group.finish();
}

/// One Endpoint changes: decision, rows, the maps, which are fake, and which addresses are in force. It is one of the same few at every size, so that the sizes
/// differ in nothing else; `any` is one of all of them, whose memory no cache has.
fn endpoint_change(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("agent_endpoint_change");
    for (balancers, few) in [(10, true), (1_000, true), (10_000, true), (10_000, false)] {
        let (mut objects, veths) = (objects(balancers), veths(balancers));
        let place = Place { name: "n1".into(), link: Link { ifindex: 2, mtu: 1_500, local: GUE.into() } };
        let (mut keyring, none) = (keyring(), BTreeSet::new());
        let mut decision = Decision::new(&objects, &place, &mut keyring, &veths, &none, |_, _| true);
        let writer = Writer::new();
        let initializer = writer.register_initializer("bench");
        let (_, refused) = decision.take_rows().write(&writer, Some(&initializer));
        assert_eq!(refused, []);
        let side = NodeSide::new("n1", 1);
        let mut reconciler = Reconciler::new(writer.reader(), FakeMaps::new(), side, Default::default())
            .expect("fake maps can be read");
        while reconciler.round(Instant::now(), Budget::UNLIMITED).more {}
        let (mut in_force, answering) = (InForce::default(), decision.desired().answering.clone());
        in_force.follow(&answering, &writer.snapshot(), &reconciler.progress());
        let mut at = 0;
        let mut change = || {
            at = (at + 7) % if few { FEW } else { objects.endpoints.len() };
            let before = Arc::clone(&objects.endpoints[at]);
            let mut after = (*before).clone();
            let IpAddr::V4(old) = after.spec.address.parse().expect("an address") else { unreachable!() };
            after.spec.address = Ipv4Addr::from(u32::from(old) ^ 0x0002_0000).to_string();
            let after = Arc::new(after);
            objects.endpoints[at] = Arc::clone(&after);
            let key = kates::Key::of(&*after);
            let of = &objects.load_balancers[at / 2];
            let (before, after) = (Some(before), Some(after));
            let (endpoints, balancer) = (vec![kates::Change { key, before, after }], Arc::clone(of));
            let changes = Changes { endpoints, ..Changes::default() };
            let find = |_: &ServiceName| Some(Arc::clone(&balancer));
            let delta =
                decision.change(&changes, find, &mut keyring, |_, _| true).expect("nothing is contested");
            let (revision, _) = ServiceRows::write_all(delta.services, &delta.gone, &writer);
            let round = reconciler.round(Instant::now(), Budget::UNLIMITED);
            let (tables, progress) = (writer.snapshot(), reconciler.progress());
            assert!(round.writes > 0 && progress.covers(revision));
            let held = in_force.follow(&decision.desired().answering, &tables, &progress).len();
            assert_eq!(held, answering.len());
        };
        let id = match few {
            true => BenchmarkId::from_parameter(balancers),
            false => BenchmarkId::new("any", balancers),
        };
        group.bench_function(id, |bencher| bencher.iter(&mut change));
    }
    group.finish();
}

/// The key of tunnel `id`.
fn hello_key(directory: &epic_agent::hello::responder::Directory, id: u32) -> Wanted {
    let tunnel = &directory.tunnels[&id];
    let local = SocketAddr::from((address(0x0A09_0000, id), 6080));
    Wanted {
        lb: tunnel.lb,
        node: (GUE, 6080).into(),
        local,
        generation: 2,
        key: tunnel.keys[&2],
        source_ports: epic_crds::SourcePorts::Fixed,
    }
}

fn hellos(criterion: &mut Criterion) {
    let place = Place { name: "n1".into(), link: Link { ifindex: 2, mtu: 1_500, local: GUE.into() } };
    let mut objects = objects(BALANCERS);
    objects.accounts = (0..50)
        .map(|i| {
            read(json!({"metadata": {"name": i.to_string()}, "spec": {},
                        "status": {"namespace": format!("epic-{i}")}}))
        })
        .collect();
    let veths = veths(BALANCERS);
    let decision = Decision::new(&objects, &place, &mut keyring(), &veths, &BTreeSet::new(), |_, _| true);
    let directory = decision.into_desired().directory;
    let mut responder = Responder::new(CookieSecret::new([9; 32]));
    directory.tunnels.iter().for_each(|(id, tunnel)| responder.put(*id, tunnel.clone()));
    responder.protect(directory.protected.clone());
    let mut now = 1_000 * SECOND;
    // Every tunnel is heard, each from a client of its own.
    let mut callers: Vec<(SocketAddr, Caller)> = directory
        .tunnels
        .keys()
        .map(|id| {
            let wanted = hello_key(&directory, *id);
            let mut caller = Caller::new(u64::from(*id));
            let from = wanted.local;
            caller.set_wanted([(*id, wanted)].into());
            (from, caller)
        })
        .collect();
    let mut round = |responder: &mut Responder| {
        now += 4 * SECOND;
        let mut learned = 0;
        for (from, caller) in &mut callers {
            let mut messages = caller.poll(now);
            while let Some(message) = messages.pop() {
                let outcome = responder.receive(*from, &message.bytes, now);
                learned += outcome.learned.len();
                if let Some(answer) = outcome.answer {
                    messages.extend(caller.receive((GUE, 6080).into(), &answer.bytes, now).0);
                }
            }
        }
        learned
    };
    assert_eq!(round(&mut responder), BALANCERS as usize);
    let mut group = criterion.benchmark_group("hello");
    group.throughput(Throughput::Elements(u64::from(BALANCERS)));
    group.bench_function(BenchmarkId::new("clients", BALANCERS), |bencher| {
        bencher.iter(|| round(&mut responder));
    });
    let mut stranger = Caller::new(4_711);
    stranger.set_wanted([(1, Wanted { key: [0; 32], ..hello_key(&directory, 1) })].into());
    let forged = stranger.poll(SECOND).remove(0);
    group.throughput(Throughput::Elements(1));
    group.bench_function("forged", |bencher| {
        bencher.iter(|| responder.receive((GUE, 4_444).into(), black_box(&forged.bytes), 2_000 * SECOND));
    });
    group.finish();
}

criterion_group!(benches, passes, endpoint_change, hellos);
criterion_main!(benches);
