//! The BPF form of [`epic_lb::maps::Maps`]: what the reconciler writes, in the kernel.
//!
//! Entries are written one by one. Batches would not be faster (about a microsecond an entry either way, the system
//! call included) and would give up the order in which the reconciler writes. Whole maps are read in batches.
//!
//! A tunnel that goes, or becomes another LoadBalancer's, takes its learned remote and source with it, or a later tunnel of the same id would send to a
//! stranger. Nothing else that programs or the hello handler write is touched.

use std::collections::BTreeMap;
use std::sync::Arc;

use aya::Pod;
use epic_abi::maps::Side;
use epic_lb::maglev::MaglevTable;
use epic_lb::maps::{EpicLayout, MapError, MapId, MapKey, MapValue, Op};

use crate::error::Error;
use crate::maps::Maps;
use crate::table::Table;

/// The maps of this host, as the reconciler sees them.
#[derive(Debug, Clone)]
pub struct BpfMaps {
    maps: Arc<Maps>,
}

/// How full a map is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Usage {
    /// Entries it has.
    pub entries: usize,
    /// Entries it may have: what the pinned map was made for.
    pub capacity: u32,
}

impl BpfMaps {
    /// Writes to these maps.
    pub fn new(maps: Arc<Maps>) -> Self {
        Self { maps }
    }

    /// How full each map is, without looking into Maglev tables: those of every LoadBalancer are maps of their own. Maps of
    /// the other side are left out.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn usage(&self) -> Result<BTreeMap<MapId, Usage>, Error> {
        let m = &self.maps;
        macro_rules! usage {
            ($($map:ident: $table:ident,)+) => {
                [$((MapId::$map, Usage { entries: m.$table.count()?, capacity: m.$table.capacity() }),)+]
            };
        }
        let mut usage = BTreeMap::from(usage! {
            TunnelStats: tunnel_stats,
            Nodes: nodes,
            Tunnels: tunnels,
            Keys: keys,
        });
        if m.side() == Side::Client {
            usage.extend(usage! { Routes: routes, Endpoints: endpoints, });
            return Ok(usage);
        }
        usage.extend(usage! {
            EndpointAliases: endpoint_aliases,
            Proxies: proxies,
            LocalProxies: local_proxies,
            Aliases: aliases,
            Passes: passes,
            Maglev: maglev,
            Listeners: listeners,
            Services: services,
            Vips: vips,
        });
        Ok(usage)
    }

    fn read_one(&self, map: MapId, each: &mut dyn FnMut(MapKey, MapValue)) -> Result<(), Error> {
        let m = &self.maps;
        let client = m.side() == Side::Client;
        match map {
            MapId::TunnelStats => {
                for id in m.tunnel_stats.entries()?.into_keys() {
                    each(MapKey::TunnelStats(id), MapValue::TunnelStats);
                }
                Ok(())
            }
            MapId::Nodes => collect(each, &m.nodes, MapKey::Node, MapValue::Node),
            MapId::Tunnels => collect(each, &m.tunnels, MapKey::Tunnel, MapValue::Tunnel),
            MapId::Keys => collect(each, &m.keys, MapKey::Keys, MapValue::Keys),
            MapId::Routes if client => collect(each, &m.routes, MapKey::Route, MapValue::Route),
            MapId::Endpoints if client => collect(each, &m.endpoints, MapKey::Endpoint, MapValue::Endpoint),
            // Maps of the other side.
            MapId::Routes | MapId::Endpoints => Ok(()),
            _ if client => Ok(()),
            MapId::EndpointAliases => {
                collect(each, &m.endpoint_aliases, MapKey::EndpointAlias, MapValue::EndpointAlias)
            }
            MapId::Proxies => collect(each, &m.proxies, MapKey::Proxy, MapValue::Proxy),
            MapId::LocalProxies => collect(each, &m.local_proxies, MapKey::LocalProxy, MapValue::LocalProxy),
            MapId::Aliases => collect(each, &m.aliases, MapKey::Alias, MapValue::Alias),
            MapId::Passes => collect(each, &m.passes, MapKey::Pass, MapValue::Pass),
            MapId::Listeners => collect(each, &m.listeners, MapKey::Listener, MapValue::Listener),
            MapId::Services => collect(each, &m.services, MapKey::Service, MapValue::Service),
            MapId::Vips => collect(each, &m.vips, MapKey::Vip, MapValue::Vip),
            MapId::Maglev => {
                for (lb, slots) in m.maglev.entries()? {
                    // A table that nobody knows is shown as empty, which is never what is wanted: it is written again.
                    let table = MaglevTable::new(slots.unwrap_or_default());
                    each(MapKey::Maglev(lb), MapValue::Maglev(table.into()));
                }
                Ok(())
            }
        }
    }

    fn write(&self, key: &MapKey, value: &MapValue) -> Result<(), Error> {
        let m = &self.maps;
        match (key, value) {
            (MapKey::TunnelStats(id), MapValue::TunnelStats) => m.tunnel_stats.ensure(id),
            (MapKey::Node(key), MapValue::Node(value)) => m.nodes.set(key, value),
            (MapKey::Tunnel(key), MapValue::Tunnel(value)) => {
                // An id that changes hands takes no far end along.
                if m.tunnels.get(key)?.is_some_and(|held| held.lb != value.lb) {
                    self.forget_remote(*key)?;
                }
                m.tunnels.set(key, value)
            }
            (MapKey::Keys(key), MapValue::Keys(value)) => m.keys.set(key, value),
            (MapKey::EndpointAlias(key), MapValue::EndpointAlias(value)) => {
                m.endpoint_aliases.set(key, value)
            }
            (MapKey::Proxy(key), MapValue::Proxy(value)) => m.proxies.set(key, value),
            (MapKey::LocalProxy(key), MapValue::LocalProxy(value)) => m.local_proxies.set(key, value),
            (MapKey::Alias(key), MapValue::Alias(value)) => m.aliases.set(key, value),
            (MapKey::Pass(key), MapValue::Pass(value)) => m.passes.set(key, value),
            (MapKey::Maglev(lb), MapValue::Maglev(table)) => m.maglev.set(*lb, table.cells()),
            (MapKey::Listener(key), MapValue::Listener(value)) => m.listeners.set(key, value),
            (MapKey::Service(key), MapValue::Service(value)) => m.services.set(key, value),
            (MapKey::Vip(key), MapValue::Vip(value)) => m.vips.set(key, value),
            (MapKey::Route(key), MapValue::Route(value)) => m.routes.set(key, value),
            (MapKey::Endpoint(key), MapValue::Endpoint(value)) => m.endpoints.set(key, value),
            (key, _) => Err(Error::refused(format!("write to the map {}", key.map().name()))(
                std::io::ErrorKind::InvalidInput.into(),
            )),
        }
    }

    fn remove(&self, key: &MapKey) -> Result<(), Error> {
        let m = &self.maps;
        let _was_there = match key {
            MapKey::TunnelStats(id) => m.tunnel_stats.remove(id)?,
            MapKey::Node(key) => m.nodes.remove(key)?,
            MapKey::Tunnel(id) => {
                self.forget_remote(*id)?;
                m.tunnels.remove(id)?
            }
            MapKey::Keys(key) => m.keys.remove(key)?,
            MapKey::EndpointAlias(key) => m.endpoint_aliases.remove(key)?,
            MapKey::Proxy(key) => m.proxies.remove(key)?,
            MapKey::LocalProxy(key) => m.local_proxies.remove(key)?,
            MapKey::Alias(key) => m.aliases.remove(key)?,
            MapKey::Pass(key) => m.passes.remove(key)?,
            MapKey::Maglev(lb) => m.maglev.remove(*lb)?,
            MapKey::Listener(key) => m.listeners.remove(key)?,
            MapKey::Service(key) => m.services.remove(key)?,
            MapKey::Vip(key) => m.vips.remove(key)?,
            MapKey::Route(key) => m.routes.remove(key)?,
            MapKey::Endpoint(key) => m.endpoints.remove(key)?,
        };
        Ok(())
    }

    fn forget_remote(&self, tunnel: u32) -> Result<(), Error> {
        let m = &self.maps;
        let Some(remote) = m.remotes.get(&tunnel)? else { return Ok(()) };
        if let Some(held) = m.tunnels.get(&tunnel)? {
            let key = remote.source(held.lb);
            if m.sources.get(&key)? == Some(tunnel) {
                m.sources.remove(&key)?;
            }
        }
        m.remotes.remove(&tunnel)?;
        Ok(())
    }
}

impl epic_lb::maps::Maps<EpicLayout> for BpfMaps {
    fn read(&self, map: usize, each: &mut dyn FnMut(MapKey, MapValue)) -> Result<(), MapError> {
        MapId::at(map).map_or(Ok(()), |map| self.read_one(map, each).map_err(map_error))
    }

    fn apply(
        &mut self,
        _: usize,
        batch: &[Op<EpicLayout>],
        done: &mut dyn FnMut(usize, Result<(), MapError>),
    ) {
        for (at, op) in batch.iter().enumerate() {
            let result = match &op.value {
                Some(value) => self.write(&op.key, value),
                None => self.remove(&op.key),
            };
            done(at, result.map_err(map_error));
        }
    }
}

fn collect<K: Pod + Ord, V: Pod>(
    each: &mut dyn FnMut(MapKey, MapValue),
    table: &Table<K, V>,
    key: fn(K) -> MapKey,
    value: fn(V) -> MapValue,
) -> Result<(), Error> {
    table.entries()?.into_iter().for_each(|(k, v)| each(key(k), value(v)));
    Ok(())
}

fn map_error(error: Error) -> MapError {
    match &error {
        Error::Refused { source, .. } if source.raw_os_error() == Some(libc::E2BIG) => MapError::Full,
        _ => MapError::Failed(error.to_string()),
    }
}
