//! A snapshot against the model: rows, revisions, and every way to ask for them.

use std::sync::Arc;

use epic_store::{Holds, Snapshot, Stored};

use super::rows::{Model, Modelled};
use super::steps::{NODES, SERVICES};
use crate::support::{Address, Backend, BackendKey, ByAddress, ById, ByPort, ByZone, Node, Service, Tables};

/// Rows and revisions of a table, and all ways to ask for them by primary key.
fn check_rows<R: Modelled>(snapshot: &Snapshot<Tables>, model: &Model, bounds: &[R::Key])
where
    Tables: Holds<R>,
{
    let (table, rows) = (Holds::<R>::table(&**snapshot), R::of(model));
    let pairs = |found: &mut dyn Iterator<Item = &Arc<Stored<R>>>| {
        found.map(|stored| (stored.key(), (stored.row.clone(), stored.revision))).collect::<Vec<_>>()
    };
    let wanted: Vec<(R::Key, (R, u64))> = rows.iter().map(|(key, row)| (*key, row.clone())).collect();
    assert_eq!(pairs(&mut table.iter()), wanted);
    assert_eq!((table.len(), table.is_empty()), (rows.len(), rows.is_empty()));
    for low in bounds {
        assert_eq!(table.get(*low).map(|row| row.revision), rows.get(low).map(|(_, revision)| *revision));
        let from: Vec<_> = rows.range(*low..).map(|(key, row)| (*key, row.clone())).collect();
        assert_eq!(pairs(&mut table.lower_bound(*low)), from);
        for high in bounds.iter().filter(|high| low <= high) {
            let part: Vec<_> = rows.range(*low..=*high).map(|(key, row)| (*key, row.clone())).collect();
            assert_eq!(pairs(&mut table.range(*low..=*high)), part);
        }
    }
}

pub(super) fn check(snapshot: &Snapshot<Tables>, model: &Model) {
    assert_eq!(snapshot.revision(), model.revision);
    let revisions = [snapshot.services.revision(), snapshot.backends.revision(), snapshot.nodes.revision()];
    assert_eq!(revisions, model.revisions);
    let places =
        [(0, 0), (1, 2), (3, 9), (SERVICES, 0)].map(|(service, place)| BackendKey { service, place });
    check_rows::<Service>(snapshot, model, &[0, 2, 3, SERVICES]);
    check_rows::<Backend>(snapshot, model, &places);
    check_rows::<Node>(snapshot, model, &[0, 17, NODES]);
    check_service_indexes(snapshot, model);
    check_backend_index(snapshot, model);
}

fn check_service_indexes(snapshot: &Snapshot<Tables>, model: &Model) {
    let table = &snapshot.services;
    let named = |admit: &dyn Fn(&Service) -> bool| {
        model.services.values().filter(|(row, _)| admit(row)).map(|(row, _)| row.name).collect::<Vec<u8>>()
    };
    for id in 0..4 {
        let holder = table.one(ById, id).map(|row| row.name);
        assert_eq!(holder.into_iter().collect::<Vec<_>>(), named(&|row| row.id == Some(id)));
    }
    for port in 80..83 {
        let found: Vec<u8> = table.by(ByPort, port).map(|row| row.name).collect();
        assert_eq!(found, named(&|row| row.ports.contains(&port)));
    }
    for zone in 0..2 {
        let found: Vec<u8> = table.by(ByZone, zone).map(|row| row.name).collect();
        assert_eq!(found, named(&|row| row.zone == zone));
    }
}

fn check_backend_index(snapshot: &Snapshot<Tables>, model: &Model) {
    let table = &snapshot.backends;
    let mut entries: Vec<(Address, BackendKey)> =
        model.backends.values().map(|(row, _)| (row.address, row.key)).collect();
    entries.sort_unstable();
    let wanted = |admit: &dyn Fn(Address) -> bool| {
        entries.iter().filter(|(of, _)| admit(*of)).copied().collect::<Vec<(Address, BackendKey)>>()
    };
    for host in 0..3 {
        let of = Address { net: host / 2, host };
        let found: Vec<_> = table.by(ByAddress, of).map(|row| (row.address, row.key)).collect();
        assert_eq!(found, wanted(&|address| address == of));
        let found: Vec<_> = table.by_lower_bound(ByAddress, of).map(|(of, row)| (of, row.key)).collect();
        assert_eq!(found, wanted(&|address| address >= of));
    }
    for net in 0..2 {
        let found: Vec<_> = table.by_prefix(ByAddress, net).map(|(of, row)| (of, row.key)).collect();
        assert_eq!(found, wanted(&|address| address.net == net));
    }
    for service in 0..SERVICES {
        let found: Vec<BackendKey> = table.prefix(service).map(|row| row.key).collect();
        let wanted: Vec<BackendKey> =
            model.backends.keys().filter(|key| key.service == service).copied().collect();
        assert_eq!(found, wanted);
    }
}
