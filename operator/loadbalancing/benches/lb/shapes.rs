//! What one service is, in rows: with one backend and nothing else, and as EPIC's nodes have it.

use std::net::IpAddr;

use epic_lb::maps::DirectLayout;
use epic_lb::render::{DirectSide, NodeSide};
use epic_lb::{
    Alias, Backend, DataKey, EpicLayout, Frontend, FrontendKey, GroupId, Link, Name, Place, Protocol, Proxy,
    ProxyId, ProxyState, Service, ServiceId, ServiceKeys, ServiceName, ServiceRef, Tables, Traffic, Tunnel,
    TunnelId, Veth, WriteTxn,
};
use epic_reconciler::{Layout, Render};

/// Numbers and names of services as a source has them, in order.
pub(crate) fn names(n: u32) -> Vec<(u32, String)> {
    (1..=n).map(|i| (i, format!("tenant-{}/web-{i}", i % 100))).collect()
}

/// The same in an order without pattern, the same every time.
pub(crate) fn shuffled(n: u32) -> Vec<(u32, String)> {
    let mut names = names(n);
    names.sort_by_key(|(i, _)| u64::from(*i).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29));
    names
}

/// What is put into the tables for each service, and which maps that becomes.
pub(crate) trait Shape {
    type Layout: Layout;
    type Side: Render<Self::Layout, Tables = Tables, Scope = ServiceRef>;
    /// Entries of each service.
    const ENTRIES: usize;

    fn side() -> Self::Side;
    fn put(txn: &mut WriteTxn<'_>, i: u32, name: &str);

    fn remove(txn: &mut WriteTxn<'_>, name: &str) {
        let name = ServiceName::parse(name).expect("namespace/name");
        txn.delete_service_and_frontends(&name);
        txn.delete_paths(&name);
    }
}

fn vip(i: u32) -> FrontendKey {
    FrontendKey::new(IpAddr::from((0x0a60_0000 + i).to_be_bytes()), 80, Protocol::Tcp)
}

fn address(network: u8, i: u32) -> IpAddr {
    let [_, high, middle, low] = i.to_be_bytes();
    IpAddr::from([network, high, middle, low])
}

/// A frontend and a backend: the ancestor's work.
pub(crate) enum Direct {}

impl Shape for Direct {
    type Layout = DirectLayout;
    type Side = DirectSide;
    /// Backend, way back, table, public port.
    const ENTRIES: usize = 4;

    fn side() -> DirectSide {
        DirectSide::new("here", 7).with_room(1 << 20)
    }

    fn put(txn: &mut WriteTxn<'_>, i: u32, name: &str) {
        let name = ServiceName::parse(name).expect("namespace/name");
        txn.upsert_backends(&name, [Backend::new(name.clone(), address(11, i), 8080, Protocol::Tcp)]);
        let frontend = Frontend::direct(vip(i), name.clone());
        let service = Service::new(name, "");
        txn.upsert_service_and_frontends(service, vec![frontend]).expect("its own frontend");
    }
}

impl Direct {
    /// A service with an affinity of so many seconds, by which a change of it is told from the one before.
    pub(crate) fn put_marked(txn: &mut WriteTxn<'_>, i: u32, name: &str, seconds: u64) {
        Self::put(txn, i, name);
        let name = ServiceName::parse(name).expect("namespace/name");
        let affinity = Some(std::time::Duration::from_secs(seconds));
        let traffic = Traffic { session_affinity: affinity, ..Traffic::default() };
        txn.upsert_service(Service { traffic: Some(traffic.into()), ..Service::new(name, "") });
    }

    /// The public port of a service.
    pub(crate) fn frontend(i: u32) -> FrontendKey {
        vip(i)
    }
}

/// A frontend, a proxy on this node, a tunnel, and an endpoint behind it.
pub(crate) enum Node {}

impl Shape for Node {
    type Layout = EpicLayout;
    type Side = NodeSide;
    /// Keys, tunnel with counters, proxy twice, alias twice, table, listener, public port, public address.
    const ENTRIES: usize = 11;

    fn side() -> NodeSide {
        NodeSide::new("node1", 7)
    }

    fn put(txn: &mut WriteTxn<'_>, i: u32, name: &str) {
        let name = ServiceName::parse(name).expect("namespace/name");
        let ids = (GroupId::new(1 + (i / 50_000) as u16), ServiceId::new(1 + (i % 50_000) as u16));
        let (Ok(group), Ok(service)) = ids else { panic!("{ids:?}") };
        let keys = [DataKey([i as u8; 16]); 3];
        let row = Service {
            keys: Some(ServiceKeys { data: keys, node: Some(keys) }.into()),
            ..Service::new(name.clone(), "").granted(group, service)
        };
        let frontend = Frontend { announced: true, ..Frontend::proxied(vip(i), name.clone(), 0) };
        txn.upsert_service_and_frontends(row, vec![frontend]).expect("its own frontend");
        let (proxy, tunnel) = (ProxyId::new(i).expect("not 0"), TunnelId::new(i).expect("not 0"));
        let veth = Veth {
            ifindex: i,
            ifname: "veth".into(),
            pod_mac: [2, 0, 0, 0, 0, 1],
            host_mac: [2, 0, 0, 0, 0, 2],
            pod_ip: address(12, i),
        };
        txn.upsert_backends(&name, [Backend::proxy(name.clone(), address(100, i), proxy)]);
        txn.upsert_proxy(Proxy {
            id: proxy,
            service: name.clone(),
            address: address(100, i),
            pod: "proxy".into(),
            pod_uid: "uid".into(),
            node: "node1".into(),
            node_address: address(198, 1),
            state: ProxyState::Ready,
            local: Some(veth),
        });
        txn.upsert_tunnel(Tunnel {
            id: tunnel,
            service: name.clone(),
            client_node: address(13, i),
            epic_node: Name::new("node1"),
            epic_address: address(198, 1),
            epic_port: 6080,
            link: Link { ifindex: 2, mtu: 1500, local: address(198, 1) },
        });
        txn.upsert_alias(Alias {
            service: name,
            address: address(101, i).into(),
            tunnel: Some(tunnel),
            real: Place::new(address(14, i), 8080, Protocol::Tcp),
            endpoint: Name::new("endpoint"),
        });
    }
}
