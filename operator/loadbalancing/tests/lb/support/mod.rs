//! Rows and maps for tests: short ways to say them, maps that check every write, and the shell of the script tests.

pub(crate) mod shell;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use epic_lb::render::NodeSide;
use epic_lb::{
    Alias, Backend, DataKey, EpicLayout, FakeMaps, Frontend, FrontendKey, GroupId, Link, MapKey, MapValue,
    Name, Place, Protocol, Proxy, ProxyId, ProxyState, Service, ServiceId, ServiceKeys, ServiceName, Tunnel,
    TunnelId, Veth, Writer,
};
use epic_reconciler::{Budget, MapError, Maps, Op, Reconciler, Settings};

pub(crate) type Node<M> = Reconciler<EpicLayout, M, NodeSide>;

pub(crate) const NODE: &str = "node1";
pub(crate) const SEED: u32 = 7;

pub(crate) fn ip(text: &str) -> IpAddr {
    text.parse().unwrap_or_else(|_| panic!("{text:?} is no address"))
}

pub(crate) fn name(text: &str) -> ServiceName {
    let (namespace, name) = text.split_once('/').unwrap_or_else(|| panic!("{text:?} is not namespace/name"));
    ServiceName::new(namespace, name)
}

pub(crate) fn proxy_address(id: u32) -> IpAddr {
    IpAddr::V4((u32::from_be_bytes([100, 64, 0, 0]) + id).into())
}

pub(crate) fn alias_address(id: u32) -> IpAddr {
    IpAddr::V4((u32::from_be_bytes([100, 127, 0, 0]) + id).into())
}

fn key(service: u16, generation: u32) -> DataKey {
    let mut bytes = [0; 16];
    bytes[..2].copy_from_slice(&service.to_be_bytes());
    bytes[2..6].copy_from_slice(&generation.to_be_bytes());
    DataKey(bytes)
}

pub(crate) fn service(service: &str, group_id: u16, service_id: u16, generation: u32) -> Service {
    let keys = std::array::from_fn(|i| key(service_id, generation + i as u32));
    Service {
        key_generation: generation,
        keys: Some(ServiceKeys { data: keys, node: Some(keys) }.into()),
        ..Service::new(name(service), format!("uid-{service_id}"))
            .granted(GroupId::new(group_id).unwrap(), ServiceId::new(service_id).unwrap())
    }
}

pub(crate) fn frontend(of: &str, vip: &str, port: u16, slot: u16) -> Frontend {
    Frontend::proxied(FrontendKey::new(ip(vip), port, Protocol::Tcp), name(of), slot)
}

pub(crate) fn proxy(of: &str, id: u32, node: &str, state: ProxyState) -> Proxy {
    let local = (node == NODE).then(|| Veth {
        ifindex: 100 + id,
        ifname: format!("veth{id}").into(),
        pod_mac: [2, 0, 0, 0, 0, 1],
        host_mac: [2, 0, 0, 0, 0, 2],
        pod_ip: IpAddr::from([10, 244, 1, id as u8]),
    });
    Proxy {
        id: ProxyId::new(id).unwrap(),
        service: name(of),
        address: proxy_address(id),
        pod: format!("proxy-{id}").into(),
        pod_uid: format!("pod-uid-{id}").into(),
        node: node.into(),
        node_address: ip(&format!("198.51.100.{}", node.trim_start_matches("node"))),
        state,
        local,
    }
}

pub(crate) fn proxy_backend(of: &str, id: u32) -> Backend {
    Backend::proxy(name(of), proxy_address(id), ProxyId::new(id).unwrap())
}

pub(crate) fn tunnel(of: &str, id: u32, client: &str, epic_node: &str) -> Tunnel {
    Tunnel {
        id: TunnelId::new(id).unwrap(),
        service: name(of),
        client_node: ip(client),
        epic_node: Name::new(epic_node),
        epic_address: ip(&format!("198.51.100.{}", epic_node.trim_start_matches("node"))),
        epic_port: 6080,
        link: Link { ifindex: 2, mtu: 1500, local: ip("198.51.100.1") },
    }
}

pub(crate) fn alias(of: &str, id: u32, tunnel: Option<u32>, real: &str, port: u16) -> Alias {
    Alias {
        service: name(of),
        address: alias_address(id).into(),
        tunnel: tunnel.map(|t| TunnelId::new(t).unwrap()),
        real: Place::new(ip(real), port, Protocol::Tcp),
        endpoint: Name::new(&format!("endpoint-{id}")),
    }
}

/// Fake maps that fail the test as soon as any write leaves an entry that names another which is not there, or is
/// somebody else's.
#[derive(Clone, Debug, Default)]
pub(crate) struct CheckedMaps(pub(crate) FakeMaps);

impl CheckedMaps {
    fn check(&self, key: &MapKey) {
        let dangling = self.0.dangling();
        assert!(dangling.is_empty(), "after writing {key}: {dangling:?}\n{}", self.dump());
        self.check_tenants(key);
    }

    /// No public port leads to a proxy, and no alias into a tunnel, of another LoadBalancer.
    fn check_tenants(&self, key: &MapKey) {
        for (at, value) in self.0.content() {
            let MapKey::Alias(alias) = at else { continue };
            let MapValue::Alias(to) = value else { panic!("{at} holds {value:?}") };
            let Some(MapValue::Tunnel(tunnel)) = self.0.get(&MapKey::Tunnel(to.tunnel)) else { continue };
            assert_eq!(tunnel.lb, alias.lb, "after writing {key}: {at} leads into tunnel {}", to.tunnel);
        }
    }

    pub(crate) fn dump(&self) -> String {
        epic_lb::maps::dump(self.0.content().map(|(key, value)| (*key, value.clone())))
    }
}

impl Maps<EpicLayout> for CheckedMaps {
    fn read(&self, map: usize, each: &mut dyn FnMut(MapKey, MapValue)) -> Result<(), MapError> {
        self.0.read(map, each)
    }

    fn apply(
        &mut self,
        map: usize,
        batch: &[Op<EpicLayout>],
        done: &mut dyn FnMut(usize, Result<(), MapError>),
    ) {
        for (at, op) in batch.iter().enumerate() {
            self.0.apply(map, std::slice::from_ref(op), &mut |_, result| done(at, result));
            self.check(&op.key);
        }
    }
}

/// A reconciler of the node side over these maps.
pub(crate) fn node_reconciler<M: Maps<EpicLayout>>(writer: &Writer, maps: M) -> Node<M> {
    Reconciler::new(writer.reader(), maps, NodeSide::new(NODE, SEED), Settings::default())
        .unwrap_or_else(|e| panic!("maps in memory can be read: {e}"))
}

/// Everything that can be done now.
pub(crate) fn round<M: Maps<EpicLayout>, R: epic_reconciler::Render<EpicLayout>>(
    reconciler: &mut Reconciler<EpicLayout, M, R>,
    now: Instant,
) -> epic_reconciler::Round<MapKey> {
    let mut writes = 0;
    for _ in 0..1000 {
        let round = reconciler.round(now, Budget::UNLIMITED);
        writes += round.writes;
        if !round.more {
            return epic_reconciler::Round { writes, ..round };
        }
    }
    panic!("there is always more to do, though nothing changes: {:?}", reconciler.progress().health)
}

/// Rounds, each a minute after the last, until nothing is left to do; every question is answered with yes.
pub(crate) fn settle<M: Maps<EpicLayout>>(reconciler: &mut Node<M>, mut now: Instant) -> Instant {
    for _ in 0..10_000 {
        let done = round(reconciler, now);
        if let Some(ask) = done.ask {
            reconciler.confirm(&ask);
        } else if done.retry_at.is_none() {
            return now;
        }
        now += Duration::from_secs(61);
    }
    panic!("not settled: {}", reconciler.progress().health);
}

/// Names that get their numbers in this order, for as long as they are held. In a process that runs long, a name may have
/// any number.
pub(crate) fn numbered<'a>(texts: impl IntoIterator<Item = &'a str>) -> Vec<Name> {
    let mut room: Vec<Name> = (0..1000).map(|n| Name::new(&format!("room {n}"))).collect();
    room.sort_by_key(Name::id);
    room.reverse();
    // Of the numbers that are free, the one that became free last is given first.
    drop(room);
    texts.into_iter().map(Name::new).collect()
}
