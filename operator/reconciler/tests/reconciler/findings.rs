//! The sequences of what went wrong before, one by one.

use std::time::{Duration, Instant};

use epic_reconciler::{Budget, FakeMaps, Status};
use epic_store::Store;

use crate::support::{
    Checked, Engine, NOTHING, backend, checked, commit, confirmed, engine, error, frontend, node, put_whole,
    remove_whole, service, settle, settle_for_good, status,
};
use crate::toy::{
    BACKENDS, Backend, FRONTENDS, Frontend, Key, Node, Place, RowId, Service, Tables, Value, Vip, source_of,
};

// A removal of more than half waits, and nothing else does.

#[test]
fn while_a_big_removal_is_asked_about_writes_and_further_removals_go_on() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    commit(&store, |txn| {
        (1..=4).for_each(|id| put_whole(txn, id));
        txn.put(node(1, 1));
    });
    settle(&mut engine, Instant::now(), false);
    let gone = commit(&store, |txn| (1..=4).for_each(|id| remove_whole(txn, id)));
    let ask = confirmed(settle(&mut engine, Instant::now(), false).ask);
    assert_eq!((ask.entries.len(), ask.held, ask.revision), (16, 17, gone));
    assert_eq!(ask.to_string(), "16 of 17 map entries are to be removed by the tables of revision 2");
    assert_eq!(engine.progress().health.unconfirmed, 16);

    // A new service is written; what nobody asked about is removed.
    commit(&store, |txn| {
        put_whole(txn, 9);
        txn.remove::<Node>(1);
    });
    let round = settle(&mut engine, Instant::now(), false);
    assert_eq!((engine.maps().maps.len(), round.ask.as_ref()), (20, Some(&ask)));
    assert!(
        engine.maps().maps.get(&Key::Node(1)).is_none()
            && engine.maps().maps.get(&Key::Frontend(9)).is_some()
    );
    let progress = engine.progress();
    assert!(!progress.covers(gone) && progress.covers_scope(9, gone + 1) && progress.covers_node(gone + 1));
    assert!(!progress.covers_scope(1, gone));

    engine.confirm(&ask);
    settle(&mut engine, Instant::now(), false);
    assert_eq!((engine.maps().maps.len(), engine.progress().covers(gone)), (4, true));
}

#[test]
fn an_answer_is_for_the_set_that_was_asked_about() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    commit(&store, |txn| (1..=20).for_each(|id| put_whole(txn, id)));
    settle(&mut engine, Instant::now(), false);
    commit(&store, |txn| (1..=15).for_each(|id| remove_whole(txn, id)));
    let first = confirmed(settle(&mut engine, Instant::now(), false).ask);
    assert_eq!(first.entries.len(), 60);

    // One comes back, and all others go too: most of what is left, so that is asked about as well.
    commit(&store, |txn| {
        put_whole(txn, 1);
        (16..=20).for_each(|id| remove_whole(txn, id));
    });
    let second = confirmed(settle(&mut engine, Instant::now(), false).ask);
    assert_eq!((second.entries.len(), engine.maps().maps.len()), (76, 80));
    engine.confirm(&first);
    let rest = confirmed(settle(&mut engine, Instant::now(), false).ask);
    assert_eq!((rest.entries.len(), engine.maps().maps.len()), (20, 24));
    engine.confirm(&rest);
    settle(&mut engine, Instant::now(), false);
    assert_eq!(engine.maps().maps.len(), 4);
    assert!(engine.is_idle());
}

#[test]
fn a_question_lapses_when_most_of_what_it_is_about_comes_back() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    commit(&store, |txn| (1..=10).for_each(|id| put_whole(txn, id)));
    settle(&mut engine, Instant::now(), false);
    commit(&store, |txn| (1..=6).for_each(|id| remove_whole(txn, id)));
    assert_eq!(confirmed(settle(&mut engine, Instant::now(), false).ask).entries.len(), 24);
    commit(&store, |txn| (1..=4).for_each(|id| put_whole(txn, id)));
    let round = settle(&mut engine, Instant::now(), false);
    assert_eq!((round.ask, engine.maps().maps.len()), (None, 32));
    assert!(engine.is_idle());
}

#[test]
fn a_removal_taken_in_by_pieces_is_recognised_as_a_big_one() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    commit(&store, |txn| (1..=100).for_each(|id| put_whole(txn, id)));
    settle(&mut engine, Instant::now(), false);
    commit(&store, |txn| (1..=80).for_each(|id| remove_whole(txn, id)));
    let small = Budget { rows: 7, operations: 3 };
    let mut round = engine.round(Instant::now(), small);
    while round.more {
        assert_eq!(engine.maps().maps.len(), 400);
        assert!(round.ask.is_none_or(|ask| ask.entries.len() == 320), "never about a part of it");
        round = engine.round(Instant::now(), small);
    }
    assert_eq!(confirmed(round.ask).entries.len(), 320);
}

// Progress is kept apart by scope, and says who fails.

#[test]
fn a_full_map_of_one_service_neither_delays_nor_worries_another() {
    let store = Store::<Tables>::new();
    let mut maps = Checked::new(FakeMaps::new());
    maps.maps.set_room(FRONTENDS, 1);
    let mut engine = engine(&store, maps);
    let now = Instant::now();
    commit(&store, |txn| put_whole(txn, 1));
    settle(&mut engine, now, false);
    let second = commit(&store, |txn| put_whole(txn, 2));
    settle(&mut engine, now, false);
    let progress = engine.progress();
    assert!(
        !progress.covers(second) && progress.covers_scope(1, second) && !progress.covers_scope(2, second)
    );
    assert!(progress.covers_node(second) && progress.health.is_node_ok() && !progress.health.is_ok());
    assert_eq!(status(&engine, RowId::Frontend(Vip { service: 1, vip: 1 })), Status::Done);
    assert_eq!(error(&engine, RowId::Frontend(Vip { service: 2, vip: 2 })), "frontends[2]: the map is full");
    assert_eq!(status(&engine, RowId::Service(2)), Status::Done);
    assert!(progress.behind.get(&Some(2)).is_some_and(|behind| behind.lowest == second));

    // It is known since when; the room is given to who waits as soon as there is any.
    let later = now + Duration::from_secs(9);
    settle(&mut engine, later, false);
    let errors = &engine.progress().health.scopes;
    assert!(
        errors.has_lasted(later, Duration::from_secs(9))
            && !errors.has_lasted(later, Duration::from_secs(10))
    );
    commit(&store, |txn| drop(txn.remove::<Frontend>(Vip { service: 1, vip: 1 })));
    settle(&mut engine, later, false);
    assert!(engine.progress().covers(second) && engine.is_idle());
}

#[test]
fn an_error_of_the_node_is_one_of_all() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    engine.maps_mut().refuse = vec![Key::Node(1)];
    let revision = commit(&store, |txn| {
        txn.put(node(1, 1));
        put_whole(txn, 1);
    });
    settle(&mut engine, Instant::now(), false);
    let progress = engine.progress();
    assert!(!progress.covers_node(revision) && progress.covers_scope(1, revision));
    assert!(!progress.health.is_node_ok() && progress.health.scopes.is_empty());
    assert_eq!(progress.health.to_string(), "degraded, 4 entries; nodes 1: nodes[1]: refused");
}

// Commits that one round takes in together are told apart, on the safe side.

#[test]
fn a_failure_counts_from_the_first_commit_that_the_round_took_in() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    engine.maps_mut().refuse = vec![Key::Node(1)];
    let first = commit(&store, |txn| {
        txn.put(node(1, 1));
    });
    let second = commit(&store, |txn| {
        txn.put(node(2, 1));
    });
    settle(&mut engine, Instant::now(), false);
    assert!(!engine.progress().covers(first) && !engine.progress().covers(second));
    // Rendering it again does not move its revision forward.
    commit(&store, |txn| {
        txn.put(node(1, 2));
    });
    settle(&mut engine, Instant::now(), false);
    assert!(!engine.progress().covers(first));
    engine.maps_mut().refuse.clear();
    settle_for_good(&mut engine, Instant::now());
    assert!(engine.progress().covers(store.snapshot().revision()));
}

#[test]
fn a_row_that_cannot_be_rendered_keeps_the_revision_since_which_it_waits() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    let first = commit(&store, |txn| {
        txn.put(backend(1, 0, 5));
    });
    settle(&mut engine, Instant::now(), false);
    let second = commit(&store, |txn| {
        txn.put(Backend { weight: 9, ..backend(1, 0, 5) });
    });
    settle(&mut engine, Instant::now(), false);
    assert_eq!(error(&engine, RowId::Backend(Place { service: 1, place: 0 })), "service 1 is not there yet");
    assert!(!engine.progress().covers(first) && !engine.progress().covers_scope(1, first));
    assert!(engine.progress().covers_scope(2, second));
    commit(&store, |txn| {
        txn.put(service(1));
    });
    settle(&mut engine, Instant::now(), false);
    assert!(engine.progress().covers(store.snapshot().revision()));
}

// Two rows that disagree on an entry.

#[test]
fn who_came_first_keeps_an_entry_and_the_other_row_says_who_has_it() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    commit(&store, |txn| put_whole(txn, 2));
    settle(&mut engine, Instant::now(), false);
    // The same id for another service, and a frontend of that.
    commit(&store, |txn| {
        txn.put(Service { nat: 2, ..service(1) });
        txn.put(frontend(1, 1));
    });
    settle(&mut engine, Instant::now(), false);
    assert_eq!(engine.maps().maps.get(&Key::RevNat(2)), Some(&Value::RevNat { service: 2 }));
    assert!(engine.maps().maps.get(&Key::Frontend(1)).is_none(), "no way leads to another's entry");
    assert_eq!(
        error(&engine, RowId::Service(1)),
        "revnat[2] is as services 2 wants it; it can be had once services 2 leaves it"
    );
    assert_eq!(
        error(&engine, RowId::Frontend(Vip { service: 1, vip: 1 })),
        "frontends[1] waits for revnat[2], which is of 2 and not of 1"
    );
    assert_eq!(status(&engine, RowId::Service(2)), Status::Done);
    // Whatever the owner changes, it stays the owner; when it leaves, the next has it.
    commit(&store, |txn| {
        txn.put(Service { generation: 5, ..service(2) });
    });
    settle(&mut engine, Instant::now(), false);
    assert_eq!(engine.maps().maps.get(&Key::RevNat(2)), Some(&Value::RevNat { service: 2 }));
    commit(&store, |txn| {
        txn.put(Service { nat: 7, ..service(2) });
    });
    settle(&mut engine, Instant::now(), false);
    assert_eq!(engine.maps().maps.get(&Key::RevNat(2)), Some(&Value::RevNat { service: 1 }));
    assert!(engine.is_idle() && engine.progress().covers(store.snapshot().revision()));
}

#[test]
fn after_a_restart_the_owner_is_who_wants_what_is_held_even_if_its_row_comes_late() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    commit(&store, |txn| {
        txn.put(service(200));
    });
    settle(&mut engine, Instant::now(), false);
    // A great change: a hundred services before it by name, one of which wants its id.
    commit(&store, |txn| {
        (1..=100).for_each(|id| {
            txn.put(service(id));
        });
        txn.put(Service { nat: 200, ..service(1) });
    });
    let maps = engine.into_maps();
    let mut engine = crate::support::engine(&store, maps);
    let writes = engine.maps().maps.writes();
    let small = Budget { rows: 10, operations: 100 };
    while engine.round(Instant::now(), small).more {}
    assert_eq!(engine.maps().maps.get(&Key::RevNat(200)), Some(&Value::RevNat { service: 200 }));
    assert_eq!(engine.maps().maps.writes(), writes + 99);
    assert!(error(&engine, RowId::Service(1)).contains("services 200"));
}

#[test]
fn after_a_restart_the_least_row_owns_an_entry_that_nobody_wants_as_it_is() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    commit(&store, |txn| {
        txn.put(Service { nat: 5, ..service(9) });
    });
    settle(&mut engine, Instant::now(), false);
    commit(&store, |txn| {
        txn.remove::<Service>(9);
        txn.put(Service { nat: 5, ..service(4) });
        txn.put(Service { nat: 5, ..service(3) });
    });
    let mut engine = crate::support::engine(&store, engine.into_maps());
    settle(&mut engine, Instant::now(), false);
    assert_eq!(engine.maps().maps.get(&Key::RevNat(5)), Some(&Value::RevNat { service: 3 }));
}

#[test]
fn an_entry_whose_owner_leaves_goes_to_the_next() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    commit(&store, |txn| {
        put_whole(txn, 1);
        txn.put(service(7));
        txn.put(backend(1, 1, 1));
    });
    settle(&mut engine, Instant::now(), false);
    let second = RowId::Backend(Place { service: 1, place: 1 });
    assert!(error(&engine, second).contains("backends Place { service: 1, place: 0 }"));
    commit(&store, |txn| drop(txn.remove::<Backend>(Place { service: 1, place: 0 })));
    settle(&mut engine, Instant::now(), true);
    assert_eq!(status(&engine, second), Status::Done);
    assert_eq!(
        engine.maps().maps.get(&Key::Backend(1)),
        Some(&Value::Backend { service: 1, place: 1, weight: 1 })
    );
}

// Whose an entry is.

#[test]
fn an_id_that_moves_to_another_service_is_rewritten_only_when_nothing_of_the_old_one_points_to_it() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    commit(&store, |txn| {
        put_whole(txn, 1);
        put_whole(txn, 2);
    });
    settle(&mut engine, Instant::now(), false);
    // Backend 1 goes from service 1 to service 2 and backend 2 the other way: `Checked` looks after every write.
    commit(&store, |txn| {
        txn.put(backend(1, 0, 2));
        txn.put(backend(2, 0, 1));
        txn.put(Service { nat: 2, ..service(1) });
        txn.put(Service { nat: 1, ..service(2) });
    });
    settle(&mut engine, Instant::now(), false);
    assert_eq!(
        engine.maps().maps.get(&Key::Backend(1)),
        Some(&Value::Backend { service: 2, place: 0, weight: 1 })
    );
    assert_eq!(engine.maps().maps.get(&Key::RevNat(1)), Some(&Value::RevNat { service: 2 }));
    assert!(engine.is_idle());
}

#[test]
fn a_service_that_cannot_be_rewritten_gives_up_an_id_that_is_another_s_now() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    commit(&store, |txn| put_whole(txn, 1));
    settle(&mut engine, Instant::now(), false);
    engine.maps_mut().refuse = vec![Key::Backend(9)];
    commit(&store, |txn| {
        txn.put(backend(1, 0, 9));
        txn.put(service(2));
        txn.put(backend(2, 0, 1));
    });
    settle(&mut engine, Instant::now(), false);
    let progress = engine.progress();
    assert!(progress.covers_scope(2, store.snapshot().revision()), "{}", progress.health);
    assert!(!progress.covers_scope(1, 1), "what the maps held of it is gone for a while");
    engine.maps_mut().refuse.clear();
    settle_for_good(&mut engine, Instant::now());
    assert!(engine.is_idle() && engine.maps().maps.len() == 7);
}

#[test]
fn a_full_map_lets_a_backend_be_replaced() {
    let store = Store::<Tables>::new();
    let mut maps = Checked::new(FakeMaps::new());
    maps.maps.set_room(BACKENDS, 1);
    let mut engine = engine(&store, maps);
    commit(&store, |txn| put_whole(txn, 1));
    settle(&mut engine, Instant::now(), false);
    commit(&store, |txn| {
        txn.put(backend(1, 0, 2));
    });
    settle_for_good(&mut engine, Instant::now());
    assert_eq!(
        engine.maps().maps.get(&Key::Slot { service: 1, index: 0 }),
        Some(&Value::Slot { service: 1, backend: 2 })
    );
    assert!(engine.is_idle());
}

// Rows that move, and rows of many entries.

#[test]
fn a_row_that_changes_its_scope_is_rewritten_without_a_gap_and_keeps_neither_scope_waiting_for_the_other() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    let put = |value: u32| {
        commit(&store, |txn| {
            txn.put(node(1, value));
        })
    };
    put(5);
    settle(&mut engine, Instant::now(), false);
    let lent = put(150);
    let round = settle(&mut engine, Instant::now(), false);
    assert_eq!((round.writes, engine.maps().removals), (1, 0));
    let progress = engine.progress();
    assert!(progress.covers_node(lent) && progress.covers_scope(150, lent) && engine.is_idle());

    // The next one cannot write it: what the last one had there goes all the same.
    engine.maps_mut().unlucky = Some(250);
    let again = put(250);
    settle(&mut engine, Instant::now(), false);
    let progress = engine.progress();
    assert!(progress.covers_scope(150, again) && !progress.covers_scope(250, again), "{}", progress.health);
    assert_eq!(error(&engine, RowId::Node(1)), "nodes[1]: refused");
    assert!(engine.maps().maps.is_empty());
    engine.maps_mut().unlucky = None;
    settle_for_good(&mut engine, Instant::now());
    assert!(engine.is_idle() && engine.maps().maps.get(&Key::Node(1)) == Some(&Value::Node(250)));
    commit(&store, |txn| drop(txn.remove::<Node>(1)));
    settle(&mut engine, Instant::now(), true);
    assert_eq!(engine.footprint(), NOTHING);
}

#[test]
fn of_a_service_with_many_backends_only_what_differs_is_written() {
    let store = Store::<Tables>::new();
    let mut engine = engine(&store, FakeMaps::new());
    commit(&store, |txn| {
        txn.put(service(1));
        txn.put(frontend(1, 1));
        (0..1_000).for_each(|place| {
            txn.put(backend(1, place, place + 1));
        });
    });
    settle(&mut engine, Instant::now(), false);
    assert_eq!(engine.maps().len(), 2_002);
    commit(&store, |txn| {
        txn.put(Backend { weight: 7, ..backend(1, 500, 501) });
    });
    assert_eq!(settle(&mut engine, Instant::now(), false).writes, 1);
    // The last backend goes: the frontend counts one less, a slot and the backend go.
    commit(&store, |txn| drop(txn.remove::<Backend>(Place { service: 1, place: 999 })));
    assert_eq!(settle(&mut engine, Instant::now(), false).writes, 3);
    assert!(engine.is_idle() && engine.maps().dangling().is_empty());
}

// What initializers mean.

#[test]
fn nothing_is_removed_before_every_initializer_has_completed() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    commit(&store, |txn| (1..=3).for_each(|id| put_whole(txn, id)));
    settle(&mut engine, Instant::now(), false);
    let maps = engine.into_maps();
    let store = Store::<Tables>::new();
    let listed = store.register_initializer("services");
    let mut engine = crate::support::engine(&store, maps);
    commit(&store, |txn| (1..=2).for_each(|id| put_whole(txn, id)));
    let round = settle(&mut engine, Instant::now(), true);
    assert_eq!((engine.maps().maps.len(), round.writes), (12, 0));
    assert_eq!(
        engine.progress().health.to_string(),
        "OK, 12 entries; not pruning before services has listed (entries that wait for it: 4)"
    );
    commit(&store, |txn| {
        txn.complete(&listed);
    });
    settle(&mut engine, Instant::now(), false);
    assert_eq!(engine.maps().maps.len(), 8);
    assert!(engine.is_idle());
}

#[test]
fn a_source_that_has_not_listed_holds_back_what_may_be_its_own_alone() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    commit(&store, |txn| (1..=4).for_each(|id| put_whole(txn, id)));
    settle(&mut engine, Instant::now(), false);
    let maps = engine.into_maps();
    let store = Store::<Tables>::new();
    let listed = store.register_initializer_of(source_of(Some(1)), "file");
    let mut engine = crate::support::engine(&store, maps);
    // Service 2 was deleted meanwhile; of 1 and 4 nobody has said anything yet.
    commit(&store, |txn| put_whole(txn, 3));
    settle(&mut engine, Instant::now(), false);
    let left = |engine: &Engine<Checked>| -> Vec<u32> {
        let vips = engine.maps().maps.content().filter_map(|(key, _)| match key {
            Key::Frontend(vip) => Some(*vip),
            _ => None,
        });
        vips.collect()
    };
    assert_eq!(left(&engine), [1, 3, 4]);
    let health = engine.progress().health;
    assert!(health.is_ok(), "{health}");
    assert_eq!((health.unlisted, health.entries), (8, 12));
    // What such a source takes back waits as well, what another does goes.
    commit(&store, |txn| put_whole(txn, 1));
    settle(&mut engine, Instant::now(), false);
    commit(&store, |txn| {
        remove_whole(txn, 1);
        remove_whole(txn, 3);
    });
    let ask = settle(&mut engine, Instant::now(), false).ask;
    assert_eq!(
        ask.map(|ask| (ask.entries.len(), ask.held)),
        Some((4, 4)),
        "of what is not of the source it is all"
    );
    settle(&mut engine, Instant::now(), true);
    assert_eq!(left(&engine), [1, 4]);
    // Who comes later holds back only what has not gone yet, asked about or not.
    let other = store.register_initializer_of(source_of(Some(3)), "cluster");
    commit(&store, |txn| {
        put_whole(txn, 4);
        txn.complete(&listed);
    });
    settle(&mut engine, Instant::now(), true);
    assert_eq!(left(&engine), [4]);
    let health = engine.progress().health;
    assert_eq!((health.waiting_for, health.unlisted), (vec!["cluster".into()], 0));
    commit(&store, |txn| {
        remove_whole(txn, 4);
        txn.complete(&other);
    });
    settle(&mut engine, Instant::now(), true);
    assert_eq!(engine.footprint(), NOTHING);
}
