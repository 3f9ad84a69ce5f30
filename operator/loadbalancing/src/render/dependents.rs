//! Which rows must be rendered again when others changed. Too many is only slow; too few would be wrong.

use std::collections::BTreeSet;

use crate::rows::{Proxy, Service, ServiceName, Tunnel};
use crate::store::{Change, Row, Snapshot, diff};
use crate::writer::RowKey;

/// Rows to render for the step from one snapshot to the next: what changed, and what depends on it.
pub(crate) fn affected(old: &Snapshot, new: &Snapshot) -> BTreeSet<RowKey> {
    let mut rows = BTreeSet::new();
    for change in diff::<Service>(&old.services, &new.services) {
        let name = &change.row().name;
        rows.insert(RowKey::Service(name.clone()));
        of_service(new, name, &mut rows);
    }
    for change in diff::<Tunnel>(&old.tunnels, &new.tunnels) {
        let tunnel = change.row();
        rows.insert(RowKey::Tunnel(tunnel.id));
        let aliases = new.aliases.group(&Some(tunnel.id));
        rows.extend(aliases.map(|a| RowKey::Alias(a.key.clone())));
        // On a client a proxy is reached through the tunnel to its node.
        for service in services(&change, |t| &t.service) {
            rows.extend(new.proxies_of(service).map(|p| RowKey::Proxy(p.id)));
        }
    }
    for change in diff::<Proxy>(&old.proxies, &new.proxies) {
        rows.insert(RowKey::Proxy(change.row().id));
        for service in services(&change, |p| &p.service) {
            rows.extend(new.frontends_of(service).map(|f| RowKey::Frontend(f.params.key)));
        }
    }
    rows.extend(diff(&old.frontends, &new.frontends).iter().map(|c| RowKey::Frontend(c.row().key())));
    rows.extend(diff(&old.aliases, &new.aliases).iter().map(|c| RowKey::Alias(c.row().key())));
    rows.extend(diff(&old.passes, &new.passes).iter().map(|c| RowKey::Pass(c.row().key())));
    rows.extend(diff(&old.nodes, &new.nodes).iter().map(|c| RowKey::Node(c.row().key())));
    rows
}

/// The service a row belongs to, and the one it left.
fn services<R>(change: &Change<R>, of: fn(&R) -> &ServiceName) -> impl Iterator<Item = &ServiceName> {
    let (old, row) = (change.old(), change.row());
    old.into_iter().chain([row]).map(move |row| of(row))
}

/// Everything that carries the identity or the keys of a service.
fn of_service(snapshot: &Snapshot, name: &ServiceName, rows: &mut BTreeSet<RowKey>) {
    rows.extend(snapshot.tunnels_of(name).map(|t| RowKey::Tunnel(t.id)));
    rows.extend(snapshot.proxies_of(name).map(|p| RowKey::Proxy(p.id)));
    rows.extend(snapshot.aliases_of(name).map(|a| RowKey::Alias(a.key.clone())));
    rows.extend(snapshot.passes_of(name).map(|p| RowKey::Pass(p.key.clone())));
    rows.extend(snapshot.frontends_of(name).map(|f| RowKey::Frontend(f.params.key)));
}
