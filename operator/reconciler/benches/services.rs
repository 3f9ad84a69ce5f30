//! Heap and CPU time per service, and how long one change takes while many are pending: counted, not estimated.
//!
//! A service here is three rows (service, frontend, backend) and four entries, as in the figures of others that are
//! compared with these; tables, engine and fake maps are all counted, what an allocator adds to each piece is not. CPU time
//! is the kernel's count for this thread, commits included. The number of services may be given as argument.

#[path = "../tests/reconciler/toy.rs"]
mod toy;

use std::time::{Duration, Instant};

use epic_meter::live;
use epic_reconciler::{Budget, FakeMaps, Layout, MapError, Maps, Op, Reconciler, Settings};
use epic_store::{Store, WriteTxn};
use toy::{Backend, Frontend, Key, Node, Place, Renderer, Service, Tables, Toy, Value, Vip};

#[global_allocator]
static ALLOCATOR: epic_meter::Counting = epic_meter::Counting;

/// Nanoseconds that this thread has run.
fn cpu() -> u64 {
    epic_meter::of_thread().as_nanos() as u64
}

/// Maps that hold nothing, to tell what the fake ones cost.
#[derive(Debug)]
struct NoMaps;

impl Maps<Toy> for NoMaps {
    fn read(&self, _: usize, _: &mut dyn FnMut(Key, Value)) -> Result<(), MapError> {
        Ok(())
    }
    fn apply(&mut self, _: usize, batch: &[Op<Toy>], done: &mut dyn FnMut(usize, Result<(), MapError>)) {
        (0..batch.len()).for_each(|at| done(at, Ok(())));
    }
}

type Engine<M> = Reconciler<Toy, M, Renderer>;

fn engine<M: Maps<Toy>>(store: &Store<Tables>, maps: M) -> Engine<M> {
    Reconciler::new(store.reader(), maps, Renderer::default(), Settings::default())
        .expect("maps that can be read")
}

/// Rounds as a thread would do them, progress included, until nothing is left to do.
fn settle<M: Maps<Toy>>(engine: &mut Engine<M>) {
    loop {
        let round = engine.round(Instant::now(), Budget::default());
        let progress = engine.progress();
        match round.ask {
            Some(ask) => engine.confirm(&ask),
            None if !round.more => {
                assert!(progress.covers(progress.seen), "{}", progress.health);
                return;
            }
            None => {}
        }
    }
}

fn put(txn: &mut WriteTxn<'_, Tables>, id: u32) {
    txn.put(Service { id, nat: id, generation: 1 });
    txn.put(Frontend { vip: id, service: id });
    txn.put(Backend { key: Place { service: id, place: 0 }, id, weight: 1 });
}

fn remove(txn: &mut WriteTxn<'_, Tables>, id: u32) {
    txn.remove::<Service>(id);
    txn.remove::<Frontend>(Vip { service: id, vip: id });
    txn.remove::<Backend>(Place { service: id, place: 0 });
}

fn change(store: &Store<Tables>, ids: &[u32], each: fn(&mut WriteTxn<'_, Tables>, u32)) {
    for batch in ids.chunks(500) {
        let mut txn = store.write();
        batch.iter().for_each(|id| each(&mut txn, *id));
        txn.commit();
    }
}

/// The numbers from 1 to `n` in an order without pattern, the same every time.
fn shuffled(n: u32) -> Vec<u32> {
    let mut numbers: Vec<u32> = (1..=n).collect();
    numbers.sort_by_key(|i| u64::from(*i).wrapping_mul(0x9E37_79B9_7F4A_7C15).rotate_left(29));
    numbers
}

fn cost<M: Maps<Toy>>(what: &str, ids: &[u32], maps: M, entries: fn(&Engine<M>) -> usize) {
    let n = ids.len() as f64;
    let empty = live();
    let store = Store::<Tables>::new();
    let mut engine = engine(&store, maps);
    for turn in 1..=3 {
        let begun = cpu();
        change(&store, ids, put);
        let written = cpu();
        let tables = live();
        settle(&mut engine);
        let inserted = cpu();
        let full = live();
        assert_eq!(entries(&engine), 4 * ids.len());
        let before_delete = cpu();
        change(&store, ids, remove);
        let removed = cpu();
        settle(&mut engine);
        let deleted = cpu();
        assert_eq!(engine.footprint(), epic_reconciler::Footprint::default());
        let us = |from: u64, to: u64| (to - from) as f64 / 1e3 / n;
        println!(
            "{what}, turn {turn}: insert {:.2} us ({:.2} of it tables), delete {:.2} us ({:.2}), together {:.2} us; \
             heap {:.0} B ({:.0} of it tables), {:.0} B after all are deleted",
            us(begun, inserted),
            us(begun, written),
            us(before_delete, deleted),
            us(before_delete, removed),
            us(begun, inserted) + us(before_delete, deleted),
            (full - empty) as f64 / n,
            (tables - empty) as f64 / n,
            (live() - empty) as f64 / n,
        );
    }
}

/// How long one changed row takes to reach the maps while this many services are pending.
fn latency(ids: &[u32]) {
    let mut times: Vec<Duration> = Vec::new();
    for turn in 0..4 {
        let store = Store::<Tables>::new();
        let mut engine = engine(&store, FakeMaps::<Toy>::new());
        change(&store, ids, put);
        if turn % 2 == 1 {
            settle(&mut engine);
            change(&store, ids, remove);
        }
        let begun = Instant::now();
        engine.round(Instant::now(), Budget::default());
        println!("first round after {} rows changed at once: {:?}", 3 * ids.len(), begun.elapsed());
        let mut value = 0;
        loop {
            value += 1;
            let begun = Instant::now();
            let mut txn = store.write();
            txn.put(Node { id: 1, value });
            txn.commit();
            let mut round = engine.round(Instant::now(), Budget::default());
            while engine.maps().get(&Key::Node(1)) != Some(&Value::Node(value)) {
                round = engine.round(Instant::now(), Budget::default());
            }
            times.push(begun.elapsed());
            if let Some(ask) = &round.ask {
                engine.confirm(ask);
            } else if !round.more {
                break;
            }
        }
        assert!(engine.is_idle());
    }
    times.sort();
    let at = |share: f64| times[((times.len() - 1) as f64 * share) as usize];
    println!(
        "one change while {} services are pending or going: p50 {:?}, p99 {:?}, worst {:?} ({} samples)",
        ids.len(),
        at(0.5),
        at(0.99),
        at(1.0),
        times.len()
    );
}

fn main() {
    let asked = std::env::args().skip(1).find_map(|argument| argument.parse().ok());
    let n = asked.unwrap_or(50_000);
    let (ascending, random) = ((1..=n).collect::<Vec<u32>>(), shuffled(n));
    println!("{n} services, {} maps", Toy::MAPS.len());
    cost("ascending, fake maps", &ascending, FakeMaps::<Toy>::new(), |engine| engine.maps().len());
    cost("random, fake maps", &random, FakeMaps::<Toy>::new(), |engine| engine.maps().len());
    cost("ascending, no maps", &ascending, NoMaps, |engine| engine.footprint().entries);
    latency(&ascending);
}
