//! Change iterators.

use epic_store::{Change, Since};

use crate::support::{Node, commit_nodes, node, store};

#[test]
fn removals_are_seen_and_only_the_latest_form() {
    let store = store();
    let mut changes = store.changes::<Node>(Since::Start);
    commit_nodes(&store, [1], 1);
    assert!(matches!(changes.poll().iter().collect::<Vec<_>>()[..], [Change::Added(_)]));
    assert!(changes.poll().is_empty());
    for value in 2..5 {
        commit_nodes(&store, [1], value);
    }
    let delta = changes.poll();
    let seen: Vec<_> = delta.iter().collect();
    assert!(matches!(seen[..], [Change::Updated { old, new }] if old.value == 1 && new.value == 4));
    let mut txn = store.write();
    txn.remove::<Node>(1);
    txn.commit();
    let delta = changes.poll();
    let seen: Vec<_> = delta.iter().collect();
    assert!(matches!(seen[..], [Change::Removed(row)] if row.value == 4));
    assert_eq!((delta.before().len(), delta.snapshot().nodes.len()), (1, 0));
}

#[test]
fn the_start_yields_what_is_there_and_now_does_not() {
    let store = store();
    commit_nodes(&store, [1, 2], 1);
    let (mut all, mut later) = (store.changes::<Node>(Since::Start), store.changes::<Node>(Since::Now));
    assert_eq!(all.poll().iter().filter_map(|change| change.current()).count(), 2);
    assert!(later.poll().is_empty());
}

#[test]
fn what_came_and_went_between_two_polls_is_not_seen_and_what_went_and_came_is_an_update() {
    let store = store();
    commit_nodes(&store, [1], 1);
    let mut changes = store.changes::<Node>(Since::Now);
    commit_nodes(&store, [2], 1);
    let mut txn = store.write();
    txn.remove::<Node>(2);
    txn.remove::<Node>(1);
    txn.commit();
    commit_nodes(&store, [1], 1);
    let delta = changes.poll();
    let seen: Vec<_> = delta.iter().collect();
    assert!(
        matches!(seen[..], [Change::Updated { old, new }] if old.row == new.row && old.revision < new.revision)
    );
}

#[test]
fn of_many_rows_every_single_change_is_seen() {
    let store = store();
    commit_nodes(&store, 0..2_000, 1);
    let mut changes = store.changes::<Node>(Since::Now);
    for id in 0..2_000 {
        let mut txn = store.write();
        if id % 3 == 0 {
            txn.remove::<Node>(id);
        } else {
            txn.put(node(id, 2));
        }
        txn.commit();
        let delta = changes.poll();
        let seen: Vec<_> = delta.iter().map(|change| (change.row().id, change.current().is_some())).collect();
        assert_eq!(seen, [(id, id % 3 != 0)]);
    }
}

#[tokio::test]
async fn an_iterator_waits_until_there_is_something_and_not_for_other_tables() {
    let store = store();
    commit_nodes(&store, [1], 1);
    let mut changes = store.changes::<Node>(Since::Start);
    assert_eq!(changes.next().await.iter().count(), 1, "what is there already needs no commit");
    let waiting = tokio::spawn(async move { changes.next().await.iter().count() });
    let mut txn = store.write();
    txn.put(crate::support::backend(1, 1, 1));
    txn.commit();
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    commit_nodes(&store, [2, 3], 1);
    assert_eq!(waiting.await.unwrap(), 2);
}
