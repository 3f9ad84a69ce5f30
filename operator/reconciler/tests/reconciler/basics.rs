//! What every layout and every set of tables can rely on.

use std::time::Instant;

use epic_reconciler::Status;
use epic_store::{Row, Store};

use crate::support::{NOTHING, backend, checked, commit, node, put_whole, remove_whole, settle};
use crate::toy::{Backend, Key, Node, RowId, Tables, Value};

#[test]
fn rows_become_entries_and_go_with_them() {
    let store = Store::<Tables>::new();
    let mut engine = checked(&store);
    let revision = commit(&store, |txn| {
        put_whole(txn, 1);
        txn.put(backend(1, 1, 7));
        txn.put(node(1, 5));
    });
    let round = settle(&mut engine, Instant::now(), false);
    assert_eq!((round.writes, engine.maps().maps.len()), (7, 7));
    let value = engine.maps().maps.get(&Key::Frontend(1)).copied();
    assert_eq!(value, Some(Value::Frontend { service: 1, nat: 1, count: 2, generation: 1 }));
    let progress = engine.progress();
    assert!(
        progress.covers(revision) && progress.covers_scope(1, revision) && progress.covers_node(revision)
    );
    assert_eq!(progress.status(RowId::Service(1), revision), Status::Done);
    assert_eq!(progress.health.to_string(), "OK, 7 entries");
    assert!(engine.is_idle());

    let revision = commit(&store, |txn| {
        remove_whole(txn, 1);
        txn.remove::<Backend>(backend(1, 1, 7).key());
        txn.remove::<Node>(1);
    });
    settle(&mut engine, Instant::now(), true);
    assert!(engine.maps().maps.is_empty() && engine.progress().covers(revision));
    assert_eq!(engine.footprint(), NOTHING);
}
