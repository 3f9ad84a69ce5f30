//! Services without a proxy: their maps, the numbers in them, and what a restart leaves of both.

use std::time::{Duration, Instant};

use epic_lb::maps::{DirectKey, DirectLayout, DirectMaps, DirectValue, dump_direct};
use epic_lb::render::DirectSide;
use epic_lb::rows::RedirectWhen;
use epic_lb::{
    Backend, Frontend, FrontendKey, Place, Protocol, Redirect, Service, ServiceName, Source, Traffic, Writer,
};
use epic_reconciler::{Budget, Maps, Reconciler, Settings};

use crate::churn::{Churn, ENOUGH, SCARCE};
use crate::support::{ip, name};

type Engine = Reconciler<DirectLayout, DirectMaps, DirectSide>;

fn engine(writer: &Writer, maps: DirectMaps, side: DirectSide) -> Engine {
    Reconciler::new(writer.reader(), maps, side, Settings::default()).unwrap()
}

fn side() -> DirectSide {
    DirectSide::new("here", 7)
}

/// Everything that can be done now.
fn round<M: Maps<DirectLayout>>(engine: &mut Reconciler<DirectLayout, M, DirectSide>) -> u64 {
    let mut writes = 0;
    loop {
        let round = engine.round(Instant::now(), Budget::UNLIMITED);
        writes += round.writes;
        match round.ask {
            Some(ask) => engine.confirm(&ask),
            None if !round.more => return writes,
            None => {}
        }
    }
}

fn dump(engine: &Engine) -> String {
    dump_direct(engine.maps().content().map(|(key, value)| (*key, value.clone())))
}

fn place(last: u8) -> Place {
    Place::new([10, 0, 0, last].into(), 8080, Protocol::Tcp)
}

fn backend(of: &ServiceName, last: u8) -> Backend {
    Backend::new(of.clone(), [10, 0, 0, last].into(), 8080, Protocol::Tcp)
}

fn vip(text: &str, port: u16) -> FrontendKey {
    FrontendKey::new(ip(text), port, Protocol::Tcp)
}

/// A service with one public port and these backends.
fn put(writer: &Writer, of: &ServiceName, frontend: FrontendKey, backends: &[u8]) {
    let mut txn = writer.write();
    let row = Frontend::direct(frontend, of.clone());
    txn.upsert_service_and_frontends(Service::new(of.clone(), "uid"), vec![row]).unwrap();
    txn.set_backends(of, backends.iter().map(|last| backend(of, *last)));
    txn.commit();
}

#[test]
fn a_public_port_leads_to_a_table_and_its_cells_to_backends() {
    let writer = Writer::new();
    let web = name("acme/web");
    let mut engine = engine(&writer, DirectMaps::new(), side());
    // One by one: numbers are given in the order in which rows are rendered.
    put(&writer, &web, vip("192.0.2.7", 80), &[1, 2]);
    round(&mut engine);
    put(&writer, &name("acme/api"), vip("192.0.2.8", 443), &[3]);
    round(&mut engine);
    insta::assert_snapshot!(dump(&engine), @r"
    backends 1 -> 1.1 10.0.0.1:8080/TCP set 6c90e0aa
    backends 2 -> 2.1 10.0.0.2:8080/TCP set 6c90e0aa
    backends 3 -> 3.1 10.0.0.3:8080/TCP set bafae5cb
    reverse 1 -> 1.1 192.0.2.7:80/TCP set 6c90e0aa
    reverse 2 -> 2.1 192.0.2.8:443/TCP set bafae5cb
    tables 1 -> 1.1 set 6c90e0aa 1.1×126 2.1×125 digest c348faa0
    tables 2 -> 2.1 set bafae5cb 3.1×1
    services 192.0.2.7:80/TCP -> 1.1 members 2
    services 192.0.2.8:443/TCP -> 2.1 members 1
    ");

    // Nothing is left to new flows; what replies are rewritten to stays.
    let mut txn = writer.write();
    let traffic = Traffic {
        session_affinity: Some(Duration::from_secs(60)),
        source_ranges: vec!["198.51.100.0/24".parse().unwrap()],
        ..Traffic::default()
    };
    txn.upsert_service(Service { traffic: Some(traffic.into()), ..Service::new(web.clone(), "uid") });
    txn.set_backends(&web, []);
    txn.commit();
    round(&mut engine);
    insta::assert_snapshot!(dump(&engine), @r"
    backends 3 -> 3.1 10.0.0.3:8080/TCP set bafae5cb
    reverse 1 -> 1.1 192.0.2.7:80/TCP set 6c90e0aa
    reverse 2 -> 2.1 192.0.2.8:443/TCP set bafae5cb
    tables 2 -> 2.1 set bafae5cb 3.1×1
    ranges 1 198.51.100.0/24
    services 192.0.2.7:80/TCP -> 1.1 members 0 affinity 60s ranges
    services 192.0.2.8:443/TCP -> 2.1 members 1
    ");

    // Others take them, and the table says whose they are.
    let mut txn = writer.write();
    let (to, when) = (name("acme/api"), RedirectWhen::NothingServes);
    let redirect = Redirect { service: web.clone(), source: Source::default(), to, when, port: None };
    txn.set_redirect(&web, Some(redirect));
    txn.commit();
    round(&mut engine);
    insta::assert_snapshot!(dump(&engine), @r"
    backends 3 -> 3.1 10.0.0.3:8080/TCP set bafae5cb
    reverse 1 -> 1.1 192.0.2.7:80/TCP set 6c90e0aa
    reverse 2 -> 2.1 192.0.2.8:443/TCP set bafae5cb
    tables 1 -> 1.1 set bafae5cb 3.1×1
    tables 2 -> 2.1 set bafae5cb 3.1×1
    ranges 1 198.51.100.0/24
    services 192.0.2.7:80/TCP -> 1.1 members 1 affinity 60s ranges
    services 192.0.2.8:443/TCP -> 2.1 members 1
    ");
}

#[test]
fn what_goes_through_a_proxy_has_no_entry() {
    let writer = Writer::new();
    let web = name("acme/web");
    let mut txn = writer.write();
    let row = Frontend::proxied(vip("192.0.2.7", 80), web.clone(), 0);
    txn.upsert_service_and_frontends(Service::new(web.clone(), "uid"), vec![row]).unwrap();
    let proxy = Backend::proxy(web.clone(), ip("100.64.0.1"), epic_lb::ProxyId::new(1).unwrap());
    txn.set_backends(&web, [proxy]);
    txn.commit();
    let mut engine = engine(&writer, DirectMaps::new(), side());
    assert_eq!(round(&mut engine), 0);
}

#[test]
fn a_restart_adopts_the_numbers_and_writes_nothing() {
    let writer = Writer::new();
    for i in 1..=20 {
        put(&writer, &name(&format!("acme/web-{i}")), vip("192.0.2.7", i), &[1, 2, i as u8]);
    }
    let mut first = engine(&writer, DirectMaps::new(), side());
    round(&mut first);
    // Numbers with holes, in an order that a start would not give.
    put(&writer, &name("acme/web-3"), vip("192.0.2.7", 3), &[]);
    round(&mut first);
    put(&writer, &name("acme/web-3"), vip("192.0.2.9", 3), &[7, 8]);
    round(&mut first);
    let before = dump(&first);
    let mut second = engine(&writer, first.into_maps(), side());
    assert_eq!(round(&mut second), 0);
    assert_eq!(dump(&second), before);

    // What went while nobody ran goes, and its numbers are free.
    let maps = second.into_maps();
    put(&writer, &name("acme/web-4"), vip("192.0.2.7", 4), &[]);
    let mut third = engine(&writer, maps, side());
    round(&mut third);
    assert_eq!(third.maps().len() + 4, before.lines().count(), "three backends and a table");
    assert!(third.is_idle());
}

#[test]
fn a_number_is_not_given_to_another_before_its_last_reader_has_left() {
    let writer = Writer::new();
    let (web, api) = (name("acme/web"), name("acme/api"));
    put(&writer, &web, vip("192.0.2.7", 80), &[1]);
    put(&writer, &api, vip("192.0.2.8", 80), &[]);
    let mut engine = engine(&writer, DirectMaps::new(), side().with_room(2));
    round(&mut engine);
    // Both numbers have been used, and the first comes again: for another service, in the same transaction.
    put(&writer, &api, vip("192.0.2.8", 80), &[9]);
    round(&mut engine);
    let mut txn = writer.write();
    txn.set_backends(&web, []);
    txn.set_backends(&api, [backend(&api, 9), backend(&api, 1)]);
    txn.commit();
    round(&mut engine);
    let Some(DirectValue::Backend(again)) = engine.maps().get(&DirectKey::Backend(1)) else {
        panic!("number 1 is in use:\n{}", dump(&engine));
    };
    assert_eq!((again.reference.generation(), again.place()), (2, place(1)));
    assert!(engine.is_idle() && engine.maps().dangling().is_empty());
}

#[test]
fn whoever_finds_no_number_says_so_and_gets_one_when_another_leaves() {
    let writer = Writer::new();
    let web = name("acme/web");
    put(&writer, &web, vip("192.0.2.7", 80), &[1, 2]);
    let mut engine = engine(&writer, DirectMaps::new(), side().with_room(1));
    round(&mut engine);
    let health = engine.progress().health.to_string();
    assert!(health.contains("the maps have room for 1 backends, and all are in use"), "{health}");
    let members = |engine: &Engine| match engine.maps().get(&DirectKey::Service(vip("192.0.2.7", 80))) {
        Some(DirectValue::Service(service)) => service.members,
        other => panic!("{other:?}"),
    };
    assert_eq!(members(&engine), 1, "the other takes its share");

    let held = engine.maps().content().find_map(|(_, value)| match value {
        DirectValue::Backend(backend) => Some(backend.place()),
        _ => None,
    });
    let mut txn = writer.write();
    txn.release_backend(&web, held.unwrap());
    txn.commit();
    round(&mut engine);
    assert!(engine.is_idle(), "{}", engine.progress().health);
    assert_eq!(members(&engine), 1);
}

#[test]
fn nodes_with_other_numbers_choose_alike() {
    let mut here = Churn::new(3, 0.0, ENOUGH);
    for _ in 0..300 {
        here.step();
    }
    let mut there = here.afresh();
    assert_eq!(here.settle().seen(), there.settle().seen());
}

#[test]
fn five_thousand_random_changes_leave_nothing_dangling() {
    for (seed, failing) in [(1, 0.0), (2, 0.2)] {
        let mut churn = Churn::new(seed, failing, ENOUGH);
        while churn.changes < 2_500 {
            churn.step();
        }
        let mut clean = churn.afresh();
        let maps = churn.settle();
        assert_eq!((maps.dangling, &maps.first), (0, &None));
        assert!(maps.writes > 2_500, "{} writes", maps.writes);
        assert_eq!(maps.seen(), clean.settle().seen());
        assert_eq!(maps.maps.len(), clean.settle().maps.len());

        // After a restart nothing is to do.
        let writes = maps.writes;
        churn.restart();
        assert_eq!(churn.settle().writes, writes);

        churn.clear();
        assert!(churn.settle().maps.is_empty());
    }
}

#[test]
fn where_numbers_are_scarce_none_leads_to_who_had_it_before() {
    // A number that comes again in a generation which a stale entry still has shows after some thousand changes.
    for (seed, failing) in [(4, 0.0), (9, 0.2)] {
        let mut churn = Churn::new(seed, failing, SCARCE);
        while churn.changes < 10_000 {
            churn.step();
        }
        let maps = churn.settle();
        assert_eq!((maps.dangling, &maps.first), (0, &None));
        churn.clear();
        assert!(churn.settle().maps.is_empty());
    }
}

#[test]
fn what_a_source_left_goes_after_a_restart_whether_others_are_reached_or_not() {
    let (web, api, old) = (name("acme/web"), name("acme/api"), name("acme/old"));
    let ports = || [(&web, "192.0.2.7"), (&api, "192.0.2.8"), (&old, "192.0.2.9")];
    let before = Writer::new();
    let file = before.for_source(Source::File);
    let mut first = engine(&before, DirectMaps::new(), side());
    for (service, address) in ports() {
        // One is known to a file alone; of another the file says half.
        let writer = if *service == api { &file } else { &before };
        put(writer, service, vip(address, 80), &[1, 2]);
        round(&mut first);
    }
    let mut txn = file.write();
    txn.set_backends(&old, [backend(&old, 2)]);
    txn.commit();
    round(&mut first);
    let all = dump(&first);

    // Objects list, and one of the services is no more.
    let writer = Writer::new();
    let file = writer.for_source(Source::File);
    let (objects, listed) = (writer.register_initializer("objects"), file.register_initializer("file"));
    let mut engine = engine(&writer, first.into_maps(), side());
    round(&mut engine);
    assert_eq!(dump(&engine), all, "nobody has listed");
    put(&writer, &web, vip("192.0.2.7", 80), &[1, 2]);
    let mut txn = writer.write();
    txn.complete(&objects);
    txn.commit();
    round(&mut engine);
    let kept = dump(&engine);
    let gone: Vec<&str> = all.lines().filter(|line| !kept.contains(*line)).collect();
    assert_eq!(
        gone.iter().map(|line| line.split(" set").next().unwrap()).collect::<Vec<_>>(),
        [
            "backends 5 -> 5.1 10.0.0.1:8080/TCP",
            "reverse 3 -> 3.1 192.0.2.9:80/TCP",
            "tables 3 -> 3.1",
            "services 192.0.2.9:80/TCP -> 3.1 members 2"
        ]
    );
    assert_eq!(kept.lines().count() + gone.len(), all.lines().count(), "and nothing is new");
    assert_eq!(engine.progress().health.unlisted, 6, "a service and a backend");

    // The file says the same as before; then it takes it back.
    put(&file, &api, vip("192.0.2.8", 80), &[1, 2]);
    let mut txn = file.write();
    txn.complete(&listed);
    txn.commit();
    round(&mut engine);
    assert!(engine.is_idle() && dump(&engine).lines().count() == 10);
    let mut txn = file.write();
    txn.delete_service_and_frontends(&api);
    txn.set_backends(&api, []);
    txn.commit();
    round(&mut engine);
    assert_eq!(dump(&engine).lines().count(), 5);
}

#[test]
fn a_backend_of_two_sources_names_both_and_stays_while_one_has_it() {
    let (writer, web) = (Writer::new(), name("acme/web"));
    let file = writer.for_source(Source::File);
    put(&writer, &web, vip("192.0.2.7", 80), &[1]);
    let mut engine = engine(&writer, DirectMaps::new(), side());
    round(&mut engine);
    let sources = |engine: &Engine| match engine.maps().get(&DirectKey::Backend(1)) {
        Some(DirectValue::Backend(backend)) => backend.sources,
        other => panic!("{other:?}"),
    };
    let bit = |source: Source| 1 << source as u8;
    assert_eq!(sources(&engine), bit(Source::Resource));
    let mut txn = file.write();
    txn.set_backends(&web, [backend(&web, 1)]);
    txn.commit();
    round(&mut engine);
    assert_eq!(sources(&engine), bit(Source::Resource) | bit(Source::File));
    assert!(engine.is_idle(), "both rows want the same: {}", engine.progress().health);
    let mut txn = writer.write();
    txn.set_backends(&web, []);
    txn.commit();
    round(&mut engine);
    assert_eq!(sources(&engine), bit(Source::File));
    assert!(engine.is_idle(), "{}", engine.progress().health);
}
