//! EPIC's maps, of an EPIC node or of a client node.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use epic_abi::{Ip, Lb};
use epic_lb::render::{ClientSide, NodeSide};
use epic_lb::{EpicLayout, Here, MapKey, MapValue, Snapshot};

use super::{Entries, MapSide, Wanted, rendered};

/// Which rows become entries, and how.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Side {
    /// An EPIC node.
    Node {
        /// Its name.
        name: Arc<str>,
        /// Seed of its Maglev tables.
        seed: u32,
    },
    /// A client node.
    Client,
}

impl MapSide for Side {
    type Layout = EpicLayout;
    const HOLDER: &'static str = "LoadBalancer";

    fn here(&self) -> Here<'_> {
        match self {
            Side::Node { name, .. } => Here { node: Some(name), ..Here::default() },
            Side::Client => Here::default(),
        }
    }

    fn wanted(&self, tables: &Snapshot, _: &BTreeMap<MapKey, MapValue>) -> Wanted<EpicLayout> {
        match self {
            Side::Node { name, seed } => rendered(NodeSide::new(name.as_ref(), *seed), tables),
            Side::Client => rendered(ClientSide, tables),
        }
    }

    fn dump(entries: Entries<EpicLayout>) -> String {
        epic_lb::maps::dump(entries)
    }

    fn of_vip(entries: Entries<EpicLayout>, address: IpAddr, port: Option<u16>) -> Entries<EpicLayout> {
        of_vip(entries, address, port)
    }
}

/// What packets to this address meet on their way to a proxy and on to an endpoint, and what the answers meet.
fn of_vip(entries: Entries<EpicLayout>, address: IpAddr, port: Option<u16>) -> Entries<EpicLayout> {
    let vip: Ip = address.into();
    let is_public =
        |key: &epic_abi::maps::ServiceKey| key.address == vip && port.is_none_or(|port| { key.port } == port);
    let (mut lbs, mut tunnels) = (BTreeSet::new(), BTreeSet::new());
    for (key, value) in &entries {
        if let (MapKey::Service(key), MapValue::Service(service)) = (key, value)
            && is_public(key)
        {
            lbs.insert(service.lb);
        }
    }
    for (key, value) in &entries {
        if let (MapKey::Tunnel(id), MapValue::Tunnel(tunnel)) = (key, value)
            && lbs.contains(&tunnel.lb)
        {
            tunnels.insert(*id);
        }
    }
    let concerned = |(key, value): &(MapKey, MapValue)| match (key, value) {
        (MapKey::Service(key), _) => is_public(key),
        (MapKey::Vip(address), _) => *address == vip,
        (_, MapValue::Listener(listener)) => {
            listener.address == vip && port.is_none_or(|port| { listener.port } == port)
        }
        (MapKey::TunnelStats(id), _) => tunnels.contains(id),
        (MapKey::EndpointAlias(key), _) => tunnels.contains(&{ key.tunnel }),
        (key, value) => lb_of(key, value).is_some_and(|lb| lbs.contains(&lb)),
    };
    entries.into_iter().filter(concerned).collect()
}

/// The LoadBalancer that an entry is of.
fn lb_of(key: &MapKey, value: &MapValue) -> Option<Lb> {
    match (key, value) {
        (MapKey::Keys(lb) | MapKey::Maglev(lb), _) => Some(*lb),
        (MapKey::Alias(key), _) => Some(key.lb),
        (MapKey::Pass(key), _) => Some(key.lb),
        (MapKey::Endpoint(key), _) => Some(key.lb),
        (_, MapValue::Tunnel(value)) => Some(value.lb),
        (_, MapValue::Proxy(value)) => Some(value.lb),
        (_, MapValue::LocalProxy(value)) => Some(value.lb),
        (_, MapValue::Route(value)) => Some(value.lb),
        _ => None,
    }
}
