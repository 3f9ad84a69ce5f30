//! Verbs for tunnels, proxies, aliases, passes and nodes. One source writes each of these tables; `set_*` replaces what
//! it has for one service, so that a change of one costs nothing for the others.

use std::collections::BTreeSet;
use std::net::IpAddr;

use epic_store::{Holds, NeverRefuses, Row};

use super::WriteTxn;
use crate::rows::{Address, Alias, AliasKey, EpicNode, Pass, PassKey, Proxy, ServiceName, Tunnel};
use crate::tables::Tables;
use crate::{ProxyId, TunnelId};

impl WriteTxn<'_> {
    /// Adds or updates a tunnel; says whether that changed anything.
    pub fn upsert_tunnel(&mut self, tunnel: Tunnel) -> bool {
        self.put(tunnel)
    }

    /// Removes a tunnel; says whether it was there.
    pub fn delete_tunnel(&mut self, key: TunnelId) -> bool {
        self.store.remove::<Tunnel>(key).is_some()
    }

    /// Makes these the only tunnels of a service.
    pub fn set_tunnels(&mut self, service: &ServiceName, tunnels: impl IntoIterator<Item = Tunnel>) {
        let stored: Vec<TunnelId> = self.tables().tunnels_of(service.id()).map(|row| row.id).collect();
        self.set(stored, tunnels);
    }

    /// Adds or updates a proxy; says whether that changed anything.
    pub fn upsert_proxy(&mut self, proxy: Proxy) -> bool {
        self.put(proxy)
    }

    /// Removes a proxy; says whether it was there.
    pub fn delete_proxy(&mut self, key: ProxyId) -> bool {
        self.store.remove::<Proxy>(key).is_some()
    }

    /// Makes these the only proxies of a service.
    pub fn set_proxies(&mut self, service: &ServiceName, proxies: impl IntoIterator<Item = Proxy>) {
        let stored: Vec<ProxyId> = self.tables().proxies_of(service.id()).map(|row| row.id).collect();
        self.set(stored, proxies);
    }

    /// Adds or updates an alias; says whether that changed anything.
    pub fn upsert_alias(&mut self, alias: Alias) -> bool {
        self.put(alias)
    }

    /// Removes an alias; says whether it was there.
    pub fn delete_alias(&mut self, key: AliasKey) -> bool {
        self.store.remove::<Alias>(key).is_some()
    }

    /// Makes these the only aliases of a service.
    pub fn set_aliases(&mut self, service: &ServiceName, aliases: impl IntoIterator<Item = Alias>) {
        let stored: Vec<AliasKey> = self.tables().aliases_of(service.id()).map(|row| row.key()).collect();
        self.set(stored, aliases);
    }

    /// Adds or updates a pass; says whether that changed anything.
    pub fn upsert_pass(&mut self, pass: Pass) -> bool {
        self.put(pass)
    }

    /// Makes these the only passes of a service; `None`: of those for all proxies.
    pub fn set_passes(&mut self, service: Option<&ServiceName>, passes: impl IntoIterator<Item = Pass>) {
        let of = service.map(ServiceName::id);
        let stored: Vec<PassKey> = self.tables().passes.prefix(of).map(|row| row.key()).collect();
        self.set(stored, passes);
    }

    /// Adds or updates an EPIC node; says whether that changed anything.
    pub fn upsert_node(&mut self, node: EpicNode) -> bool {
        self.put(node)
    }

    /// Removes an EPIC node; says whether it was there.
    pub fn delete_node(&mut self, address: IpAddr) -> bool {
        self.store.remove::<EpicNode>(address.into()).is_some()
    }

    /// Makes these the only EPIC nodes.
    pub fn set_nodes(&mut self, nodes: impl IntoIterator<Item = EpicNode>) {
        let stored: Vec<Address> = self.tables().nodes.iter().map(|row| row.address).collect();
        self.set(stored, nodes);
    }

    /// Removes whatever the data path has for a service.
    pub fn delete_paths(&mut self, service: &ServiceName) {
        self.set_tunnels(service, []);
        self.set_proxies(service, []);
        self.set_aliases(service, []);
        self.set_passes(Some(service), []);
    }

    fn set<R: Row>(&mut self, stored: Vec<R::Key>, rows: impl IntoIterator<Item = R>)
    where
        Tables: Holds<R>,
        R::Indexes: NeverRefuses<R>,
    {
        let rows: Vec<R> = rows.into_iter().collect();
        let wanted: BTreeSet<R::Key> = rows.iter().map(Row::key).collect();
        for key in stored {
            if !wanted.contains(&key) {
                self.store.remove::<R>(key);
            }
        }
        for row in rows {
            self.put(row);
        }
    }
}
