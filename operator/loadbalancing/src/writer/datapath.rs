//! Verbs for tunnels, proxies, aliases, passes and nodes. One source writes each of these tables, so `set_*` replaces all of it.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::WriteTxn;
use crate::rows::{Alias, AliasKey, EpicNode, Pass, Proxy, Tunnel};
use crate::store::{Row, Snapshot, Table};
use crate::{ProxyId, TunnelId};

impl WriteTxn<'_> {
    /// Adds or updates a tunnel; says whether that changed anything.
    pub fn upsert_tunnel(&mut self, tunnel: Tunnel) -> bool {
        self.put(tunnel, |s| &mut s.tunnels)
    }

    /// Removes a tunnel; says whether it was there.
    pub fn delete_tunnel(&mut self, id: TunnelId) -> bool {
        self.remove(&id, |s| &mut s.tunnels).is_some()
    }

    /// Makes these the only tunnels.
    pub fn set_tunnels(&mut self, tunnels: impl IntoIterator<Item = Tunnel>) {
        self.set(tunnels, |s| &mut s.tunnels);
    }

    /// Adds or updates a proxy; says whether that changed anything.
    pub fn upsert_proxy(&mut self, proxy: Proxy) -> bool {
        self.put(proxy, |s| &mut s.proxies)
    }

    /// Removes a proxy; says whether it was there.
    pub fn delete_proxy(&mut self, id: ProxyId) -> bool {
        self.remove(&id, |s| &mut s.proxies).is_some()
    }

    /// Makes these the only proxies.
    pub fn set_proxies(&mut self, proxies: impl IntoIterator<Item = Proxy>) {
        self.set(proxies, |s| &mut s.proxies);
    }

    /// Adds or updates an alias; says whether that changed anything.
    pub fn upsert_alias(&mut self, alias: Alias) -> bool {
        self.put(alias, |s| &mut s.aliases)
    }

    /// Removes an alias; says whether it was there.
    pub fn delete_alias(&mut self, key: &AliasKey) -> bool {
        self.remove(key, |s| &mut s.aliases).is_some()
    }

    /// Makes these the only aliases.
    pub fn set_aliases(&mut self, aliases: impl IntoIterator<Item = Alias>) {
        self.set(aliases, |s| &mut s.aliases);
    }

    /// Adds or updates a pass; says whether that changed anything.
    pub fn upsert_pass(&mut self, pass: Pass) -> bool {
        self.put(pass, |s| &mut s.passes)
    }

    /// Makes these the only passes.
    pub fn set_passes(&mut self, passes: impl IntoIterator<Item = Pass>) {
        self.set(passes, |s| &mut s.passes);
    }

    /// Adds or updates an EPIC node; says whether that changed anything.
    pub fn upsert_node(&mut self, node: EpicNode) -> bool {
        self.put(node, |s| &mut s.nodes)
    }

    /// Removes an EPIC node; says whether it was there.
    pub fn delete_node(&mut self, address: IpAddr) -> bool {
        self.remove(&address, |s| &mut s.nodes).is_some()
    }

    /// Makes these the only EPIC nodes.
    pub fn set_nodes(&mut self, nodes: impl IntoIterator<Item = EpicNode>) {
        self.set(nodes, |s| &mut s.nodes);
    }

    fn set<R: Row>(&mut self, rows: impl IntoIterator<Item = R>, table: fn(&mut Snapshot) -> &mut Table<R>) {
        let rows: Vec<R> = rows.into_iter().collect();
        let wanted: BTreeSet<R::Key> = rows.iter().map(Row::key).collect();
        let stored = R::table(&self.next).entries().map(|(k, _)| k);
        let gone: Vec<R::Key> = stored.filter(|k| !wanted.contains(k)).cloned().collect();
        for key in &gone {
            self.remove(key, table);
        }
        for row in rows {
            self.put(row, table);
        }
    }
}
