//! EPIC's maps: one entry of one map, and what it points to.
//!
//! The order of [`MapId`] is the order in which entries are written (removal goes the other way), as the layout demands:
//! `epic_abi::maps`. [`MapKey::targets`] is the same rule entry by entry, which also holds when writes fail.

use std::num::NonZeroU64;
use std::sync::Arc;

use epic_abi::maps::{
    Alias, AliasKey, Endpoint, EndpointAliasKey, EndpointKey, LbKeys, Listener, ListenerKey, LocalProxy,
    Node, Pass, PassKey, Proxy, Route, Service, ServiceKey, Tunnel, Vip,
};
use epic_abi::{Ip, Lb};
use epic_reconciler::Layout;

use crate::maglev::MaglevTable;

/// The maps, in the order in which they are written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MapId {
    /// `tunnel_stats`, both sides.
    TunnelStats,
    /// `nodes`, both sides.
    Nodes,
    /// `tunnels`, both sides.
    Tunnels,
    /// `keys`, both sides.
    Keys,
    /// `endp_aliases`, EPIC node.
    EndpointAliases,
    /// `proxies`, EPIC node.
    Proxies,
    /// `local_proxies`, EPIC node.
    LocalProxies,
    /// `aliases`, EPIC node.
    Aliases,
    /// `passes`, EPIC node.
    Passes,
    /// `maglev`, EPIC node.
    Maglev,
    /// `listeners`, EPIC node.
    Listeners,
    /// `services`, EPIC node.
    Services,
    /// `vips`, EPIC node.
    Vips,
    /// `routes`, client node.
    Routes,
    /// `endpoints`, client node.
    Endpoints,
}

impl MapId {
    /// Every map that the reconciler owns.
    pub const ALL: [MapId; 15] = [
        MapId::TunnelStats,
        MapId::Nodes,
        MapId::Tunnels,
        MapId::Keys,
        MapId::EndpointAliases,
        MapId::Proxies,
        MapId::LocalProxies,
        MapId::Aliases,
        MapId::Passes,
        MapId::Maglev,
        MapId::Listeners,
        MapId::Services,
        MapId::Vips,
        MapId::Routes,
        MapId::Endpoints,
    ];

    const NAMES: [&'static str; Self::ALL.len()] = {
        let mut names = [""; Self::ALL.len()];
        let mut at = 0;
        while at < names.len() {
            names[at] = Self::ALL[at].name();
            at += 1;
        }
        names
    };

    /// The map of this place in [`MapId::ALL`].
    pub fn at(place: usize) -> Option<MapId> {
        Self::ALL.get(place).copied()
    }

    /// Name of the map in the object and of its pin.
    pub const fn name(self) -> &'static str {
        use epic_abi::maps;
        match self {
            MapId::TunnelStats => maps::TUNNEL_STATS.name,
            MapId::Nodes => maps::NODES.name,
            MapId::Tunnels => maps::TUNNELS.name,
            MapId::Keys => maps::KEYS.name,
            MapId::EndpointAliases => maps::ENDPOINT_ALIASES.name,
            MapId::Proxies => maps::PROXIES.name,
            MapId::LocalProxies => maps::LOCAL_PROXIES.name,
            MapId::Aliases => maps::ALIASES.name,
            MapId::Passes => maps::PASSES.name,
            MapId::Maglev => maps::MAGLEV.name,
            MapId::Listeners => maps::LISTENERS.name,
            MapId::Services => maps::SERVICES.name,
            MapId::Vips => maps::VIPS.name,
            MapId::Routes => maps::ROUTES.name,
            MapId::Endpoints => maps::ENDPOINTS.name,
        }
    }
}

/// Key of an entry. Ordered by map first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum MapKey {
    /// Counters of a tunnel, by tunnel id.
    TunnelStats(u32),
    /// GUE address of an EPIC node.
    Node(Ip),
    /// Tunnel, by tunnel id.
    Tunnel(u32),
    /// Keys of a LoadBalancer.
    Keys(Lb),
    /// Endpoint as a tunnel shows it.
    EndpointAlias(EndpointAliasKey),
    /// Proxy, by proxy id.
    Proxy(u32),
    /// Proxy on this node, by ifindex of the host side of its veth.
    LocalProxy(u32),
    /// Alias.
    Alias(AliasKey),
    /// Destination without a tunnel.
    Pass(PassKey),
    /// Maglev table of a LoadBalancer.
    Maglev(Lb),
    /// Listener port of a LoadBalancer.
    Listener(ListenerKey),
    /// Public port.
    Service(ServiceKey),
    /// Public address.
    Vip(Ip),
    /// Proxy address, on a client.
    Route(Ip),
    /// Endpoint, on a client.
    Endpoint(EndpointKey),
}

impl MapKey {
    /// The map this entry is in.
    pub const fn map(&self) -> MapId {
        match self {
            MapKey::TunnelStats(_) => MapId::TunnelStats,
            MapKey::Node(_) => MapId::Nodes,
            MapKey::Tunnel(_) => MapId::Tunnels,
            MapKey::Keys(_) => MapId::Keys,
            MapKey::EndpointAlias(_) => MapId::EndpointAliases,
            MapKey::Proxy(_) => MapId::Proxies,
            MapKey::LocalProxy(_) => MapId::LocalProxies,
            MapKey::Alias(_) => MapId::Aliases,
            MapKey::Pass(_) => MapId::Passes,
            MapKey::Maglev(_) => MapId::Maglev,
            MapKey::Listener(_) => MapId::Listeners,
            MapKey::Service(_) => MapId::Services,
            MapKey::Vip(_) => MapId::Vips,
            MapKey::Route(_) => MapId::Routes,
            MapKey::Endpoint(_) => MapId::Endpoints,
        }
    }

    /// Entries that a program follows from this one, each with the LoadBalancer that it must be of (0: of any): they must
    /// be there as long as this one is.
    pub fn targets(&self, value: &MapValue, each: &mut dyn FnMut(MapKey, u32)) {
        match (self, value) {
            (MapKey::Tunnel(id), _) => each(MapKey::TunnelStats(*id), ANY),
            (MapKey::EndpointAlias(key), _) => each(MapKey::Tunnel(key.tunnel), ANY),
            // Legs between nodes are sealed with the node key of the proxy's LoadBalancer.
            (_, MapValue::Proxy(proxy)) => each(MapKey::Keys(proxy.lb), ANY),
            (_, MapValue::LocalProxy(local)) => each(MapKey::Proxy(local.proxy), word(local.lb)),
            (MapKey::Alias(key), MapValue::Alias(alias)) => {
                let back = EndpointAliasKey {
                    tunnel: alias.tunnel,
                    address: alias.address,
                    port: alias.port,
                    protocol: alias.protocol,
                    _reserved: 0,
                };
                each(MapKey::Tunnel(alias.tunnel), word(key.lb));
                each(MapKey::EndpointAlias(back), ANY);
            }
            (MapKey::Maglev(lb), MapValue::Maglev(table)) => {
                table.members().iter().for_each(|id| each(MapKey::Proxy(*id), word(*lb)));
            }
            (MapKey::Service(key), MapValue::Service(service)) => {
                let listener = ListenerKey {
                    lb: service.lb,
                    port: service.listener_port,
                    protocol: key.protocol,
                    family: family(&key.address),
                };
                each(MapKey::Listener(listener), ANY);
            }
            (_, MapValue::Route(route)) => each(MapKey::Tunnel(route.tunnel), word(route.lb)),
            _ => {}
        }
    }
}

/// A target that may be of any LoadBalancer.
const ANY: u32 = 0;

/// A LoadBalancer as one number, which is never [`ANY`]: groups and services begin with 1.
fn word(lb: Lb) -> u32 {
    u32::from(lb.group) << 16 | u32::from(lb.service)
}

/// The maps of EPIC's programs, as the reconciler sees them.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct EpicLayout;

impl Layout for EpicLayout {
    type Key = MapKey;
    type Value = MapValue;
    const MAPS: &'static [&'static str] = &MapId::NAMES;

    fn map(key: &MapKey) -> usize {
        key.map() as usize
    }

    fn digest(_: &MapKey, value: &MapValue) -> NonZeroU64 {
        match value {
            MapValue::Maglev(table) => table.digest(),
            value => epic_reconciler::digest_of(value),
        }
    }

    fn targets(key: &MapKey, value: &MapValue, each: &mut dyn FnMut(MapKey, u32)) {
        key.targets(value, each);
    }

    fn identity(_: &MapKey, value: &MapValue) -> u32 {
        match value {
            MapValue::Proxy(proxy) => word(proxy.lb),
            MapValue::Tunnel(tunnel) => word(tunnel.lb),
            _ => ANY,
        }
    }
}

/// Family of an address as map keys have it.
pub(crate) fn family(address: &Ip) -> u8 {
    if address.is_v4() { epic_abi::maps::FAMILY_V4 } else { epic_abi::maps::FAMILY_V6 }
}

/// Value of an entry.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum MapValue {
    /// Counters exist; what they count is the programs' affair.
    TunnelStats,
    /// EPIC node.
    Node(Node),
    /// Tunnel.
    Tunnel(Tunnel),
    /// Keys.
    Keys(LbKeys),
    /// Alias of an endpoint.
    EndpointAlias(Ip),
    /// Proxy.
    Proxy(Proxy),
    /// Proxy on this node.
    LocalProxy(LocalProxy),
    /// Endpoint behind an alias.
    Alias(Alias),
    /// May be reached.
    Pass(Pass),
    /// Proxy ids, one a cell; as many as the map's arrays are long.
    Maglev(Arc<MaglevTable>),
    /// Public side of a listener.
    Listener(Listener),
    /// Public port.
    Service(Service),
    /// Public address.
    Vip(Vip),
    /// Way to a proxy.
    Route(Route),
    /// May be delivered to.
    Endpoint(Endpoint),
}
