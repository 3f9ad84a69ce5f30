//! Who is woken by what.

use std::future::Future;
use std::pin::pin;
use std::sync::{Arc, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::time::Duration;

use epic_store::{Store, Watch, Watched};

use crate::support::{Backend, BackendKey, Node, Tables, backend, commit_nodes, store};

/// Revision of the snapshot that a watch gives at once, if it does.
fn due(watch: &mut Watch<Tables, Node>) -> Option<u64> {
    match pin!(watch.changed()).poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(snapshot) => Some(snapshot.revision()),
        Poll::Pending => None,
    }
}

fn remove(store: &Store<Tables>, id: u32) {
    let mut txn = store.write();
    assert!(txn.remove::<Node>(id).is_some());
    txn.commit();
}

#[test]
fn only_what_concerns_a_watch_wakes_it() {
    let store = store();
    let mut key = store.watch::<Node>(Watched::Key(5));
    let mut range = store.watch::<Node>(Watched::Range(5, 7));
    let mut table = store.watch::<Node>(Watched::Table);
    let mut woken = |store: &Store<Tables>, id: u32, value: u64| {
        commit_nodes(store, [id], value);
        [due(&mut key), due(&mut range), due(&mut table)].map(|revision| revision.is_some())
    };
    assert_eq!(woken(&store, 4, 1), [false, false, true]);
    assert_eq!(woken(&store, 5, 1), [true, true, true]);
    assert_eq!(woken(&store, 7, 1), [false, true, true]);
    assert_eq!(woken(&store, 8, 1), [false, false, true]);
    assert_eq!(woken(&store, 5, 1), [false, false, false], "an equal row is no change");
    remove(&store, 5);
    assert_eq!([due(&mut key), due(&mut range), due(&mut table)].map(|r| r.is_some()), [true, true, true]);
    let mut txn = store.write();
    txn.put(backend(5, 5, 5));
    txn.commit();
    assert_eq!([due(&mut key), due(&mut range), due(&mut table)].map(|r| r.is_some()), [false, false, false]);
}

#[test]
fn one_of_many_changed_rows_is_enough_and_none_of_them_wakes_others() {
    let store = store();
    let mut here: Vec<_> = (0..100).map(|id| store.watch::<Node>(Watched::Key(id * 7))).collect();
    let mut there: Vec<_> =
        (0..100).map(|id| store.watch::<Node>(Watched::Range(1_000 + id, 1_001 + id))).collect();
    for _ in 0..2 {
        // More rows than watches, and more watches than rows.
        commit_nodes(&store, 0..1_000, 1);
        assert!(here.iter_mut().all(|watch| due(watch).is_some()));
        assert!(there.iter_mut().all(|watch| due(watch).is_none()));
        commit_nodes(&store, [7], 2);
        assert_eq!(here.iter_mut().filter_map(due).count(), 1);
        commit_nodes(&store, [1_050], store.snapshot().revision());
        assert_eq!(there.iter_mut().filter_map(due).count(), 2);
        commit_nodes(&store, 0..1_000, 2);
        commit_nodes(&store, 0..1_000, 3);
        assert!(here.iter_mut().all(|watch| due(watch).is_some() && due(watch).is_none()), "twice is once");
    }
}

#[test]
fn what_was_seen_already_does_not_wake_again() {
    let store = store();
    let mut watch = store.watch::<Node>(Watched::Key(1));
    commit_nodes(&store, [1], 1);
    assert!(watch.has_changed());
    assert_eq!(watch.snapshot().revision(), 1);
    assert!(!watch.has_changed());
    assert_eq!(due(&mut watch), None);
    commit_nodes(&store, [1], 2);
    assert_eq!(due(&mut watch), Some(2));
}

#[test]
fn a_dropped_watch_is_no_longer_registered_and_an_aborted_transaction_wakes_nobody() {
    let store = store();
    let mut watches: Vec<_> = [Watched::Key(1), Watched::Key(1), Watched::Range(1, 2), Watched::Table]
        .map(|watched| store.watch::<Node>(watched))
        .into();
    assert_eq!(store.watches::<Node>(), 4);
    let mut txn = store.write();
    txn.put(crate::support::node(1, 1));
    txn.abort();
    assert!(watches.iter().all(|watch| !watch.has_changed()));
    watches.remove(0);
    commit_nodes(&store, [1], 1);
    assert!(watches.iter_mut().all(|watch| due(watch).is_some()));
    drop(watches);
    assert_eq!((store.watches::<Node>(), store.watches::<Backend>()), (0, 0));
}

#[tokio::test]
async fn a_waiting_task_is_woken_and_sees_what_woke_it() {
    let store = store();
    let key = BackendKey { service: 1, place: 2 };
    let mut watch = store.watch::<Backend>(Watched::Key(key));
    let task = tokio::spawn(async move { watch.changed().await.backends.get(key).map(|row| row.weight) });
    tokio::task::yield_now().await;
    let mut txn = store.write();
    txn.put(backend(1, 2, 3));
    txn.commit();
    assert_eq!(task.await.unwrap(), Some(3));
}

#[tokio::test]
async fn a_wait_that_was_given_up_loses_nothing() {
    let store = store();
    let mut watch = store.watch::<Node>(Watched::Table);
    for value in 1..100 {
        {
            let mut wait = pin!(watch.changed());
            assert!(wait.as_mut().poll(&mut Context::from_waker(Waker::noop())).is_pending());
            commit_nodes(&store, [1], value);
        }
        assert_eq!(watch.changed().await.nodes.get(1).unwrap().value, value);
    }
}

/// Does at once, in the thread that wakes, what a task would do later.
struct Writes(Store<Tables>);

impl Wake for Writes {
    fn wake(self: Arc<Self>) {
        drop(self.0.watch::<Node>(Watched::Key(1)));
        commit_nodes(&self.0, [2], 1);
    }
}

#[test]
fn whoever_is_woken_may_write_and_watch_at_once() {
    let (done, ended) = mpsc::channel();
    std::thread::spawn(move || {
        let store = store();
        let mut watch = store.watch::<Node>(Watched::Key(1));
        let waker = Waker::from(Arc::new(Writes(store.clone())));
        let mut wait = pin!(watch.changed());
        assert!(wait.as_mut().poll(&mut Context::from_waker(&waker)).is_pending());
        commit_nodes(&store, [1], 1);
        done.send(store.snapshot().nodes.len()).unwrap();
    });
    let rows = ended.recv_timeout(Duration::from_secs(30));
    assert_eq!(rows.expect("a commit wakes while it holds a lock"), 2);
}
