//! One of many backends replaced, one change while many services are pending, and what the store does of it: on one thread,
//! so that the time is that of the work.

use std::hint::black_box;
use std::time::{Duration, Instant};

use epic_lb::maps::{DirectKey, DirectMaps, DirectValue};
use epic_lb::render::DirectSide;
use epic_lb::{Backend, Place, Protocol, ServiceName, Writer};
use epic_meter::{live, of_process as cpu};
use epic_reconciler::{Budget, Reconciler, Settings};

use crate::meter::{Bar, Rows, percentile};
use crate::shapes::{Direct, Shape, names};

type Engine = Reconciler<epic_lb::maps::DirectLayout, DirectMaps, DirectSide>;

fn engine(writer: &Writer, side: DirectSide) -> Engine {
    Reconciler::new(writer.reader(), DirectMaps::new(), side, Settings::default()).expect("maps in memory")
}

fn settle(engine: &mut Engine) {
    loop {
        let round = engine.round(Instant::now(), Budget::default());
        match &round.ask {
            Some(ask) => engine.confirm(ask),
            None if !round.more => break,
            None => {}
        }
    }
    assert!(engine.is_idle(), "{}", engine.progress().health);
}

fn backend(of: &ServiceName, i: u32) -> Backend {
    let [_, high, middle, low] = i.to_be_bytes();
    Backend::new(of.clone(), [11, high, middle, low].into(), 8080, Protocol::Tcp)
}

fn cells(engine: &Engine) -> Vec<Option<Place>> {
    let table = engine.maps().content().find_map(|(_, value)| match value {
        DirectValue::Table(table) => Some(table.cells().to_vec()),
        _ => None,
    });
    let place = |word: u32| match engine.maps().get(&DirectKey::Backend(word & 0x00ff_ffff)) {
        Some(DirectValue::Backend(backend)) => Some(backend.place()),
        _ => None,
    };
    table.unwrap_or_default().into_iter().map(place).collect()
}

struct Replaced {
    ms: f64,
    writes: u64,
    /// Cells of the member that went, and cells that hold another than before.
    cells: (usize, usize),
}

/// One of so many backends goes, another one comes.
fn replace(members: u32, cells_of_table: Option<u32>) -> Replaced {
    let writer = Writer::new();
    let side = DirectSide::new("here", 7);
    let mut engine = engine(&writer, cells_of_table.map_or(side.clone(), |cells| side.with_cells(cells)));
    let name = ServiceName::new("acme", "web");
    let mut txn = writer.write();
    Direct::put(&mut txn, 1, name.as_str());
    txn.set_backends(&name, (0..members).map(|i| backend(&name, i)));
    txn.commit();
    settle(&mut engine);
    let (mut times, mut writes, mut counts) = (Vec::new(), 0, (0, 0));
    for turn in 0..41 {
        // Another place of the order each time.
        let at = (turn * 997 % members) as usize;
        let old =
            writer.snapshot().backends_of(name.id()).nth(at).map(|row| row.place).expect("so many backends");
        let before = (engine.maps().writes(), cells(&engine));
        let begun = Instant::now();
        let mut txn = writer.write();
        txn.release_backend(&name, old);
        txn.upsert_backends(&name, [backend(&name, 1_000_000 + turn)]);
        txn.commit();
        settle(&mut engine);
        times.push(begun.elapsed());
        writes = engine.maps().writes() - before.0;
        let after = cells(&engine);
        let own = before.1.iter().filter(|place| **place == Some(old)).count();
        let changed = before.1.iter().zip(&after).filter(|(before, after)| before != after).count();
        counts = (counts.0 + own, counts.1 + changed);
    }
    let turns = times.len();
    Replaced { ms: percentile(&mut times, 0.5), writes, cells: (counts.0 / turns, counts.1 / turns) }
}

/// Replacements in services of all sizes, with the ancestor's table and with tables in proportion.
pub(crate) fn replacements(rows: &mut Rows) {
    for members in [10, 100, 1_000, 5_000] {
        let done = replace(members, Some(16_381));
        let name = format!("replace_1_of_{members}_maglev_ms");
        if members == 1_000 {
            rows.bar(name, done.ms, "ms", Bar::Below(1.0));
        } else {
            rows.row(name, done.ms, "ms");
        }
        let (own, changed) = done.cells;
        if members == 5_000 {
            let bar = Bar::AtMost(2.0 * own as f64);
            rows.bar("replace_1_of_5000_map_writes", done.writes as f64, "writes", bar);
        }
        rows.row(format!("replace_1_of_{members}_cells_of_the_member"), own as f64, "cells");
        rows.row(format!("replace_1_of_{members}_cells_changed"), changed as f64, "cells");
        let done = replace(members, None);
        rows.row(format!("replace_1_of_{members}_maglev_in_proportion_ms"), done.ms, "ms");
    }
}

/// How long one change takes to the maps while so many services are pending.
pub(crate) fn pending(rows: &mut Rows, n: u32) {
    let names = names(n);
    let [mut times, mut run, mut looks] = [const { Vec::<Duration>::new() }; 3];
    for turn in 0..4 {
        let writer = Writer::new();
        let mut engine = engine(&writer, DirectSide::new("here", 7));
        let marked = |value: u64| {
            let mut txn = writer.write();
            Direct::put_marked(&mut txn, 1_000_000, "one/web", value);
            txn.commit();
        };
        marked(1);
        settle(&mut engine);
        let mut txn = writer.write();
        names.iter().for_each(|(i, name)| Direct::put(&mut txn, *i, name));
        txn.commit();
        if turn % 2 == 1 {
            settle(&mut engine);
            let mut txn = writer.write();
            names.iter().for_each(|(_, name)| Direct::remove(&mut txn, name));
            txn.commit();
        }
        // What so many changes at once cost before the first of them can be written.
        let begun = Instant::now();
        engine.round(Instant::now(), Budget::default());
        looks.push(begun.elapsed());
        let key = DirectKey::Service(Direct::frontend(1_000_000));
        let holds = |engine: &Engine, value: u64| {
            matches!(engine.maps().get(&key), Some(DirectValue::Service(service))
                if u64::from(service.affinity_seconds) == value)
        };
        for value in 2.. {
            let (begun, ran) = (Instant::now(), cpu());
            marked(value);
            let mut round = engine.round(Instant::now(), Budget::default());
            while !holds(&engine, value) {
                round = engine.round(Instant::now(), Budget::default());
            }
            times.push(begun.elapsed());
            run.push(cpu() - ran);
            if let Some(ask) = &round.ask {
                engine.confirm(ask);
            } else if !round.more {
                break;
            }
        }
        assert!(engine.is_idle(), "{}", engine.progress().health);
    }
    let (p50, p99) = (percentile(&mut times, 0.5), percentile(&mut times, 0.99));
    rows.row(format!("change_while_{n}_pending_p50_ms"), p50, "ms");
    rows.bar(format!("change_while_{n}_pending_p99_ms"), p99, "ms", Bar::Below(20.0));
    rows.row(format!("change_while_{n}_pending_p99_cpu_ms"), percentile(&mut run, 0.99), "ms");
    rows.row(format!("first_round_after_{n}_changed_at_once_ms"), percentile(&mut looks, 0.5), "ms");
    rows.row(format!("change_while_{n}_pending_worst_ms"), percentile(&mut times, 1.0), "ms");
}

/// What the Writer and the store cost without anybody behind them.
pub(crate) fn store(rows: &mut Rows, n: u32) {
    let names = names(n);
    let ns = |begun: Instant| begun.elapsed().as_secs_f64() * 1e9 / f64::from(n);
    let empty = live();
    let writer = Writer::new();
    let begun = Instant::now();
    for batch in names.chunks(500) {
        let mut txn = writer.write();
        batch.iter().for_each(|(i, name)| Direct::put(&mut txn, *i, name));
        txn.commit();
    }
    rows.row("store_insert_service_ns", ns(begun), "ns");
    rows.row("heap_of_tables_bytes_per_service", (live() - empty) as f64 / f64::from(n), "B");
    let begun = Instant::now();
    for batch in names.chunks(500) {
        let mut txn = writer.write();
        batch.iter().for_each(|(i, name)| Direct::put(&mut txn, *i, name));
        txn.commit();
    }
    rows.row("store_insert_equal_service_ns", ns(begun), "ns");
    let ids: Vec<_> = names.iter().filter_map(|(_, name)| ServiceName::parse(name)).collect();
    let snapshot = writer.snapshot();
    let begun = Instant::now();
    let found: usize = ids.iter().map(|name| snapshot.backends_of(black_box(name.id())).count()).sum();
    rows.row("store_backends_of_service_ns", ns(begun), "ns");
    assert_eq!(found, names.len());
    drop((snapshot, ids));
    let begun = Instant::now();
    for batch in names.chunks(500) {
        let mut txn = writer.write();
        batch.iter().for_each(|(_, name)| Direct::remove(&mut txn, name));
        txn.commit();
    }
    rows.row("store_delete_service_ns", ns(begun), "ns");
}
