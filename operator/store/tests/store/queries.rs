//! Rows by key, range, prefix and index.

use epic_store::{Conflict, Row, Schema, Store, Stored};

use crate::support::{
    Address, BackendKey, ByAddress, ById, ByPort, ByZone, Node, RowId, TableId, Tables, backend,
    commit_nodes, node, service, store,
};

fn keys<'a, R: Row>(rows: impl Iterator<Item = &'a std::sync::Arc<Stored<R>>>) -> Vec<R::Key> {
    rows.map(|row| row.key()).collect()
}

fn place(service: u8, place: u8) -> BackendKey {
    BackendKey { service, place }
}

fn with_backends() -> Store<Tables> {
    let store = store();
    let mut txn = store.write();
    for (of, number) in [(2, 1), (1, 2), (1, 1), (3, 0), (2, 9)] {
        assert!(txn.put(backend(of, number, 1)));
    }
    txn.commit();
    store
}

#[test]
fn rows_are_found_by_key_range_prefix_and_lower_bound() {
    let snapshot = with_backends().snapshot();
    let rows = &snapshot.backends;
    assert_eq!(rows.get(place(1, 2)).map(|row| row.weight), Some(1));
    assert!(rows.get(place(1, 3)).is_none() && !rows.contains(place(1, 3)));
    assert_eq!(keys(rows.iter()), [place(1, 1), place(1, 2), place(2, 1), place(2, 9), place(3, 0)]);
    assert_eq!(keys(rows.range(place(1, 2)..place(2, 9))), [place(1, 2), place(2, 1)]);
    assert_eq!(keys(rows.range(place(1, 2)..=place(2, 9))), [place(1, 2), place(2, 1), place(2, 9)]);
    assert!(keys(rows.range(place(2, 9)..place(1, 2))).is_empty());
    assert_eq!(keys(rows.lower_bound(place(2, 2))), [place(2, 9), place(3, 0)]);
    assert_eq!(keys(rows.prefix(2u8)), [place(2, 1), place(2, 9)]);
    assert!(keys(rows.prefix(4u8)).is_empty());
    assert_eq!(rows.len(), 5);
}

#[test]
fn an_index_is_asked_by_key_prefix_and_lower_bound() {
    let snapshot = with_backends().snapshot();
    let rows = &snapshot.backends;
    let one = Address { net: 1, host: 1 };
    assert_eq!(keys(rows.by(ByAddress, one)), [place(1, 1), place(2, 1)]);
    assert!(keys(rows.by(ByAddress, Address { net: 1, host: 2 })).is_empty());
    let hosts = |rows: Vec<(Address, &_)>| rows.iter().map(|(of, _)| (of.net, of.host)).collect::<Vec<_>>();
    assert_eq!(hosts(rows.by_prefix(ByAddress, 0u8).collect()), [(0, 0), (0, 2)]);
    assert_eq!(hosts(rows.by_lower_bound(ByAddress, one).collect()), [(1, 1), (1, 1), (1, 9)]);
}

#[test]
fn a_row_stands_under_none_one_or_several_keys_of_an_index_and_follows_its_updates() {
    let store = store();
    let mut txn = store.write();
    txn.try_put(service(1, None, &[80, 81, 80], 0)).unwrap();
    txn.try_put(service(2, Some(7), &[81], 0)).unwrap();
    assert_eq!(keys(txn.tables().services.by(ByPort, 80)), [1]);
    assert_eq!(keys(txn.tables().services.by(ByPort, 81)), [1, 2]);
    txn.try_put(service(1, None, &[82], 1)).unwrap();
    txn.commit();
    let rows = &store.snapshot().services;
    assert!(keys(rows.by(ByPort, 80)).is_empty());
    assert_eq!(keys(rows.by(ByPort, 81)), [2]);
    assert_eq!(keys(rows.by(ByPort, 82)), [1]);
    assert_eq!(keys(rows.by(ByZone, 0)), [2]);
    assert_eq!(rows.one(ById, 7).map(|row| row.name), Some(2));
    assert!(rows.one(ById, 8).is_none());
}

#[test]
fn a_unique_index_refuses_a_second_row_names_the_holder_and_lets_the_transaction_go_on() {
    let store = store();
    let mut txn = store.write();
    txn.try_put(service(1, Some(7), &[], 0)).unwrap();
    let refused = txn.try_put(service(2, Some(7), &[], 0)).unwrap_err();
    assert_eq!(refused, Conflict::Taken { index: "id", of: "7".to_owned(), holder: 1, refused: 2 });
    assert_eq!(refused.to_string(), "id 7 belongs to 1; 2 can have it once 1 leaves it");
    assert!(!txn.tables().services.contains(2));
    // Its own key is no obstacle, and what was left is free.
    assert_eq!(txn.try_put(service(1, Some(7), &[80], 0)), Ok(true));
    assert_eq!(txn.try_put(service(1, Some(8), &[80], 0)), Ok(true));
    assert_eq!(txn.try_put(service(2, Some(7), &[], 0)), Ok(true));
    txn.remove::<crate::support::Service>(1);
    assert_eq!(txn.try_put(service(3, Some(8), &[], 0)), Ok(true));
    txn.commit();
    assert_eq!(store.snapshot().services.one(ById, 7).map(|row| row.name), Some(2));
}

#[test]
fn changed_rows_of_all_tables_are_named() {
    let store = with_backends();
    let before = store.snapshot();
    let mut txn = store.write();
    txn.put(backend(2, 9, 5));
    txn.put(node(4, 1));
    txn.remove::<crate::support::Backend>(place(1, 1));
    txn.commit();
    let now = store.snapshot();
    let mut named = Vec::new();
    now.changed_rows(&before, &mut |row| named.push(row));
    assert_eq!(named, [RowId::Backend(place(1, 1)), RowId::Backend(place(2, 9)), RowId::Node(4)]);
    assert_eq!(named[2].table(), TableId::Node);
    assert_eq!(now.revision_of(TableId::Node), now.revision());
    assert_eq!((now.revision_of(TableId::Service), now.len_of(TableId::Backend)), (0, 4));
}

#[test]
fn with_many_rows_every_key_of_an_index_finds_its_own() {
    let store = store();
    let mut txn = store.write();
    for name in 0..=255u8 {
        txn.try_put(service(name, Some(255 - name), &[u16::from(name % 7), u16::from(name % 11)], name % 3))
            .unwrap();
    }
    txn.commit();
    let rows = &store.snapshot().services;
    for of in 0..11u8 {
        let expected: Vec<u8> = (0..=255).filter(|name| name % 7 == of || name % 11 == of).collect();
        assert_eq!(keys(rows.by(ByPort, u16::from(of))), expected);
    }
    assert!((0..=255u8).all(|id| rows.one(ById, id).unwrap().name == 255 - id));
}

#[test]
fn a_row_of_any_table_is_named_as_text_and_has_its_revision_while_it_is_there() {
    let store = store();
    let mut txn = store.write();
    txn.put(backend(1, 7, 1));
    let first = txn.commit();
    let second = commit_nodes(&store, [4], 1);
    let backend = RowId::Backend(BackendKey { service: 1, place: 7 });
    let snapshot = store.snapshot();
    assert_eq!(snapshot.row_revision(backend), Some(first));
    assert_eq!(snapshot.row_revision(RowId::Node(4)), Some(second));
    assert_eq!(snapshot.row_revision(RowId::Service(1)), None);
    assert_eq!(RowId::Node(4).to_string(), "nodes 4");
    assert_eq!(backend.to_string(), "backends BackendKey { service: 1, place: 7 }");

    let mut txn = store.write();
    txn.remove::<Node>(4);
    txn.commit();
    assert_eq!(store.snapshot().row_revision(RowId::Node(4)), None);
}
