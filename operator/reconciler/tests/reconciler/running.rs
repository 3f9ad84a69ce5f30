//! The reconciler on its thread: waiting, questions, full passes, the end.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use epic_reconciler::{
    Ask, Backoff, ConfirmPrune, FakeMaps, Faults, FaultyMaps, Handle, MapError, Maps, Op, Reconciler,
    Running, Settings, run,
};
use epic_store::Store;
use tokio::sync::watch;
use tokio::time::timeout;

use crate::support::{Checked, commit, node, put_whole, remove_whole};
use crate::toy::{Key, Node, Renderer, RowId, Tables, Toy, Value};

const LONG: Duration = Duration::from_secs(60);

struct Started<M> {
    store: Store<Tables>,
    handle: Handle<RowId, u32>,
    running: Running<M>,
    stop: watch::Sender<bool>,
}

fn quick() -> Settings {
    let backoff = Backoff { min: Duration::from_millis(1), max: Duration::from_millis(5) };
    Settings { backoff, ask_again: Duration::from_millis(1), ..Settings::default() }
}

fn start<M: Maps<Toy> + 'static>(maps: M, settings: Settings, confirm: impl ConfirmPrune<Key>) -> Started<M> {
    let store = Store::new();
    let reconciler = Reconciler::new(store.reader(), maps, Renderer::default(), settings).unwrap();
    let (stop, stopped) = watch::channel(false);
    let (handle, running) = run(reconciler, confirm, stopped).unwrap();
    Started { store, handle, running, stop }
}

fn yes(_: Ask<Key>) -> bool {
    true
}

/// Stops it; gives its maps back.
async fn stop<M>(started: Started<M>) -> M {
    started.stop.send(true).unwrap();
    timeout(LONG, started.running.join()).await.unwrap()
}

#[tokio::test]
async fn who_waits_for_a_revision_or_a_scope_is_woken_when_the_maps_hold_it() {
    let mut started = start(Checked::new(FakeMaps::new()), quick(), yes);
    let revision = commit(&started.store, |txn| (1..=3).for_each(|id| put_whole(txn, id)));
    let progress = timeout(LONG, started.handle.wait_until_reconciled(revision)).await.unwrap();
    assert!(progress.covers(revision) && progress.health.is_ok(), "{}", progress.health);
    let revision = commit(&started.store, |txn| put_whole(txn, 4));
    let waited = started.handle.wait_until_scope_reconciled(4, revision);
    assert!(timeout(LONG, waited).await.unwrap().covers_scope(4, revision));
    assert_eq!(stop(started).await.maps.len(), 16);
}

#[tokio::test]
async fn failures_are_retried_until_they_succeed() {
    let faults = Faults { probability: 0.7, writes_left: None };
    let mut started = start(FaultyMaps::new(Checked::new(FakeMaps::new()), faults, 3), quick(), yes);
    let revision = commit(&started.store, |txn| (1..=3).for_each(|id| put_whole(txn, id)));
    timeout(LONG, started.handle.wait_until_reconciled(revision)).await.unwrap();
    let revision = commit(&started.store, |txn| (1..=3).for_each(|id| remove_whole(txn, id)));
    timeout(LONG, started.handle.wait_until_reconciled(revision)).await.unwrap();
    assert!(stop(started).await.inner().maps.is_empty());
}

#[tokio::test]
async fn a_big_removal_waits_until_it_is_confirmed_and_is_asked_about_again() {
    let (allowed, asked) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
    let (told, mut questions) = watch::channel(None);
    let confirm = {
        let (allowed, asked) = (Arc::clone(&allowed), Arc::clone(&asked));
        move |ask: Ask<Key>| {
            asked.fetch_add(1, Ordering::SeqCst);
            told.send_replace(Some(ask));
            allowed.load(Ordering::SeqCst)
        }
    };
    let mut started = start(Checked::new(FakeMaps::new()), quick(), confirm);
    let revision = commit(&started.store, |txn| (1..=3).for_each(|id| put_whole(txn, id)));
    timeout(LONG, started.handle.wait_until_reconciled(revision)).await.unwrap();
    let revision = commit(&started.store, |txn| (1..=2).for_each(|id| remove_whole(txn, id)));
    let ask = timeout(LONG, questions.wait_for(Option::is_some)).await.unwrap().unwrap().clone().unwrap();
    assert_eq!((ask.entries.len(), ask.held, ask.revision), (8, 12, revision));
    while asked.load(Ordering::SeqCst) < 3 {
        timeout(LONG, questions.changed()).await.unwrap().unwrap();
    }
    let progress = started.handle.progress();
    assert_eq!((progress.health.entries, progress.health.unconfirmed), (12, 8));
    allowed.store(true, Ordering::SeqCst);
    let progress = timeout(LONG, started.handle.wait_until_reconciled(revision)).await.unwrap();
    assert_eq!((progress.health.entries, progress.health.unconfirmed), (4, 0));
    stop(started).await;
}

/// Never answers.
struct Silent;

impl<K> ConfirmPrune<K> for Silent {
    fn confirm_prune(&mut self, _: Ask<K>) -> Pin<Box<dyn Future<Output = bool> + Send + '_>> {
        Box::pin(std::future::pending())
    }
}

#[tokio::test]
async fn an_answer_that_never_comes_holds_up_nothing_but_what_was_asked_about() {
    let mut started = start(Checked::new(FakeMaps::new()), quick(), Silent);
    let revision = commit(&started.store, |txn| {
        (1..=3).for_each(|id| put_whole(txn, id));
        txn.put(node(1, 1));
    });
    timeout(LONG, started.handle.wait_until_reconciled(revision)).await.unwrap();
    let gone = commit(&started.store, |txn| (1..=3).for_each(|id| remove_whole(txn, id)));
    let mut progress = started.handle.watch();
    timeout(LONG, progress.wait_for(|p| p.health.unconfirmed == 12)).await.unwrap().unwrap();

    let revision = commit(&started.store, |txn| put_whole(txn, 7));
    timeout(LONG, started.handle.wait_until_scope_reconciled(7, revision)).await.unwrap();
    let revision = commit(&started.store, |txn| drop(txn.remove::<Node>(1)));
    let progress = timeout(LONG, started.handle.wait_until_attempted(revision)).await.unwrap();
    assert!(progress.covers_node(revision) && !progress.covers(gone));
    let maps = stop(started).await.maps;
    assert!(maps.get(&Key::Node(1)).is_none() && maps.len() == 16);
}

#[tokio::test]
async fn a_full_pass_on_demand_or_by_time_puts_back_what_somebody_else_removed() {
    let shared = Shared::default();
    let mut started = start(shared.clone(), quick(), yes);
    let revision = commit(&started.store, |txn| put_whole(txn, 1));
    timeout(LONG, started.handle.wait_until_reconciled(revision)).await.unwrap();
    let writes = |shared: &Shared| shared.0.lock().writes();
    let before = writes(&shared);
    shared.0.lock().write(Op { key: Key::Frontend(1), value: None }).unwrap();
    let mut progress = started.handle.watch();
    started.handle.refresh();
    timeout(LONG, progress.wait_for(|p| p.writes == 5)).await.unwrap().unwrap();
    assert_eq!(writes(&shared), before + 2);

    shared.0.lock().write(Op { key: Key::Node(9), value: Some(Value::Node(9)) }).unwrap();
    started.handle.prune();
    timeout(LONG, progress.wait_for(|p| p.writes == 6)).await.unwrap().unwrap();
    stop(started).await;
    assert!(shared.0.lock().get(&Key::Node(9)).is_none());

    let often = Settings { refresh: Duration::from_millis(5), ..quick() };
    let shared = Shared::default();
    let mut started = start(shared.clone(), often, yes);
    let revision = commit(&started.store, |txn| put_whole(txn, 1));
    timeout(LONG, started.handle.wait_until_reconciled(revision)).await.unwrap();
    shared.0.lock().write(Op { key: Key::Frontend(1), value: None }).unwrap();
    let mut progress = started.handle.watch();
    timeout(LONG, progress.wait_for(|p| p.writes == 5)).await.unwrap().unwrap();
    stop(started).await;
}

#[tokio::test]
async fn it_stops_at_once_also_in_the_middle_of_a_great_change_and_when_its_owner_is_gone() {
    let started = start(FakeMaps::<Toy>::new(), quick(), yes);
    commit(&started.store, |txn| (1..=20_000).for_each(|id| put_whole(txn, id)));
    let mut progress = started.handle.watch();
    timeout(LONG, progress.wait_for(|p| p.writes > 0)).await.unwrap().unwrap();
    assert!(stop(started).await.len() <= 80_000);

    let Started { handle, running, stop, .. } = start(FakeMaps::<Toy>::new(), quick(), yes);
    drop(stop);
    assert!(timeout(LONG, running.join()).await.unwrap().is_empty());
    // Without a reconciler what it said last stands: nobody waits for ever.
    let mut waiting = handle;
    assert!(!timeout(LONG, waiting.wait_until_reconciled(5)).await.unwrap().covers(5));
}

/// Maps that somebody else can reach too.
#[derive(Clone, Default)]
struct Shared(Arc<parking_lot::Mutex<FakeMaps<Toy>>>);

impl Maps<Toy> for Shared {
    fn read(&self, map: usize, each: &mut dyn FnMut(Key, Value)) -> Result<(), MapError> {
        self.0.lock().read(map, each)
    }
    fn apply(&mut self, map: usize, batch: &[Op<Toy>], done: &mut dyn FnMut(usize, Result<(), MapError>)) {
        self.0.lock().apply(map, batch, done);
    }
}
