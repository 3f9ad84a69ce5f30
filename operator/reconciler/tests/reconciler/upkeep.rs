//! What work costs, full passes, and what an earlier run left.

use std::time::{Duration, Instant};

use epic_reconciler::{Budget, FakeMaps, Render};
use epic_store::{Row, Store};

use crate::support::{
    Checked, NOTHING, backend, checked, commit, engine, node, put_whole, remove_whole, settle,
    settle_for_good,
};
use crate::toy::{Backend, Key, Node, Renderer, RowId, SLOTS, Tables, Value};

fn budget() -> Budget {
    Budget::default()
}

// Costs.

#[test]
fn a_thousand_of_a_full_map_get_room_one_by_one() {
    const N: u32 = 5_000;
    let store = Store::<Tables>::new();
    let mut maps = FakeMaps::new();
    maps.set_room(0, N as usize);
    let mut engine = engine(&store, maps);
    commit(&store, |txn| {
        (1..=2 * N).for_each(|id| {
            txn.put(node(id, 1));
        })
    });
    let now = Instant::now();
    settle(&mut engine, now, false);
    assert_eq!((engine.footprint().failures, engine.maps().len()), (N as usize, N as usize));
    // Each removal lets one in: as many tries as there is room, and no walk over all that fail.
    let rendered = engine.renderer().rendered;
    for id in 1..=N {
        commit(&store, |txn| drop(txn.remove::<Node>(id)));
        engine.round(now, budget());
        assert_eq!(engine.maps().len(), N as usize);
    }
    assert_eq!(engine.footprint().failures, 0);
    assert_eq!(engine.renderer().rendered - rendered, u64::from(N), "only who has room is rendered again");
    assert!(engine.progress().covers(store.snapshot().revision()));
}

#[test]
fn who_waits_for_a_target_is_woken_by_that_target_alone() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    let refused: Vec<Key> = (1..=20).map(Key::Backend).collect();
    engine.maps_mut().refuse = refused.clone();
    commit(&store, |txn| (1..=20).for_each(|id| put_whole(txn, id)));
    let now = Instant::now();
    settle(&mut engine, now, false);
    assert_eq!(engine.maps().maps.len(), 20, "reverse NAT alone needs no backend");
    engine.maps_mut().refuse.retain(|key| *key != Key::Backend(7));
    let rendered = engine.renderer().rendered;
    // A row of its own change: nothing else is due yet.
    commit(&store, |txn| {
        txn.put(Backend { weight: 3, ..backend(7, 0, 7) });
    });
    settle(&mut engine, now, false);
    assert_eq!(engine.maps().maps.len(), 23);
    assert!(engine.renderer().rendered - rendered <= 6, "{}", engine.renderer().rendered - rendered);
}

#[test]
fn batches_are_of_one_map_and_direction_and_bounded() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    commit(&store, |txn| {
        (1..=300).for_each(|id| {
            txn.put(node(id, 1));
        })
    });
    settle(&mut engine, Instant::now(), false);
    assert_eq!(engine.maps().batches, [256, 44]);
}

/// CPU time of this thread: what else runs on the machine does not count.
fn cpu() -> Duration {
    let text = std::fs::read_to_string("/proc/thread-self/schedstat").unwrap();
    Duration::from_nanos(text.split(' ').next().unwrap().parse().unwrap())
}

#[test]
fn one_change_overtakes_fifty_thousand() {
    let store = Store::<Tables>::new();
    let mut engine = engine(&store, FakeMaps::new());
    commit(&store, |txn| (1..=50_000).for_each(|id| put_whole(txn, id)));
    engine.round(Instant::now(), budget());
    let (mut times, mut value) = (Vec::new(), 0);
    loop {
        value += 1;
        let begun = cpu();
        let revision = commit(&store, |txn| {
            txn.put(node(1, value));
        });
        let rendered = engine.renderer().rendered;
        let round = engine.round(Instant::now(), budget());
        times.push(cpu() - begun);
        assert_eq!(engine.maps().get(&Key::Node(1)), Some(&Value::Node(value)), "by the very next round");
        assert!(engine.renderer().rendered - rendered <= 2 * budget().rows as u64);
        assert!(engine.progress().seen >= revision);
        if !round.more {
            break;
        }
    }
    assert!(times.len() > 100, "{} rounds", times.len());
    times.sort();
    let p99 = times[times.len() * 99 / 100];
    assert!(p99 < Duration::from_millis(20), "p99 {p99:?}");
    assert_eq!(engine.maps().len(), 200_001);
}

// Full passes.

#[test]
fn a_full_pass_corrects_what_somebody_else_changed_and_nothing_else() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    let revision = commit(&store, |txn| (1..=5).for_each(|id| put_whole(txn, id)));
    settle(&mut engine, Instant::now(), false);
    let op = |key, value| epic_reconciler::Op { key, value };
    let maps = &mut engine.maps_mut().maps;
    maps.write(op(Key::Frontend(1), None)).unwrap();
    maps.write(op(Key::RevNat(3), Some(Value::RevNat { service: 9 }))).unwrap();
    maps.write(op(Key::Node(8), Some(Value::Node(1)))).unwrap();
    maps.write(op(Key::Frontend(3), None)).unwrap();
    assert_eq!(settle(&mut engine, Instant::now(), false).writes, 0);
    let rendered = engine.renderer().rendered;
    engine.refresh();
    while engine.read_back().unwrap() {}
    assert!(engine.progress().covers(revision), "what was found is told with the next round");
    let round = engine.round(Instant::now(), budget());
    assert_eq!((round.writes, engine.maps().maps.len()), (4, 20));
    assert!(engine.renderer().rendered - rendered <= 4);
    assert!(engine.is_idle() && engine.progress().covers(revision));
}

#[test]
fn a_prune_removes_what_no_row_wants() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    commit(&store, |txn| put_whole(txn, 1));
    settle(&mut engine, Instant::now(), false);
    let stray = epic_reconciler::Op { key: Key::Node(8), value: Some(Value::Node(1)) };
    engine.maps_mut().maps.write(stray).unwrap();
    engine.prune();
    while engine.read_back().unwrap() {}
    assert_eq!(settle(&mut engine, Instant::now(), false).writes, 1);
    assert!(engine.maps().maps.get(&Key::Node(8)).is_none() && engine.is_idle());
}

#[test]
fn an_entry_of_an_earlier_run_that_cannot_be_removed_is_named() {
    let store = Store::<Tables>::new();
    let mut maps = Checked::new(FakeMaps::new());
    for node in 1..=3 {
        maps.maps.write(epic_reconciler::Op { key: Key::Node(node), value: Some(Value::Node(1)) }).unwrap();
    }
    maps.refuse = vec![Key::Node(3)];
    let mut engine = engine(&store, maps);
    commit(&store, |txn| {
        (1..=2).for_each(|id| {
            txn.put(node(id, 1));
        })
    });
    settle(&mut engine, Instant::now(), false);
    assert_eq!(
        engine.progress().health.to_string(),
        "degraded, 3 entries; nodes[3], which no row wants, cannot be removed: refused"
    );
    engine.maps_mut().refuse.clear();
    settle_for_good(&mut engine, Instant::now());
    assert_eq!(engine.progress().health.to_string(), "OK, 2 entries");
}

#[test]
fn a_row_that_was_removed_and_cannot_leave_is_behind_until_it_has() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    commit(&store, |txn| (1..=3).for_each(|id| put_whole(txn, id)));
    settle(&mut engine, Instant::now(), false);
    engine.maps_mut().refuse = vec![Key::Slot { service: 1, index: 0 }];
    let revision = commit(&store, |txn| remove_whole(txn, 1));
    settle(&mut engine, Instant::now(), false);
    let progress = engine.progress();
    assert!(!progress.covers_scope(1, revision) && progress.covers_scope(2, revision));
    let text = progress.failure(RowId::Service(1)).map(|failing| failing.text.to_string());
    assert_eq!(text.as_deref(), Some("slots[1/0] cannot be removed: refused"));
    // It comes back before that: nothing was lost.
    commit(&store, |txn| put_whole(txn, 1));
    settle(&mut engine, Instant::now(), false);
    assert!(engine.is_idle() && engine.maps().maps.len() == 12);
    engine.maps_mut().refuse.clear();
    commit(&store, |txn| (1..=3).for_each(|id| remove_whole(txn, id)));
    settle(&mut engine, Instant::now(), true);
    assert_eq!(engine.footprint(), NOTHING);
}

#[test]
fn a_renderer_is_told_once_what_the_maps_hold() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    commit(&store, |txn| put_whole(txn, 1));
    settle(&mut engine, Instant::now(), false);
    let engine = crate::support::engine(&store, engine.into_maps());
    assert_eq!(engine.renderer().adopted, 4);
    let row = backend(1, 0, 1);
    assert_eq!(Renderer::default().scope(&store.snapshot(), RowId::Backend(row.key())), Some(1));
    assert_eq!(SLOTS, 2);
}
