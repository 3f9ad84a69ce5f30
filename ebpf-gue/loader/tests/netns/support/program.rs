//! EPIC in the lab: the data plane of every host, and its maps written from a few plain descriptions.

use std::collections::BTreeMap;
use std::net::{Ipv4Addr, SocketAddr, UdpSocket};

use epic_abi::gue::{self, Key};
use epic_abi::maps::{
    Alias, AliasKey, CONFIG_KEY, Config, Endpoint, EndpointAliasKey, EndpointKey, FAMILY_V4, KeySlot, LbKeys,
    Listener, ListenerKey, Local, LocalProxy, MAGLEV_SLOTS, Node, Proxy, REMOTE_NAT, Remote, Route, Service,
    ServiceKey, Side, SourceKey, Tunnel, VIP_OWNED, Vip,
};
use epic_abi::{Ip, IpRange, Lb, PROTOCOL_TCP, drop::DropReason};
use epic_datapath::{Attachment, Datapath, Options, Program};
use epic_testnet::{Bpffs, Netns};

use super::DEADLINE;
use super::lab::{DEVICE, DEVICE_MAC, Host, NIC, Pod, Site};

/// The port of GUE.
pub(crate) const GUE_PORT: u16 = gue::DEFAULT_PORT;
/// The first listener's port in a proxy.
pub(crate) const LISTENER: u16 = 10_000;
/// The port endpoints listen on.
pub(crate) const SERVICE: u16 = 8080;
/// MTU of the link between hosts.
pub(crate) const MTU: u32 = 1500;

/// A proxy of a tenant.
#[derive(Debug, Clone)]
pub(crate) struct ProxyAt {
    /// Its id: the last part of its proxy address.
    pub(crate) id: u32,
    /// The node it runs on.
    pub(crate) node: usize,
    /// Its pod's address.
    pub(crate) pod: Ipv4Addr,
    /// The host's side of its veth.
    pub(crate) ifindex: u32,
}

impl ProxyAt {
    /// The proxy `id` in `pod` on node `node`.
    pub(crate) fn new(id: u32, node: usize, pod: &Pod) -> Self {
        Self { id, node, pod: pod.address, ifindex: pod.ifindex }
    }

    /// Its proxy address.
    pub(crate) fn address(&self) -> Ipv4Addr {
        proxy_address(self.id)
    }
}

/// An endpoint of a tenant.
#[derive(Debug, Clone)]
pub(crate) struct EndpointAt {
    /// Its id: the last part of its alias.
    pub(crate) id: u16,
    /// The client node it runs on.
    pub(crate) client: usize,
    /// Its real address.
    pub(crate) address: Ipv4Addr,
    /// Its port.
    pub(crate) port: u16,
}

impl EndpointAt {
    /// What a proxy dials to reach it.
    pub(crate) fn alias(&self) -> SocketAddr {
        SocketAddr::from((alias_address(self.id), self.port))
    }
}

/// A LoadBalancer with all that belongs to it.
#[derive(Debug, Clone)]
pub(crate) struct Tenant {
    /// Its identity in packets.
    pub(crate) lb: Lb,
    /// Its public address.
    pub(crate) vip: Ipv4Addr,
    /// The node that answers ARP for it.
    pub(crate) owner: usize,
    /// Its proxies.
    pub(crate) proxies: Vec<ProxyAt>,
    /// Its endpoints.
    pub(crate) endpoints: Vec<EndpointAt>,
}

impl Tenant {
    /// Public address and port.
    pub(crate) fn public(&self) -> SocketAddr {
        SocketAddr::from((self.vip, 80))
    }

    /// The key between EPIC and its clients.
    pub(crate) fn data_key(&self) -> Key {
        key(0xDA, self.lb)
    }

    /// The key between EPIC nodes.
    pub(crate) fn node_key(&self) -> Key {
        key(0x0D, self.lb)
    }
}

/// The proxy address of a proxy.
pub(crate) fn proxy_address(id: u32) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 64, 0, 0)) + id)
}

/// The alias of an endpoint.
pub(crate) fn alias_address(id: u16) -> Ipv4Addr {
    Ipv4Addr::from(u32::from(Ipv4Addr::new(100, 127, 0, 0)) + u32::from(id))
}

fn key(kind: u8, lb: Lb) -> Key {
    let mut bytes = [kind; 16];
    bytes[12..14].copy_from_slice(&lb.group.to_be_bytes());
    bytes[14..].copy_from_slice(&lb.service.to_be_bytes());
    Key(bytes)
}

/// The site with the data plane on every node and client.
pub(crate) struct Epic {
    /// The hosts.
    pub(crate) site: Site,
    /// Of the nodes, in their order.
    pub(crate) nodes: Vec<Datapath>,
    /// Of the clients, in their order.
    pub(crate) clients: Vec<Datapath>,
    bpffs: Bpffs,
    tunnels: BTreeMap<(Lb, usize, usize), u32>,
}

impl Epic {
    /// Builds the site, loads and attaches everything that does not depend on tenants, writes `config`.
    pub(crate) fn new() -> Self {
        let site = Site::new();
        let bpffs = Bpffs::new();
        let open =
            |name: String, side| Datapath::open(&options(&bpffs, &name, side)).expect("open the data plane");
        let nodes: Vec<_> = (0..site.nodes.len()).map(|n| open(format!("node{n}"), Side::Node)).collect();
        let clients: Vec<_> =
            (0..site.clients.len()).map(|n| open(format!("client{n}"), Side::Client)).collect();
        let epic = Self { site, nodes, clients, bpffs, tunnels: BTreeMap::new() };
        for (datapath, host) in epic.nodes.iter().zip(&epic.site.nodes) {
            epic.configure_node(datapath, host);
            attach(datapath, &host.netns, Program::Ingress, host.ifindex(NIC));
        }
        for (datapath, host) in epic.clients.iter().zip(&epic.site.clients) {
            configure_client(datapath, host);
            attach(datapath, &host.netns, Program::ClientIngress, host.ifindex(NIC));
            attach(datapath, &host.netns, Program::ClientEgress, host.ifindex(DEVICE));
        }
        epic
    }

    /// Options with which node `n` was opened.
    pub(crate) fn node_options(&self, n: usize) -> Options {
        options(&self.bpffs, &format!("node{n}"), Side::Node)
    }

    fn configure_node(&self, datapath: &Datapath, host: &Host) {
        let maps = datapath.maps();
        let nic = host.ifindex(NIC);
        let config = Config {
            gue_port: GUE_PORT,
            ops_port: 9901,
            public_ifindex: nic,
            underlay_ifindex: nic,
            underlay_mtu: MTU,
            maglev_seed: 7,
            mac: host.mac(NIC),
            proxies_v4: IpRange::new(Ip::from(Ipv4Addr::new(100, 64, 0, 0)), 11),
            aliases_v4: IpRange::new(Ip::from(Ipv4Addr::new(100, 127, 0, 0)), 16),
            underlay: host.address.into(),
            ..Config::default()
        };
        maps.locals.set(&host.address.into(), &Local { ifindex: nic }).expect("write locals");
        for other in self.site.nodes.iter().filter(|other| other.address != host.address) {
            maps.nodes.set(&other.address.into(), &Node::default()).expect("write nodes");
        }
        maps.config.set(&CONFIG_KEY, &config).expect("write config");
    }

    /// Id of the tunnel between a client and a node for a LoadBalancer.
    pub(crate) fn tunnel(&mut self, lb: Lb, client: usize, node: usize) -> u32 {
        let next = self.tunnels.len() as u32 + 1;
        *self.tunnels.entry((lb, client, node)).or_insert(next)
    }

    /// Writes everything that belongs to a tenant, and attaches its proxies' programs.
    pub(crate) fn add(&mut self, tenant: &Tenant) {
        self.add_tunnels(tenant);
        for n in 0..self.nodes.len() {
            self.add_to_node(tenant, n);
        }
        for proxy in &tenant.proxies {
            attach(
                &self.nodes[proxy.node],
                &self.site.nodes[proxy.node].netns,
                Program::FromProxy,
                proxy.ifindex,
            );
        }
        for n in 0..self.clients.len() {
            self.add_to_client(tenant, n);
        }
    }

    fn add_tunnels(&mut self, tenant: &Tenant) {
        for client in 0..self.clients.len() {
            if !tenant.endpoints.iter().any(|endpoint| endpoint.client == client) {
                continue;
            }
            for node in 0..self.nodes.len() {
                let id = self.tunnel(tenant.lb, client, node);
                let (near, far) = (&self.site.nodes[node], &self.site.clients[client]);
                let seen = self.hello(client, node);
                let node_side = (&self.nodes[node], near);
                write_tunnel(node_side, id, tenant, seen, far.address != *seen.ip());
                let port = std::net::SocketAddrV4::new(near.address, GUE_PORT);
                write_tunnel((&self.clients[client], far), id, tenant, port, far.address != *seen.ip());
            }
        }
    }

    /// A client's message to a node, and from which address the node sees it come.
    fn hello(&self, client: usize, node: usize) -> std::net::SocketAddrV4 {
        let message = gue_control();
        let bind = |netns: &Netns| {
            let socket = netns.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, GUE_PORT)));
            let socket = socket.expect("bind the GUE port");
            socket.set_read_timeout(Some(DEADLINE)).expect("set a timeout");
            socket
        };
        let to = bind(&self.site.nodes[node].netns);
        let from = bind(&self.site.clients[client].netns);
        from.send_to(&message, (self.site.nodes[node].address, GUE_PORT)).expect("send a message");
        let mut buffer = [0; 64];
        match to.recv_from(&mut buffer).expect("a control message reaches the agent's socket") {
            (_, SocketAddr::V4(seen)) => seen,
            (_, other) => panic!("a message from {other}"),
        }
    }

    fn add_to_node(&mut self, tenant: &Tenant, n: usize) {
        let lb = tenant.lb;
        let mut aliases = Vec::new();
        for endpoint in &tenant.endpoints {
            aliases.push((endpoint.clone(), self.tunnel(lb, endpoint.client, n)));
        }
        let maps = self.nodes[n].maps();
        let slot = |key| [KeySlot { generation: 1, key }, KeySlot::default(), KeySlot::default()];
        let keys = LbKeys { data: slot(tenant.data_key()), node: slot(tenant.node_key()), node_current: 0 };
        maps.keys.set(&lb, &keys).expect("write keys");
        for (endpoint, tunnel) in aliases {
            let alias = Ip::from(alias_address(endpoint.id));
            let back = EndpointAliasKey {
                tunnel,
                address: endpoint.address.into(),
                port: endpoint.port,
                protocol: PROTOCOL_TCP,
                _reserved: 0,
            };
            maps.endpoint_aliases.set(&back, &alias).expect("write endpoint aliases");
            let value = Alias {
                tunnel,
                port: endpoint.port,
                protocol: PROTOCOL_TCP,
                flags: 0,
                address: endpoint.address.into(),
            };
            maps.aliases.set(&AliasKey { lb, address: alias }, &value).expect("write aliases");
        }
        for proxy in &tenant.proxies {
            let here = proxy.node == n;
            let value = Proxy {
                lb,
                ifindex: if here { proxy.ifindex } else { 0 },
                flags: 0,
                node: if here { Ip::UNSPECIFIED } else { self.site.nodes[proxy.node].address.into() },
                pod_v4: if here { proxy.pod.into() } else { Ip::UNSPECIFIED },
                pod_v6: Ip::UNSPECIFIED,
            };
            maps.proxies.set(&proxy.id, &value).expect("write proxies");
            if here {
                let local = LocalProxy {
                    proxy: proxy.id,
                    lb,
                    pod_v4: proxy.pod.into(),
                    address_v4: proxy.address().into(),
                    ..LocalProxy::default()
                };
                maps.local_proxies.set(&proxy.ifindex, &local).expect("write local proxies");
            }
        }
        self.choose(tenant, n, &tenant.proxies.iter().map(|proxy| proxy.id).collect::<Vec<_>>());
        let (public, inside) = (tenant.public().port(), LISTENER);
        let listener = ListenerKey { lb, port: inside, protocol: PROTOCOL_TCP, family: FAMILY_V4 };
        let vip = Listener { address: tenant.vip.into(), port: public, flags: 0 };
        maps.listeners.set(&listener, &vip).expect("write listeners");
        let service =
            ServiceKey { address: tenant.vip.into(), port: public, protocol: PROTOCOL_TCP, _reserved: 0 };
        let value = Service { lb, listener_port: inside, ..Service::default() };
        maps.services.set(&service, &value).expect("write services");
        let flags = if tenant.owner == n { VIP_OWNED } else { 0 };
        maps.vips.set(&tenant.vip.into(), &Vip { flags }).expect("write vips");
    }

    /// Which proxies take new flows on node `n`: all equally.
    pub(crate) fn choose(&self, tenant: &Tenant, n: usize, proxies: &[u32]) {
        let slots: Vec<u32> = (0..MAGLEV_SLOTS as usize)
            .filter_map(|slot| proxies.get(slot % proxies.len().max(1)).copied())
            .collect();
        self.nodes[n].maps().maglev.set(tenant.lb, &slots).expect("write the Maglev table");
    }

    fn add_to_client(&mut self, tenant: &Tenant, n: usize) {
        let lb = tenant.lb;
        if !tenant.endpoints.iter().any(|endpoint| endpoint.client == n) {
            return;
        }
        let mut routes = Vec::new();
        for proxy in &tenant.proxies {
            routes.push((proxy.address(), self.tunnel(lb, n, proxy.node)));
        }
        let maps = self.clients[n].maps();
        for node in &self.site.nodes {
            maps.nodes.set(&node.address.into(), &Node::default()).expect("write nodes");
        }
        let data =
            [KeySlot { generation: 1, key: tenant.data_key() }, KeySlot::default(), KeySlot::default()];
        maps.keys.set(&lb, &LbKeys { data, ..LbKeys::default() }).expect("write keys");
        for (address, tunnel) in routes {
            maps.routes.set(&address.into(), &Route { tunnel, lb }).expect("write routes");
        }
        for endpoint in tenant.endpoints.iter().filter(|endpoint| endpoint.client == n) {
            let key = EndpointKey {
                lb,
                address: endpoint.address.into(),
                port: endpoint.port,
                protocol: PROTOCOL_TCP,
                _reserved: 0,
            };
            maps.endpoints.set(&key, &Endpoint::default()).expect("write endpoints");
        }
    }
}

fn options(bpffs: &Bpffs, name: &str, side: Side) -> Options {
    let mut options = Options::new(bpffs.path(name), side);
    // These are preallocated; a dozen labs at once need not have them large.
    options.max_entries = [("flows", 8_192), ("learned_proxies", 64)].map(|(k, v)| (k.to_owned(), v)).into();
    options
}

/// Attaches a program; interfaces are those of the host's namespace.
pub(crate) fn attach(datapath: &Datapath, netns: &Netns, program: Program, ifindex: u32) {
    netns.run(|| datapath.attach(Attachment { program, ifindex })).expect("attach a program");
}

fn configure_client(datapath: &Datapath, host: &Host) {
    let maps = datapath.maps();
    let config = Config {
        gue_port: GUE_PORT,
        device_ifindex: host.ifindex(DEVICE),
        learned_seconds: 30,
        mac: DEVICE_MAC,
        proxies_v4: IpRange::new(Ip::from(Ipv4Addr::new(100, 64, 0, 0)), 11),
        ..Config::default()
    };
    maps.locals.set(&host.address.into(), &Local { ifindex: host.ifindex(NIC) }).expect("write locals");
    maps.config.set(&CONFIG_KEY, &config).expect("write config");
}

fn write_tunnel(
    (datapath, host): (&Datapath, &Host),
    id: u32,
    tenant: &Tenant,
    far: std::net::SocketAddrV4,
    fixed: bool,
) {
    let maps = datapath.maps();
    let lb = tenant.lb;
    let tunnel = Tunnel {
        lb,
        flags: 0,
        ifindex: host.ifindex(NIC),
        mtu: MTU,
        generation: 1,
        key: tenant.data_key(),
        local: host.address.into(),
    };
    let address = Ip::from(*far.ip());
    let remote =
        Remote { address, port: far.port(), flags: if fixed { REMOTE_NAT } else { 0 }, ..Remote::default() };
    let source = SourceKey { address, port: if fixed { far.port() } else { 0 }, _reserved: 0, lb };
    maps.tunnel_stats.ensure(&id).expect("write tunnel counters");
    maps.tunnels.set(&id, &tunnel).expect("write tunnels");
    maps.sources.set(&source, &id).expect("write sources");
    maps.remotes.set(&id, &remote).expect("write remotes");
}

/// A control message without content.
fn gue_control() -> Vec<u8> {
    vec![gue::CONTROL_BYTE, gue::CONTROL_TYPE_HELLO, 0, 0]
}

/// Packets dropped for a reason.
pub(crate) fn drops(datapath: &Datapath, reason: DropReason) -> u64 {
    datapath.maps().drop_counts().expect("read drops")[&reason]
}

/// All reasons that have counted anything; for messages of failed tests.
pub(crate) fn all_drops(datapath: &Datapath) -> Vec<(&'static str, u64)> {
    let counts = datapath.maps().drop_counts().expect("read drops");
    counts
        .into_iter()
        .filter(|(_, count)| *count != 0)
        .map(|(reason, count)| (reason.name(), count))
        .collect()
}
