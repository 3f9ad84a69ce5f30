//! Rows of two tenants that claim the same, as after a restore: no packet of one ever meets an entry of the other.

use std::time::Instant;

use epic_abi::Lb;
use epic_lb::{FakeMaps, MapKey, MapValue, ProxyState, Service, Since, Writer};
use epic_reconciler::Status;

use crate::support::{
    CheckedMaps, Node, alias, frontend, name, node_reconciler, proxy, proxy_backend, round, service, settle,
    tunnel,
};

/// Two LoadBalancers of other tenants with the IDs 1/1, each with a VIP and a proxy of its own.
fn twins(writer: &Writer) {
    let mut txn = writer.write();
    for (of, vip, since, id) in [("acme/web", "192.0.2.7", 10, 1), ("other/api", "192.0.2.8", 20, 2)] {
        let row = Service { since: Since(since), ..service(of, 1, 1, 1) };
        txn.upsert_service_and_frontends(row, vec![frontend(of, vip, 80, id as u16)]).unwrap();
        txn.upsert_proxy(proxy(of, id, "node2", ProxyState::Ready));
        txn.upsert_backends(&name(of), [proxy_backend(of, id)]);
        txn.upsert_tunnel(tunnel(of, id + 10, "203.0.113.9", "node1"));
        txn.upsert_alias(alias(of, id, Some(id + 10), "10.244.1.7", 8080));
    }
    txn.commit();
}

fn members(reconciler: &Node<CheckedMaps>) -> Vec<u32> {
    match reconciler.maps().0.get(&MapKey::Maglev(Lb::new(1, 1))) {
        Some(MapValue::Maglev(table)) => table.members().to_vec(),
        other => panic!("{other:?}"),
    }
}

fn vips(reconciler: &Node<CheckedMaps>) -> Vec<String> {
    let keys = reconciler.maps().0.content().map(|(key, _)| *key);
    keys.filter_map(|key| if let MapKey::Vip(vip) = key { Some(vip.to_string()) } else { None }).collect()
}

#[test]
fn of_two_load_balancers_with_the_same_ids_the_older_is_served_and_the_younger_after_it() {
    let writer = Writer::new();
    twins(&writer);
    let mut reconciler = node_reconciler(&writer, CheckedMaps(FakeMaps::new()));
    round(&mut reconciler, Instant::now());
    assert_eq!((members(&reconciler), vips(&reconciler)), (vec![1], vec!["192.0.2.7".to_owned()]));
    let progress = reconciler.progress();
    let revision = writer.snapshot().revision();
    assert!(progress.covers_scope(name("acme/web").id(), revision), "nothing of it fails");
    assert!(!progress.covers_scope(name("other/api").id(), revision));
    let text = progress.health.to_string();
    assert!(text.contains("the IDs 1/1 of other/api are those of acme/web as well"), "{text}");

    let mut txn = writer.write();
    txn.delete_service_and_frontends(&name("acme/web"));
    txn.delete_paths(&name("acme/web"));
    txn.commit();
    settle(&mut reconciler, Instant::now());
    assert_eq!((members(&reconciler), vips(&reconciler)), (vec![2], vec!["192.0.2.8".to_owned()]));
    assert!(reconciler.progress().covers(writer.snapshot().revision()));
}

#[test]
fn one_tenants_full_map_delays_nothing_of_another() {
    let writer = Writer::new();
    let aliases = epic_lb::MapId::ALL.iter().position(|map| map.name() == "aliases").unwrap();
    let mut maps = FakeMaps::new();
    maps.set_room(aliases, 1);
    let mut txn = writer.write();
    for (of, id) in [("acme/web", 1u16), ("other/api", 2)] {
        txn.upsert_service_and_frontends(
            service(of, 1, id, 1),
            vec![frontend(of, &format!("192.0.2.{id}"), 80, 0)],
        )
        .unwrap();
        txn.upsert_tunnel(tunnel(of, u32::from(id), "203.0.113.9", "node1"));
        txn.upsert_alias(alias(of, u32::from(id), Some(u32::from(id)), "10.244.1.7", 8080));
    }
    let revision = txn.commit();
    let mut reconciler = node_reconciler(&writer, CheckedMaps(maps));
    round(&mut reconciler, Instant::now());
    let progress = reconciler.progress();
    assert!(!progress.covers(revision) && progress.has_attempted(revision));
    assert!(progress.health.is_node_ok(), "it is no matter of the node: {}", progress.health);
    let covered = [name("acme/web"), name("other/api")].map(|of| progress.covers_scope(of.id(), revision));
    assert_eq!(covered.iter().filter(|covered| **covered).count(), 1, "{covered:?}");
    let snapshot = writer.snapshot();
    for row in snapshot.frontends.iter() {
        assert_eq!(snapshot.status(epic_lb::RowId::Frontend(row.key), &progress), Some(Status::Done));
    }
}
