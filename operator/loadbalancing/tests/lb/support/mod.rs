//! Rows and maps for tests: short ways to say them, maps that check every write, and the shell of the script tests.

pub(crate) mod shell;

use std::net::IpAddr;
use std::time::{Duration, Instant};

use epic_lb::reconciler::{Backoff, Reconciler};
use epic_lb::render::NodeSide;
use epic_lb::{
    Alias, AliasKey, Backend, DataKey, FakeMaps, FrontendKey, FrontendParams, GroupId, LbMaps, Link,
    MapError, MapKey, MapValue, Protocol, Proxy, ProxyId, ProxyState, Service, ServiceId, ServiceKeys,
    ServiceName, Tables, Tunnel, TunnelId, Veth, Writer,
};

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
        keys: Some(ServiceKeys { data: keys, node: Some(keys) }),
        ..Service::new(
            name(service),
            format!("uid-{service_id}"),
            GroupId::new(group_id).unwrap(),
            ServiceId::new(service_id).unwrap(),
        )
    }
}

pub(crate) fn frontend(of: &str, vip: &str, port: u16, slot: u16) -> FrontendParams {
    FrontendParams::new(FrontendKey::new(ip(vip), port, Protocol::Tcp), name(of), slot)
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
        epic_node: epic_node.into(),
        epic_address: ip(&format!("198.51.100.{}", epic_node.trim_start_matches("node"))),
        epic_port: 6080,
        link: Link { ifindex: 2, mtu: 1500, local: ip("198.51.100.1") },
    }
}

pub(crate) fn alias(of: &str, id: u32, tunnel: Option<u32>, real: &str, port: u16) -> Alias {
    Alias {
        key: AliasKey { service: name(of), address: alias_address(id) },
        tunnel: tunnel.map(|t| TunnelId::new(t).unwrap()),
        real_address: ip(real),
        protocol: Protocol::Tcp,
        port,
        endpoint: format!("endpoint-{id}").into(),
    }
}

/// Fake maps that fail the test as soon as any write leaves an entry that names another which is not there.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CheckedMaps(pub(crate) FakeMaps);

impl CheckedMaps {
    fn check(&self, key: &MapKey) {
        let dangling = self.0.dangling();
        assert!(dangling.is_empty(), "after writing {key}: {dangling:?}\n{}", self.0.dump());
    }
}

impl LbMaps for CheckedMaps {
    fn entries(&self) -> Result<Vec<(MapKey, MapValue)>, MapError> {
        self.0.entries()
    }

    fn update(&mut self, key: &MapKey, value: &MapValue) -> Result<(), MapError> {
        self.0.update(key, value)?;
        self.check(key);
        Ok(())
    }

    fn delete(&mut self, key: &MapKey) -> Result<(), MapError> {
        self.0.delete(key)?;
        self.check(key);
        Ok(())
    }
}

/// A reconciler of the node side over these maps.
pub(crate) fn node_reconciler<M: LbMaps>(writer: &Writer, maps: M) -> Reconciler<M, NodeSide> {
    Reconciler::new(writer.clone(), maps, NodeSide::new(NODE, SEED), Backoff::default())
        .unwrap_or_else(|e| panic!("maps in memory can be read: {e}"))
}

pub(crate) fn writer() -> Writer {
    Writer::new(Tables::new())
}

/// Rounds, each a minute after the last, until nothing is left to do; every question is answered with yes.
pub(crate) fn settle<M: LbMaps>(reconciler: &mut Reconciler<M, NodeSide>, mut now: Instant) -> Instant {
    for _ in 0..10_000 {
        let round = reconciler.round(now);
        if let Some(request) = round.ask {
            reconciler.confirm_prune(request);
        } else if round.retry_at.is_none() {
            return now;
        }
        now += Duration::from_secs(61);
    }
    panic!("not settled: {}", reconciler.progress().health);
}
