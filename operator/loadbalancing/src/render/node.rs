//! Maps of an EPIC node: from a VIP to a proxy, from a proxy to an endpoint, and back.

use std::collections::HashMap;
use std::sync::Arc;

use epic_abi::maps::{self, MAGLEV_SLOTS, PROXY_DRAINING, VIP_OWNED};
use epic_abi::{Ip, Lb};

use super::{Entries, Render, Unready, keys_of, lb_of, service_of, tunnel_entries, tunnel_of};
use crate::maglev::{self, Member};
use crate::maps::{MapKey, MapValue, entry_family};
use crate::rows::{Alias, Frontend, Pass, Proxy, ProxyState, ServiceName, Veth};
use crate::store::Snapshot;
use crate::writer::RowKey;

/// Renders for an EPIC node.
#[derive(Clone, Debug)]
pub struct NodeSide {
    node: Arc<str>,
    seed: u32,
    /// The last table of each LoadBalancer that is there, with the members it was made of.
    tables: HashMap<ServiceName, (Vec<Member>, Arc<[u32]>)>,
}

impl NodeSide {
    /// For the node of this name; `seed` is the one of `Config::maglev_seed`, the same on all nodes.
    pub fn new(node: impl Into<Arc<str>>, seed: u32) -> Self {
        Self { node: node.into(), seed, tables: HashMap::new() }
    }

    fn service(&mut self, snapshot: &Snapshot, name: &ServiceName) -> Result<Entries, Unready> {
        let Some(service) = snapshot.services.get(name) else {
            // Its frontends are gone as well, and gone ones do not come by the cache.
            self.tables.remove(name);
            return Ok(Vec::new());
        };
        Ok(vec![(MapKey::Keys(lb_of(service)), MapValue::Keys(keys_of(service, true)?))])
    }

    fn frontend(&mut self, snapshot: &Snapshot, frontend: &Frontend) -> Result<Entries, Unready> {
        let params = &frontend.params;
        let lb = lb_of(service_of(snapshot, &params.service)?);
        let vip: Ip = params.key.address.into();
        let protocol = params.key.protocol.number();
        let listener =
            maps::ListenerKey { lb, port: params.listener_port, protocol, family: entry_family(&vip) };
        let public = maps::Listener { address: vip, port: params.key.port, flags: 0 };
        let key = maps::ServiceKey { address: vip, port: params.key.port, protocol, _reserved: 0 };
        let service = maps::Service {
            lb,
            listener_port: params.listener_port,
            flags: 0,
            source_ranges: 0,
            affinity_seconds: 0,
        };
        let flags = if params.vip_owner { VIP_OWNED } else { 0 };
        let mut entries = vec![
            (MapKey::Listener(listener), MapValue::Listener(public)),
            (MapKey::Service(key), MapValue::Service(service)),
            (MapKey::Vip(vip), MapValue::Vip(maps::Vip { flags })),
        ];
        if let Some(table) = self.maglev(snapshot, frontend) {
            entries.push((MapKey::Maglev(lb), MapValue::Maglev(table)));
        }
        Ok(entries)
    }

    /// The table of the proxies that take new flows; no entry if there is none, and new flows are dropped.
    fn maglev(&mut self, snapshot: &Snapshot, frontend: &Frontend) -> Option<Arc<[u32]>> {
        let service = &frontend.params.service;
        // One that cannot be reached yet (or any more) must not keep the others from taking its place.
        let reachable = |id| {
            let proxy = snapshot.proxies.get(id)?;
            (proxy.service == *service && self.place(snapshot, proxy).is_ok()).then_some(id.get())
        };
        let serving = frontend.serving();
        let mut members: Vec<Member> = serving
            .filter_map(|b| Some(Member { id: reachable(b.proxy.as_ref()?)?, weight: b.weight }))
            .collect();
        members.sort_unstable();
        if members.is_empty() {
            self.tables.remove(service);
            return None;
        }
        if let Some((of, table)) = self.tables.get(service)
            && *of == members
        {
            return Some(Arc::clone(table));
        }
        let table: Arc<[u32]> = maglev::table(&members, MAGLEV_SLOTS, u64::from(self.seed)).into();
        self.tables.insert(service.clone(), (members, Arc::clone(&table)));
        Some(table)
    }

    /// The LoadBalancer of a proxy and where it is: its veth here, or `None` for another node.
    fn place<'a>(&self, snapshot: &Snapshot, proxy: &'a Proxy) -> Result<(Lb, Option<&'a Veth>), Unready> {
        let service = service_of(snapshot, &proxy.service)?;
        keys_of(service, true)?;
        if proxy.local.is_none() && proxy.node == self.node {
            return Err(Unready("its veth was not found yet".to_owned()));
        }
        Ok((lb_of(service), proxy.local.as_ref()))
    }

    fn proxy(&self, snapshot: &Snapshot, proxy: &Proxy) -> Result<Entries, Unready> {
        let (lb, veth) = self.place(snapshot, proxy)?;
        let id = proxy.id.get();
        // A new connection from a port whose earlier flow it had goes to another one, if there is one.
        let is_left = matches!(proxy.state, ProxyState::Draining | ProxyState::OutOfService);
        let flags = if is_left { PROXY_DRAINING } else { 0 };
        let Some(veth) = veth else {
            let value = maps::Proxy { lb, flags, node: proxy.node_address.into(), ..maps::Proxy::default() };
            return Ok(vec![(MapKey::Proxy(id), MapValue::Proxy(value))]);
        };
        let (pod_v4, pod_v6) = by_family(veth.pod_ip.into());
        let (address_v4, address_v6) = by_family(proxy.address.into());
        let value = maps::Proxy { lb, ifindex: veth.ifindex, flags, node: Ip::UNSPECIFIED, pod_v4, pod_v6 };
        let local = maps::LocalProxy { proxy: id, lb, flags: 0, pod_v4, pod_v6, address_v4, address_v6 };
        Ok(vec![
            (MapKey::Proxy(id), MapValue::Proxy(value)),
            (MapKey::LocalProxy(veth.ifindex), MapValue::LocalProxy(local)),
        ])
    }
}

impl Render for NodeSide {
    fn render(&mut self, snapshot: &Snapshot, row: &RowKey) -> Result<Entries, Unready> {
        match row {
            RowKey::Service(name) => self.service(snapshot, name),
            RowKey::Tunnel(id) => match snapshot.tunnels.get(id) {
                Some(tunnel) => tunnel_entries(snapshot, tunnel),
                None => Ok(Vec::new()),
            },
            RowKey::Proxy(id) => match snapshot.proxies.get(id) {
                Some(proxy) => self.proxy(snapshot, proxy),
                None => Ok(Vec::new()),
            },
            RowKey::Alias(key) => match snapshot.aliases.get(key) {
                Some(a) => alias(snapshot, a),
                None => Ok(Vec::new()),
            },
            RowKey::Pass(key) => match snapshot.passes.get(key) {
                Some(p) => pass(snapshot, p),
                None => Ok(Vec::new()),
            },
            RowKey::Node(address) => Ok(match snapshot.nodes.get(address) {
                Some(_) => vec![(MapKey::Node((*address).into()), MapValue::Node(maps::Node { flags: 0 }))],
                None => Vec::new(),
            }),
            RowKey::Frontend(key) => match snapshot.frontends.get(key) {
                Some(frontend) => self.frontend(snapshot, frontend),
                None => Ok(Vec::new()),
            },
        }
    }
}

fn by_family(address: Ip) -> (Ip, Ip) {
    if address.is_v4() { (address, Ip::UNSPECIFIED) } else { (Ip::UNSPECIFIED, address) }
}

fn alias(snapshot: &Snapshot, alias: &Alias) -> Result<Entries, Unready> {
    let lb = lb_of(service_of(snapshot, &alias.key.service)?);
    let tunnel = alias.tunnel.ok_or_else(|| Unready("it has no tunnel yet".to_owned()))?;
    let tunnel = tunnel_of(snapshot, tunnel, &alias.key.service)?;
    let address: Ip = alias.key.address.into();
    let real: Ip = alias.real_address.into();
    let protocol = alias.protocol.number();
    let back = maps::EndpointAliasKey { tunnel, address: real, port: alias.port, protocol, _reserved: 0 };
    let value = maps::Alias { tunnel, port: alias.port, protocol, flags: 0, address: real };
    Ok(vec![
        (MapKey::EndpointAlias(back), MapValue::EndpointAlias(address)),
        (MapKey::Alias(maps::AliasKey { lb, address }), MapValue::Alias(value)),
    ])
}

fn pass(snapshot: &Snapshot, pass: &Pass) -> Result<Entries, Unready> {
    let lb = match &pass.key.service {
        Some(name) => lb_of(service_of(snapshot, name)?),
        None => Lb::default(),
    };
    let key = maps::PassKey {
        lb,
        address: pass.key.address.into(),
        port: pass.key.port,
        protocol: pass.key.protocol.number(),
        _reserved: 0,
    };
    Ok(vec![(MapKey::Pass(key), MapValue::Pass(maps::Pass { flags: 0 }))])
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};
    use std::time::Instant;

    use super::*;
    use crate::reconciler::{Backoff, Reconciler};
    use crate::rows::{
        Backend, DataKey, FrontendKey, FrontendParams, Protocol, Service, ServiceKeys, Source,
    };
    use crate::{FakeMaps, GroupId, ProxyId, ServiceId, Tables, Writer};

    /// Renders like a node, and shows how many tables it keeps.
    struct Counted {
        side: NodeSide,
        kept: Arc<AtomicUsize>,
    }

    impl Render for Counted {
        fn render(&mut self, snapshot: &Snapshot, row: &RowKey) -> Result<Entries, Unready> {
            let entries = self.side.render(snapshot, row);
            self.kept.store(self.side.tables.len(), Ordering::Relaxed);
            entries
        }
    }

    #[test]
    fn the_table_of_a_load_balancer_that_went_is_forgotten() {
        let writer = Writer::new(Tables::new());
        let kept = Arc::new(AtomicUsize::new(0));
        let render = Counted { side: NodeSide::new("here", 7), kept: Arc::clone(&kept) };
        let mut reconciler =
            Reconciler::new(writer.clone(), FakeMaps::new(), render, Backoff::default()).unwrap();
        let proxy = ProxyId::new(1).unwrap();
        let keys = [DataKey([1; 16]); 3];
        for n in 1..=100 {
            let name = ServiceName::new("acme", format!("web-{n}"));
            let service =
                Service::new(name.clone(), "uid", GroupId::new(1).unwrap(), ServiceId::new(n).unwrap());
            let vip = FrontendKey::new([192, 0, 2, 7].into(), 80, Protocol::Tcp);
            let mut txn = writer.write();
            txn.upsert_service_and_frontends(
                Service { keys: Some(ServiceKeys { data: keys, node: Some(keys) }), ..service },
                vec![FrontendParams::new(vip, name.clone(), 0)],
            )
            .unwrap();
            txn.upsert_proxy(Proxy {
                id: proxy,
                service: name.clone(),
                address: [100, 64, 0, 1].into(),
                pod: "proxy".into(),
                pod_uid: "uid".into(),
                node: "there".into(),
                node_address: [198, 51, 100, 2].into(),
                state: ProxyState::Ready,
                local: None,
            });
            txn.set_backends(
                &name,
                Source::Resource,
                [Backend::proxy(name.clone(), [100, 64, 0, 1].into(), proxy)],
            );
            txn.commit();
            reconciler.round(Instant::now());
            assert_eq!(kept.load(Ordering::Relaxed), 1);

            let mut txn = writer.write();
            txn.delete_service_and_frontends(&name);
            txn.set_proxies([]);
            txn.commit();
            reconciler.round(Instant::now());
        }
        assert_eq!(kept.load(Ordering::Relaxed), 0);
    }
}
