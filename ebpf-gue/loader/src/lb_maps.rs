//! The BPF form of [`LbMaps`]: what the reconciler writes, in the kernel.
//!
//! Entries are written one by one. Batches would not be faster (about a microsecond an entry either way, the system
//! call included) and would give up the order in which the reconciler writes. Whole maps are read in batches.
//!
//! A tunnel that goes takes its learned remote and source with it, or a later tunnel of the same id would send to a
//! stranger. Nothing else that programs or the hello handler write is touched.

use std::collections::BTreeMap;
use std::sync::Arc;

use aya::Pod;
use epic_abi::maps::{REMOTE_FIXED_PORTS, Side, SourceKey};
use epic_lb::maps::{LbMaps, MapError, MapId, MapKey, MapValue};

use crate::error::Error;
use crate::maps::Maps;
use crate::table::Table;

/// The maps of this host, as the reconciler sees them.
#[derive(Debug, Clone)]
pub struct BpfMaps {
    maps: Arc<Maps>,
}

impl BpfMaps {
    /// Writes to these maps.
    pub fn new(maps: Arc<Maps>) -> Self {
        Self { maps }
    }

    /// How many entries each map has, without looking into Maglev tables: those of every LoadBalancer are maps of their
    /// own. Maps of the other side are left out.
    ///
    /// # Errors
    /// The kernel refused.
    pub fn counts(&self) -> Result<BTreeMap<MapId, usize>, Error> {
        let m = &self.maps;
        let mut counts = BTreeMap::from([
            (MapId::TunnelStats, m.tunnel_stats.count()?),
            (MapId::Nodes, m.nodes.count()?),
            (MapId::Tunnels, m.tunnels.count()?),
            (MapId::Keys, m.keys.count()?),
        ]);
        if m.side() == Side::Client {
            counts.extend([(MapId::Routes, m.routes.count()?), (MapId::Endpoints, m.endpoints.count()?)]);
            return Ok(counts);
        }
        counts.extend([
            (MapId::EndpointAliases, m.endpoint_aliases.count()?),
            (MapId::Proxies, m.proxies.count()?),
            (MapId::LocalProxies, m.local_proxies.count()?),
            (MapId::Aliases, m.aliases.count()?),
            (MapId::Passes, m.passes.count()?),
            (MapId::Maglev, m.maglev.count()?),
            (MapId::Listeners, m.listeners.count()?),
            (MapId::Services, m.services.count()?),
            (MapId::Vips, m.vips.count()?),
        ]);
        Ok(counts)
    }

    fn read_all(&self) -> Result<Vec<(MapKey, MapValue)>, Error> {
        let m = &self.maps;
        let mut all: Vec<(MapKey, MapValue)> = Vec::new();
        all.extend(
            m.tunnel_stats.entries()?.into_keys().map(|id| (MapKey::TunnelStats(id), MapValue::TunnelStats)),
        );
        collect(&mut all, &m.nodes, MapKey::Node, MapValue::Node)?;
        collect(&mut all, &m.tunnels, MapKey::Tunnel, MapValue::Tunnel)?;
        collect(&mut all, &m.keys, MapKey::Keys, MapValue::Keys)?;
        if m.side() == Side::Client {
            collect(&mut all, &m.routes, MapKey::Route, MapValue::Route)?;
            collect(&mut all, &m.endpoints, MapKey::Endpoint, MapValue::Endpoint)?;
            return Ok(all);
        }
        collect(&mut all, &m.endpoint_aliases, MapKey::EndpointAlias, MapValue::EndpointAlias)?;
        collect(&mut all, &m.proxies, MapKey::Proxy, MapValue::Proxy)?;
        collect(&mut all, &m.local_proxies, MapKey::LocalProxy, MapValue::LocalProxy)?;
        collect(&mut all, &m.aliases, MapKey::Alias, MapValue::Alias)?;
        collect(&mut all, &m.passes, MapKey::Pass, MapValue::Pass)?;
        collect(&mut all, &m.listeners, MapKey::Listener, MapValue::Listener)?;
        collect(&mut all, &m.services, MapKey::Service, MapValue::Service)?;
        collect(&mut all, &m.vips, MapKey::Vip, MapValue::Vip)?;
        for (lb, slots) in m.maglev.entries()? {
            // A table that nobody knows is shown as empty, which is never what is wanted: it is written again.
            all.push((MapKey::Maglev(lb), MapValue::Maglev(slots.unwrap_or_default().into())));
        }
        Ok(all)
    }

    fn write(&self, key: &MapKey, value: &MapValue) -> Result<(), Error> {
        let m = &self.maps;
        match (key, value) {
            (MapKey::TunnelStats(id), MapValue::TunnelStats) => m.tunnel_stats.ensure(id),
            (MapKey::Node(key), MapValue::Node(value)) => m.nodes.set(key, value),
            (MapKey::Tunnel(key), MapValue::Tunnel(value)) => m.tunnels.set(key, value),
            (MapKey::Keys(key), MapValue::Keys(value)) => m.keys.set(key, value),
            (MapKey::EndpointAlias(key), MapValue::EndpointAlias(value)) => {
                m.endpoint_aliases.set(key, value)
            }
            (MapKey::Proxy(key), MapValue::Proxy(value)) => m.proxies.set(key, value),
            (MapKey::LocalProxy(key), MapValue::LocalProxy(value)) => m.local_proxies.set(key, value),
            (MapKey::Alias(key), MapValue::Alias(value)) => m.aliases.set(key, value),
            (MapKey::Pass(key), MapValue::Pass(value)) => m.passes.set(key, value),
            (MapKey::Maglev(lb), MapValue::Maglev(slots)) => m.maglev.set(*lb, slots),
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
            let port = if remote.flags & REMOTE_FIXED_PORTS == 0 { 0 } else { remote.port };
            let key = SourceKey { address: remote.address, port, _reserved: 0, lb: held.lb };
            if m.sources.get(&key)? == Some(tunnel) {
                m.sources.remove(&key)?;
            }
        }
        m.remotes.remove(&tunnel)?;
        Ok(())
    }
}

impl LbMaps for BpfMaps {
    fn entries(&self) -> Result<Vec<(MapKey, MapValue)>, MapError> {
        self.read_all().map_err(map_error)
    }

    fn update(&mut self, key: &MapKey, value: &MapValue) -> Result<(), MapError> {
        self.write(key, value).map_err(map_error)
    }

    fn delete(&mut self, key: &MapKey) -> Result<(), MapError> {
        self.remove(key).map_err(map_error)
    }
}

fn collect<K: Pod + Ord, V: Pod>(
    all: &mut Vec<(MapKey, MapValue)>,
    table: &Table<K, V>,
    key: fn(K) -> MapKey,
    value: fn(V) -> MapValue,
) -> Result<(), Error> {
    all.extend(table.entries()?.into_iter().map(|(k, v)| (key(k), value(v))));
    Ok(())
}

fn map_error(error: Error) -> MapError {
    match &error {
        Error::Refused { source, .. } if source.raw_os_error() == Some(libc::E2BIG) => MapError::Full,
        _ => MapError::Failed(error.to_string()),
    }
}
