//! Something to look into: tables, a reconciler of a node, and maps in memory.

use std::fmt::Write as _;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use epic_lb::render::NodeSide;
use epic_lb::{
    Backend, BackendState, DataKey, EpicLayout, FakeMaps, Frontend, FrontendKey, GroupId, Link, MapKey,
    MapValue, Name, Place, Progress, Protocol, Proxy, ProxyId, ProxyState, Service, ServiceId, ServiceKeys,
    ServiceName, Snapshot, Tunnel, TunnelId, Veth, Writer,
};
use epic_reconciler::{Budget, MapError, Reconciler, Settings};
use epic_shell::{Request, Side, Subject, answer};

/// What the keys of tunnels consist of: no output may hold it, in whatever form.
pub(crate) const KEY_BYTE: u8 = 0xd7;

pub(crate) struct Scene {
    pub(crate) writer: Writer,
    pub(crate) reconciler: Option<Reconciler<EpicLayout, FakeMaps, NodeSide>>,
    side: Side,
    now: Instant,
}

impl Subject for Scene {
    type Side = Side;
    fn tables(&self) -> Arc<Snapshot> {
        self.writer.snapshot()
    }
    fn progress(&self) -> Progress {
        self.reconciler().progress()
    }
    fn entries(&self) -> Result<Vec<(MapKey, MapValue)>, MapError> {
        Ok(self.reconciler().maps().content().map(|(key, value)| (*key, value.clone())).collect())
    }
    fn side(&self) -> &Side {
        &self.side
    }
    fn now(&self) -> Instant {
        self.now
    }
}

pub(crate) fn name(text: &str) -> ServiceName {
    ServiceName::parse(text).expect("namespace/name")
}

fn ip(text: &str) -> IpAddr {
    text.parse().expect("an address")
}

pub(crate) fn service(of: &str, id: u16) -> Service {
    let keys = [DataKey([KEY_BYTE; 16]); 3];
    Service {
        keys: Some(ServiceKeys { data: keys, node: Some(keys) }.into()),
        ..Service::new(name(of), "uid").granted(GroupId::new(1).unwrap(), ServiceId::new(id).unwrap())
    }
}

pub(crate) fn vip(of: &str, address: &str, port: u16) -> Frontend {
    let slot = u16::from(port == 443);
    Frontend::proxied(FrontendKey::new(ip(address), port, Protocol::Tcp), name(of), slot)
}

pub(crate) fn place(id: u8) -> Place {
    Place::new(IpAddr::from([100, 64, 0, id]), 0, Protocol::Any)
}

pub(crate) fn proxy(of: &str, id: u8, node: &str) -> Proxy {
    let local = (node == "node1").then(|| Veth {
        ifindex: 100 + u32::from(id),
        ifname: format!("veth{id}").into(),
        pod_mac: [2, 0, 0, 0, 0, 1],
        host_mac: [2, 0, 0, 0, 0, 2],
        pod_ip: IpAddr::from([10, 244, 1, id]),
    });
    Proxy {
        id: ProxyId::new(u32::from(id)).unwrap(),
        service: name(of),
        address: place(id).address.ip(),
        pod: format!("proxy-{id}").into(),
        pod_uid: "uid".into(),
        node: node.into(),
        node_address: ip("198.51.100.2"),
        state: ProxyState::Ready,
        local,
    }
}

pub(crate) fn backend(of: &str, id: u8, state: BackendState) -> Backend {
    let proxy = ProxyId::new(u32::from(id)).unwrap();
    let mut backend = Backend::proxy(name(of), place(id).address.ip(), proxy);
    backend.state = state;
    backend.locality.node = Some(Name::new(if id == 1 { "node1" } else { "node2" }));
    backend
}

fn tunnel(of: &str, id: u32) -> Tunnel {
    Tunnel {
        id: TunnelId::new(id).unwrap(),
        service: name(of),
        client_node: ip("203.0.113.9"),
        epic_node: Name::new("node1"),
        epic_address: ip("198.51.100.1"),
        epic_port: 6080,
        link: Link { ifindex: 2, mtu: 1500, local: ip("198.51.100.1") },
    }
}

impl Scene {
    /// Two services: acme/web with three proxies and a tunnel, acme/api with one proxy and an address that acme/web has.
    pub(crate) fn new() -> Self {
        let writer = Writer::new();
        let mut txn = writer.write();
        txn.upsert_service(service("acme/web", 1));
        txn.upsert_service(service("acme/api", 2));
        for frontend in [vip("acme/web", "192.0.2.7", 80), vip("acme/web", "192.0.2.7", 443)] {
            txn.upsert_frontend(frontend).unwrap();
        }
        txn.upsert_frontend(vip("acme/api", "192.0.2.8", 80)).unwrap();
        for (of, id, node, state) in [
            ("acme/web", 1, "node1", BackendState::Active),
            ("acme/web", 2, "node2", BackendState::Active),
            ("acme/web", 3, "node2", BackendState::Draining),
            ("acme/api", 4, "node2", BackendState::Active),
        ] {
            txn.upsert_proxy(proxy(of, id, node));
            txn.upsert_backends(&name(of), [backend(of, id, state)]);
        }
        txn.upsert_tunnel(tunnel("acme/web", 5));
        txn.commit();
        let side = Side::Node { name: "node1".into(), seed: 7 };
        let mut scene = Self { writer, reconciler: None, side, now: Instant::now() };
        scene.with_maps(FakeMaps::new());
        scene.round();
        scene
    }

    pub(crate) fn reconciler(&self) -> &Reconciler<EpicLayout, FakeMaps, NodeSide> {
        self.reconciler.as_ref().expect("there is always one between two steps")
    }

    /// Goes on with other maps, as after a restart.
    pub(crate) fn with_maps(&mut self, maps: FakeMaps) {
        let render = NodeSide::new("node1", 7);
        let reconciler = Reconciler::new(self.writer.reader(), maps, render, Settings::default());
        self.reconciler = Some(reconciler.expect("maps in memory can be read"));
    }

    pub(crate) fn round(&mut self) {
        self.now += Duration::from_secs(61);
        let now = self.now;
        let reconciler = self.reconciler.as_mut().expect("there is always one");
        while reconciler.round(now, Budget::UNLIMITED).more {}
    }

    pub(crate) fn wait(&mut self, time: Duration) {
        self.now += time;
    }

    /// What a line is answered, errors included.
    pub(crate) fn say(&self, line: &str) -> String {
        match Request::parse(line).map_err(Into::into).and_then(|request| answer(self, &request)) {
            Ok(text) => text,
            Err(error) => format!("error: {error}\n"),
        }
    }

    /// The transcript of these lines.
    pub(crate) fn transcript(&self, lines: &[&str]) -> String {
        let mut out = String::new();
        for line in lines {
            write!(out, "> {line}\n{}", self.say(line)).unwrap();
        }
        out
    }
}
