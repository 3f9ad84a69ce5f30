//! The client side: the same tables in the maps of a client node.

use std::time::Instant;

use epic_lb::render::ClientSide;
use epic_lb::{EpicNode, FakeMaps, ProxyState, ServiceKeys, Writer};
use epic_reconciler::{Reconciler, Settings};

use crate::support::{CheckedMaps, alias, ip, name, proxy, round, service, tunnel};

const WEB: &str = "acme/web";

#[test]
fn a_client_node_knows_its_tunnels_the_proxies_behind_them_and_its_own_endpoints() {
    let writer = Writer::new();
    let web = name(WEB);
    let mut service = service(WEB, 1, 1, 2);
    service.keys = service.keys.map(|keys| ServiceKeys { node: None, ..*keys }.into());
    let mut txn = writer.write();
    txn.upsert_service(service);
    txn.set_nodes([EpicNode::new(ip("198.51.100.1"), "node1")]);
    txn.set_tunnels(&web, [tunnel(WEB, 5, "203.0.113.9", "node1")]);
    txn.set_proxies(
        &web,
        [proxy(WEB, 1, "node1", ProxyState::Ready), proxy(WEB, 2, "node2", ProxyState::Ready)],
    );
    txn.set_aliases(&web, [alias(WEB, 1, None, "10.244.1.7", 8080)]);
    txn.commit();
    let maps = CheckedMaps(FakeMaps::new());
    let mut reconciler = Reconciler::new(writer.reader(), maps, ClientSide, Settings::default()).unwrap();
    round(&mut reconciler, Instant::now());
    insta::assert_snapshot!(reconciler.maps().dump(), @r"
    tunnel_stats 5
    nodes 198.51.100.1
    tunnels 5 -> lb 1/1 if2 mtu 1500 from 198.51.100.1 key 2
    keys lb 1/1 -> data 1,2,3
    routes 100.64.0.1 -> tunnel 5 lb 1/1
    endpoints lb 1/1 10.244.1.7:8080/6
    ");
    insta::assert_snapshot!(reconciler.progress().health, @"degraded, 6 entries; proxies 2: there is no tunnel to node2 yet");

    // The tunnel to the second node comes: so does the way to its proxy.
    let mut txn = writer.write();
    txn.upsert_tunnel(tunnel(WEB, 6, "203.0.113.9", "node2"));
    txn.commit();
    assert_eq!(round(&mut reconciler, Instant::now()).writes, 3);
    assert!(reconciler.progress().health.is_ok());

    // The tunnel goes: first the way that uses it.
    let mut txn = writer.write();
    txn.set_tunnels(&web, [tunnel(WEB, 6, "203.0.113.9", "node2")]);
    txn.set_proxies(&web, [proxy(WEB, 2, "node2", ProxyState::Ready)]);
    txn.commit();
    assert_eq!(round(&mut reconciler, Instant::now()).writes, 3);
    assert_eq!(writer.snapshot().proxies_of(web.id()).count(), 1);
}
