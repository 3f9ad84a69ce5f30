//! Which rows must be rendered again when others changed. Too many is only slow; too few would be wrong.

use std::collections::BTreeSet;
use std::sync::Arc;

use epic_store::{Change, Index as _, Row, Stored};

use crate::rows::{ByIds, ByTarget, ByTunnel, Frontend, Service, ServiceRef};
use crate::tables::{RowId, Snapshot, Tables};

/// Rows to render for the step from one snapshot to the next: what changed, and what depends on it.
pub(super) fn affected(old: &Snapshot, new: &Snapshot, each: &mut dyn FnMut(RowId)) {
    let (mut all, mut ports, mut proxies) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for change in new.services.changes_since(&old.services) {
        each(RowId::Service(change.row().key()));
        all.insert(change.row().name.id());
        // Whoever claims the same IDs may have them now, or have them no more.
        for row in change.old().into_iter().chain(change.current()) {
            if moved(change) {
                same_ids(new, row, &mut all);
            }
        }
    }
    for change in new.tunnels.changes_since(&old.tunnels) {
        let id = change.row().id;
        each(RowId::Tunnel(id));
        new.aliases.by_prefix(ByTunnel, id).for_each(|(_, alias)| each(RowId::Alias(alias.key())));
        // On a client a proxy is reached through the tunnel to its node.
        proxies.extend(change.old().into_iter().chain(change.current()).map(|row| row.service.id()));
    }
    for change in new.proxies.changes_since(&old.proxies) {
        each(RowId::Proxy(change.row().id));
        ports.extend(change.old().into_iter().chain(change.current()).map(|row| row.service.id()));
    }
    for change in new.redirects.changes_since(&old.redirects) {
        ports.insert(change.row().service.id());
    }
    let mut chosen = BTreeSet::new();
    chosen.extend(new.backends.changes_since(&old.backends).map(|change| change.row().service.id()));
    chosen.extend(new.verdicts.changes_since(&old.verdicts).map(|change| change.row().service.id()));
    chosen.extend(&all);
    for service in chosen {
        ports.insert(service);
        ports.extend(new.redirects.by(ByTarget, service).map(|redirect| redirect.service.id()));
    }
    for service in &all {
        of_service(new, *service, each);
    }
    for service in ports.difference(&all) {
        new.frontends_of(*service).for_each(|row| each(RowId::Frontend(row.key)));
    }
    for service in proxies.difference(&all) {
        new.proxies_of(*service).for_each(|row| each(RowId::Proxy(row.id)));
    }
    for change in new.frontends.changes_since(&old.frontends) {
        let key = change.row().key;
        each(RowId::Frontend(key));
        let announced = |row: Option<&Arc<Stored<Frontend>>>| row.is_some_and(|row| row.announced);
        if announced(change.old()) != announced(change.current()) {
            new.frontends.prefix(key.address).for_each(|row| each(RowId::Frontend(row.key)));
        }
    }
    for change in new.aliases.changes_since(&old.aliases) {
        each(RowId::Alias(change.row().key()));
        // Of several aliases for one endpoint the first counts.
        for row in change.old().into_iter().chain(change.current()) {
            for behind in ByTunnel::of(row) {
                new.aliases.by(ByTunnel, behind).for_each(|alias| each(RowId::Alias(alias.key())));
            }
        }
    }
    new.passes.changes_since(&old.passes).for_each(|change| each(RowId::Pass(change.row().key())));
    new.nodes.changes_since(&old.nodes).for_each(|change| each(RowId::EpicNode(change.row().key())));
}

/// Whether a change may give the IDs of a service to another one, or take them.
fn moved(change: Change<'_, Service>) -> bool {
    match (change.old(), change.current()) {
        (Some(old), Some(new)) => old.ids != new.ids || old.precedence() != new.precedence(),
        _ => true,
    }
}

fn same_ids(tables: &Tables, row: &Service, all: &mut BTreeSet<ServiceRef>) {
    if let Some(ids) = row.ids {
        all.extend(tables.services.by(ByIds, ids).map(|row| row.name.id()));
    }
}

/// Everything that carries the identity or the keys of a service.
fn of_service(tables: &Tables, service: ServiceRef, each: &mut dyn FnMut(RowId)) {
    // Of several sources another may count now.
    tables.services.prefix(service).for_each(|row| each(RowId::Service(row.key())));
    tables.tunnels_of(service).for_each(|row| each(RowId::Tunnel(row.id)));
    tables.proxies_of(service).for_each(|row| each(RowId::Proxy(row.id)));
    tables.aliases_of(service).for_each(|row| each(RowId::Alias(row.key())));
    tables.passes_of(service).for_each(|row| each(RowId::Pass(row.key())));
    tables.frontends_of(service).for_each(|row| each(RowId::Frontend(row.key)));
}
