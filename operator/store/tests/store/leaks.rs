//! Rows live as long as somebody holds a table with them, and no longer.

use std::sync::Arc;

use epic_store::{Change, Column, Index, NonUnique, Row, Since, Store, Watched, tables};

/// A row that counts itself.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Counted {
    key: u32,
    group: u32,
    alive: Arc<()>,
}

pub(crate) struct ByGroup;

impl Index<Counted> for ByGroup {
    type Of = u32;
    type Kind = NonUnique;
    const NAME: &'static str = "group";

    fn of(row: &Counted) -> impl IntoIterator<Item = u32> {
        [row.group]
    }
}

impl Row for Counted {
    type Key = u32;
    type Indexes = (ByGroup,);

    fn key(&self) -> u32 {
        self.key
    }
    fn columns() -> &'static [Column<Self>] {
        const { &[Column::new("key", |row| row.key.into())] }
    }
}

tables! {
    /// One table.
    pub(crate) Tables {
        /// Of rows that are counted.
        counted: Counted,
    }
}

const ROWS: u32 = 1_000;

struct World {
    store: Store<Tables>,
    alive: Arc<()>,
}

impl World {
    fn new() -> Self {
        let world = Self { store: Store::new(), alive: Arc::new(()) };
        world.write(0);
        world
    }

    fn write(&self, group: u32) {
        let mut txn = self.store.write();
        for key in 0..ROWS {
            txn.put(Counted { key, group, alive: Arc::clone(&self.alive) });
        }
        txn.commit();
    }

    fn clear(&self) {
        let mut txn = self.store.write();
        (0..ROWS).for_each(|key| drop(txn.remove::<Counted>(key)));
        txn.commit();
    }

    fn rows(&self) -> usize {
        Arc::strong_count(&self.alive) - 1
    }
}

#[test]
fn a_row_is_in_memory_once_and_goes_when_it_is_replaced_or_removed() {
    let world = World::new();
    assert_eq!(world.rows(), ROWS as usize);
    world.write(1);
    assert_eq!(world.rows(), ROWS as usize);
    world.write(1);
    assert_eq!(world.rows(), ROWS as usize, "equal rows are dropped at once");
    world.clear();
    assert_eq!(world.rows(), 0);
    world.write(2);
    drop(world.store);
    assert_eq!(Arc::strong_count(&world.alive), 1);
}

#[test]
fn an_aborted_transaction_leaves_no_row() {
    let world = World::new();
    let mut txn = world.store.write();
    for key in 0..2 * ROWS {
        txn.put(Counted { key, group: 9, alive: Arc::clone(&world.alive) });
    }
    txn.abort();
    assert_eq!(world.rows(), ROWS as usize);
}

#[test]
fn an_iterator_holds_the_one_table_it_saw_until_it_is_polled_or_dropped() {
    let world = World::new();
    let mut polled = world.store.changes::<Counted>(Since::Now);
    let dropped = world.store.changes::<Counted>(Since::Now);
    for group in 1..20 {
        world.write(group);
    }
    assert_eq!(world.rows(), 2 * ROWS as usize, "what was seen and what is there, nothing between");
    world.clear();
    assert_eq!(world.rows(), ROWS as usize);
    assert_eq!(
        polled.poll().iter().filter(|change| matches!(change, Change::Removed(_))).count(),
        ROWS as usize
    );
    drop(dropped);
    assert_eq!(world.rows(), 0);
    drop(polled);
    assert_eq!(world.store.watches::<Counted>(), 0);
}

#[test]
fn watches_hold_no_row_and_nothing_of_them_stays() {
    let world = World::new();
    for round in 0..3 {
        let watches: Vec<_> = (0..ROWS)
            .flat_map(|key| [Watched::Key(key), Watched::Range(key, key + 9), Watched::Table])
            .map(|watched| world.store.watch::<Counted>(watched))
            .collect();
        world.write(round + 1);
        assert_eq!((watches.len(), world.rows()), (world.store.watches::<Counted>(), ROWS as usize));
        assert!(watches.iter().all(|watch| watch.has_changed()));
        drop(watches);
        assert_eq!(world.store.watches::<Counted>(), 0);
    }
    world.clear();
    assert_eq!(world.rows(), 0);
}

#[test]
fn the_last_who_holds_a_store_drops_it() {
    let world = World::new();
    let alive = Arc::clone(&world.alive);
    let watch = world.store.watch::<Counted>(Watched::Table);
    let changes = world.store.changes::<Counted>(Since::Start);
    let initializer = world.store.register_initializer("source");
    drop(world);
    assert_eq!(Arc::strong_count(&alive), 1 + ROWS as usize);
    drop((watch, initializer));
    assert_eq!(Arc::strong_count(&alive), 1 + ROWS as usize);
    drop(changes);
    assert_eq!(Arc::strong_count(&alive), 1);
}
