//! Live heap and CPU time per row of a table with one non-unique index: counted, not estimated.
//!
//! A row here is 20 bytes and its key 12; 48 bytes of what is printed are the row itself with its revision and the
//! counters of its pointer, and what an allocator adds to each piece is not counted. CPU time is the kernel's count for
//! this thread, so that other load on the machine adds only what it takes of the caches; it includes the commit, and a
//! few nanoseconds of counting.

mod rows;

use epic_store::Store;
use rows::{Backend, ByNode, Tables, row, shuffled};

#[global_allocator]
static ALLOCATOR: epic_meter::Counting = epic_meter::Counting;

/// Nanoseconds that this thread has run.
fn cpu() -> u64 {
    epic_meter::of_thread().as_nanos() as u64
}

fn insert(store: &Store<Tables>, numbers: &[u32], weight: u16) {
    let mut txn = store.write();
    for i in numbers {
        txn.put(row(*i, weight));
    }
    txn.commit();
}

fn delete(store: &Store<Tables>, numbers: &[u32]) {
    let mut txn = store.write();
    for i in numbers {
        txn.remove::<Backend>(row(*i, 1).key);
    }
    txn.commit();
}

/// Bytes that are live after rows were written in batches of this size, per row.
fn heap_per_row(numbers: &[u32], batch: usize) -> f64 {
    let before = epic_meter::live();
    let store = Store::<Tables>::new();
    numbers.chunks(batch).for_each(|part| insert(&store, part, 1));
    let live = epic_meter::live() - before;
    assert_eq!(store.snapshot().backends.by(ByNode, 0).count(), numbers.len().min(20));
    live as f64 / numbers.len() as f64
}

/// Nanoseconds per row to insert all in one transaction, to update them in another, and to delete them in a third.
fn cpu_per_row(numbers: &[u32]) -> [f64; 3] {
    let rounds = (500_000 / numbers.len()).max(10);
    let mut spent = [0; 3];
    for _ in 0..rounds {
        let store = Store::<Tables>::new();
        let begun = cpu();
        insert(&store, numbers, 1);
        let inserted = cpu();
        insert(&store, numbers, 2);
        let updated = cpu();
        delete(&store, numbers);
        let deleted = cpu();
        let times = [inserted - begun, updated - inserted, deleted - updated];
        spent.iter_mut().zip(times).for_each(|(sum, time)| *sum += time);
    }
    spent.map(|sum| sum as f64 / (rounds * numbers.len()) as f64)
}

fn main() {
    for n in [100, 1_000, 10_000, 50_000] {
        let (ascending, random) = ((0..n).collect::<Vec<u32>>(), shuffled(n));
        for (order, numbers) in [("ascending", &ascending), ("random", &random)] {
            let (whole, single) = (heap_per_row(numbers, numbers.len()), heap_per_row(numbers, 1));
            println!("{n} rows, {order}: heap {whole:.0} B a row, {single:.0} B written one by one");
            let [inserted, updated, deleted] = cpu_per_row(numbers);
            println!(
                "{n} rows, {order}: insert {inserted:.0} ns, update {updated:.0} ns, delete {deleted:.0} ns a row"
            );
        }
    }
}
