//! Who must have listed.

use epic_store::{Initializer, Store};

use crate::support::{Tables, commit_nodes, node, store};

fn pending(store: &Store<Tables>) -> Vec<String> {
    store.snapshot().pending().map(|pending| pending.to_string()).collect()
}

fn complete(store: &Store<Tables>, initializer: &Initializer) -> bool {
    let mut txn = store.write();
    let completed = txn.complete(initializer);
    txn.commit();
    completed
}

#[test]
fn they_are_named_until_all_have_completed() {
    let store = store();
    assert!(store.snapshot().initialized());
    let (services, endpoints) =
        (store.register_initializer("services"), store.register_initializer("endpoints"));
    assert_eq!(pending(&store), ["endpoints", "services"]);
    assert!(complete(&store, &services));
    assert!(!store.snapshot().is_pending("services") && store.snapshot().is_pending("endpoints"));
    assert!(complete(&store, &endpoints));
    assert!(store.snapshot().initialized());
    drop((services, endpoints));
    assert!(store.snapshot().initialized());
}

/// D15, first half.
#[test]
fn two_of_one_name_do_not_collapse() {
    let store = store();
    let (a, b) = (store.register_initializer("file"), store.register_initializer("file"));
    assert_eq!(pending(&store), ["file", "file"]);
    assert!(complete(&store, &a));
    assert_eq!(pending(&store), ["file"]);
    assert!(!complete(&store, &a), "not a second time, and not for the other");
    assert_eq!(pending(&store), ["file"]);
    assert!(complete(&store, &b));
    assert!(store.snapshot().initialized());
}

/// D15, second half.
#[test]
fn a_completion_in_an_aborted_transaction_is_given_back() {
    let store = store();
    let initializer = store.register_initializer("file");
    let before = store.snapshot().revision();
    let mut txn = store.write();
    txn.put(node(1, 1));
    assert!(txn.complete(&initializer));
    txn.abort();
    assert_eq!((pending(&store), store.snapshot().revision()), (vec!["file".to_owned()], before));
    assert!(complete(&store, &initializer));
    assert!(store.snapshot().initialized());
}

#[test]
fn one_that_is_dropped_stays_pending_and_the_next_of_its_name_takes_it_over() {
    let store = store();
    let (first, other) = (store.register_initializer("file"), store.register_initializer("file"));
    drop(first);
    assert_eq!(pending(&store), ["file (ended before it was complete)", "file"]);
    let again = store.register_initializer("file");
    assert_eq!(pending(&store), ["file", "file"], "taken over, not a third one");
    assert!(complete(&store, &again) && complete(&store, &other));
    assert!(store.snapshot().initialized());
}

#[test]
fn completing_is_a_change_that_watchers_of_everything_see() {
    let store = store();
    let initializer = store.register_initializer("file");
    let mut any = store.watch_any();
    any.mark_unchanged();
    complete(&store, &initializer);
    assert!(any.has_changed().unwrap());
    assert_eq!(*any.borrow(), store.snapshot().revision());
}

#[test]
fn one_store_knows_nothing_of_the_initializers_of_another() {
    let (store, other) = (store(), crate::support::store());
    let (initializer, foreign) = (store.register_initializer("file"), other.register_initializer("file"));
    assert!(!complete(&store, &foreign));
    assert_eq!(pending(&store), ["file"]);
    drop(initializer);
}

#[tokio::test]
async fn whoever_waits_for_all_of_them_sees_the_rows_they_came_with() {
    let store = store();
    let initializer = store.register_initializer("file");
    let reader = store.reader();
    let waiting = tokio::spawn(async move { reader.wait_until_initialized().await.nodes.len() });
    tokio::task::yield_now().await;
    commit_nodes(&store, [1], 1);
    tokio::task::yield_now().await;
    assert!(!waiting.is_finished());
    let mut txn = store.write();
    txn.put(node(2, 1));
    txn.complete(&initializer);
    txn.commit();
    assert_eq!(waiting.await.unwrap(), 2);
}
