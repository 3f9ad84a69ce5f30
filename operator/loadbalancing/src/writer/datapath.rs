//! Verbs for tunnels, proxies and aliases. One source writes each of these tables, so `set_*` replaces all of it.

use std::collections::BTreeSet;

use super::WriteTxn;
use crate::rows::{Alias, AliasKey, Proxy, Tunnel};
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
