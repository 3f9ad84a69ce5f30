//! Transactions: whole or not at all, compare-and-swap, revisions.

use std::sync::Arc;

use epic_store::Conflict;

use crate::support::{Node, Service, backend, commit_nodes, node, service, store};

#[test]
fn a_reader_keeps_its_snapshot_while_others_write() {
    let store = store();
    commit_nodes(&store, [1, 2], 1);
    let before = store.snapshot();
    let mut txn = store.write();
    txn.remove::<Node>(1);
    txn.put(node(2, 9));
    assert_eq!(store.snapshot().nodes.len(), 2, "nothing is seen before the commit");
    txn.commit();
    assert_eq!((before.nodes.len(), before.nodes.get(2).unwrap().value), (2, 1));
    assert_eq!(store.snapshot().nodes.len(), 1);
}

#[test]
fn a_dropped_transaction_leaves_no_trace_in_any_table() {
    let store = store();
    commit_nodes(&store, [1], 1);
    let before = store.snapshot();
    let mut txn = store.write();
    txn.remove::<Node>(1);
    txn.put(backend(1, 1, 1));
    txn.try_put(service(1, None, &[], 0)).unwrap();
    txn.abort();
    assert!(Arc::ptr_eq(&before, &store.snapshot()));
}

#[test]
fn an_equal_row_gives_no_revision_and_stays_the_one_it_is() {
    let store = store();
    let revision = commit_nodes(&store, [1], 1);
    let before = store.snapshot();
    let mut txn = store.write();
    assert!(!txn.put(node(1, 1)));
    assert_eq!(txn.commit(), revision);
    assert!(Arc::ptr_eq(&before, &store.snapshot()));
}

#[test]
fn revisions_are_those_of_the_last_write_per_row_and_per_table() {
    let store = store();
    assert_eq!(store.snapshot().revision(), 0);
    let first = commit_nodes(&store, [1, 2], 1);
    let mut txn = store.write();
    txn.put(backend(1, 1, 1));
    let second = txn.commit();
    let third = commit_nodes(&store, [1, 2, 3], 1);
    let snapshot = store.snapshot();
    assert_eq!((first, second, third, snapshot.revision()), (1, 2, 3, 3));
    assert_eq!(
        (snapshot.nodes.revision(), snapshot.backends.revision(), snapshot.services.revision()),
        (3, 2, 0)
    );
    let of = |id| snapshot.nodes.get(id).unwrap().revision;
    assert_eq!((of(1), of(3)), (1, 3));
}

#[test]
fn compare_and_swap_writes_only_over_what_was_read() {
    let store = store();
    let revision = commit_nodes(&store, [1], 1);
    let mut txn = store.write();
    assert_eq!(txn.put_if(node(1, 2), revision), Ok(true));
    let moved = txn.put_if(node(1, 3), revision).unwrap_err();
    assert_eq!(moved, Conflict::Moved { key: 1, expected: 1, found: 2 });
    assert_eq!(
        moved.to_string(),
        "1 was read at revision 1, now it is at revision 2; read it again and decide anew"
    );
    assert_eq!(txn.put_if(node(1, 3), txn.revision()), Ok(true), "what it has written itself it has seen");
    assert_eq!(txn.put_if(node(2, 1), 0), Ok(true), "nothing there, as expected");
    let there = txn.put_if(node(2, 2), 0).unwrap_err();
    assert_eq!(
        there.to_string(),
        "2 was read absent, now it is at revision 2; read it again and decide anew"
    );
    assert!(txn.remove_if::<Node>(2, 1).is_err());
    assert_eq!(txn.remove_if::<Node>(2, 2), Ok(()));
    assert!(txn.remove_if::<Node>(2, 2).is_err(), "it is not there any more");
    txn.commit();
    assert_eq!(store.snapshot().nodes.get(1).unwrap().value, 3);
}

#[test]
fn removing_gives_the_row_back_and_what_is_not_there_is_no_change() {
    let store = store();
    commit_nodes(&store, [1], 4);
    let mut txn = store.write();
    assert!(txn.remove::<Service>(1).is_none());
    assert_eq!(txn.commit(), 1);
    let mut txn = store.write();
    assert_eq!(txn.remove::<Node>(1).map(|row| row.value), Some(4));
    assert_eq!(txn.commit(), 2);
    assert_eq!(store.snapshot().nodes.revision(), 2);
}
