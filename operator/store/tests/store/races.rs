//! Two committers and those who wait for them.

use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use epic_store::{Since, Watched};

use crate::support::{Node, commit_nodes, store};

/// Of each of two threads.
const COMMITS: u64 = 50_000;

/// D16: what is notified follows the swap and never goes back, so whoever waits for a revision does not sleep on.
#[test]
fn of_two_committers_neither_leaves_an_older_revision_behind() {
    let store = store();
    let ended = AtomicBool::new(false);
    std::thread::scope(|scope| {
        let committers = [1, 2].map(|id| {
            let (store, any) = (&store, store.watch_any());
            scope.spawn(move || {
                for value in 0..COMMITS {
                    let revision = commit_nodes(store, [id], value);
                    assert!(*any.borrow() >= revision, "whoever waits for {revision} would sleep on");
                }
            })
        });
        let observer = scope.spawn(|| {
            let (any, mut seen) = (store.watch_any(), 0);
            while !ended.load(Ordering::Acquire) {
                let notified = *any.borrow();
                assert!(notified >= seen, "{notified} after {seen}");
                assert!(store.snapshot().revision() >= notified, "notified before it could be read");
                seen = notified;
            }
        });
        for committer in committers {
            committer.join().unwrap();
        }
        ended.store(true, Ordering::Release);
        observer.join().unwrap();
    });
    assert_eq!(*store.watch_any().borrow(), 2 * COMMITS);
    assert_eq!(store.snapshot().revision(), 2 * COMMITS);
}

#[test]
fn watches_and_iterators_end_with_the_last_commit_whoever_made_it() {
    let store = store();
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_time().build().unwrap();
    let until_last = |mut watch: epic_store::Watch<crate::support::Tables, Node>, id: u32| async move {
        let last =
            |nodes: &epic_store::Table<Node>| nodes.get(id).is_some_and(|row| row.value == COMMITS - 1);
        while !last(&watch.changed().await.nodes) {}
    };
    let waiting = [1, 2].map(|id| runtime.spawn(until_last(store.watch(Watched::Key(id)), id)));
    let mut changes = store.changes::<Node>(Since::Start);
    let iterating = runtime.spawn(async move {
        let mut values = [0; 2];
        while values != [COMMITS - 1; 2] {
            for change in changes.next().await.iter() {
                let row = change.row();
                let known = &mut values[row.id as usize - 1];
                assert!(row.value == 0 || row.value > *known, "{} after {known}", row.value);
                *known = row.value;
            }
        }
    });
    std::thread::scope(|scope| {
        for id in [1, 2] {
            let store = &store;
            scope.spawn(move || {
                for value in 0..COMMITS {
                    commit_nodes(store, [id], value);
                }
            });
        }
    });
    runtime.block_on(async {
        for task in waiting.into_iter().chain([iterating]) {
            let ended = tokio::time::timeout(Duration::from_secs(60), task).await;
            ended.expect("it sleeps although everything has been committed").unwrap();
        }
    });
    assert_eq!(store.watches::<Node>(), 0);
}
