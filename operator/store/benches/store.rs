//! Inserts, deletes, lookups and commits with those who wait, in a table with one non-unique index.
//!
//! Figures per row of a batch are those of one transaction with its commit. One iteration of each also runs under
//! `cargo test --benches`, so that they keep compiling and working.

#![expect(missing_docs, reason = "criterion_group! makes a public function")]

mod rows;

use std::hint::black_box;

use criterion::{BatchSize, BenchmarkId, Criterion, Throughput, criterion_group, criterion_main};
use epic_store::{Since, Store, Watched};
use rows::{Backend, ByNode, Tables, row, shuffled};

const SIZES: [u32; 3] = [100, 10_000, 50_000];

fn insert(store: &Store<Tables>, numbers: &[u32], weight: u16) {
    let mut txn = store.write();
    for i in numbers {
        txn.put(row(*i, weight));
    }
    txn.commit();
}

fn filled(n: u32) -> Store<Tables> {
    let store = Store::new();
    insert(&store, &shuffled(n), 1);
    store
}

fn batches(c: &mut Criterion) {
    let mut group = c.benchmark_group("batch");
    group.sample_size(20);
    for n in SIZES {
        group.throughput(Throughput::Elements(u64::from(n)));
        let (ascending, random) = ((0..n).collect::<Vec<u32>>(), shuffled(n));
        for (name, numbers) in [("insert_ascending", &ascending), ("insert_random", &random)] {
            group.bench_with_input(BenchmarkId::new(name, n), numbers, |b, numbers| {
                let run = |store: Store<Tables>| {
                    insert(&store, numbers, 1);
                    store
                };
                b.iter_batched(Store::new, run, BatchSize::PerIteration);
            });
        }
        group.bench_with_input(BenchmarkId::new("update", n), &random, |b, numbers| {
            let store = filled(n);
            let mut weight = 1;
            b.iter(|| {
                weight += 1;
                insert(&store, numbers, weight);
            });
        });
        group.bench_with_input(BenchmarkId::new("equal", n), &random, |b, numbers| {
            let store = filled(n);
            b.iter(|| insert(&store, numbers, 1));
        });
        group.bench_with_input(BenchmarkId::new("delete", n), &random, |b, numbers| {
            let run = |store: Store<Tables>| {
                let mut txn = store.write();
                for i in numbers {
                    txn.remove::<Backend>(row(*i, 1).key);
                }
                txn.commit();
                store
            };
            b.iter_batched(|| filled(n), run, BatchSize::PerIteration);
        });
        group.bench_with_input(BenchmarkId::new("changes_from_start", n), &n, |b, n| {
            let store = filled(*n);
            b.iter(|| store.changes::<Backend>(Since::Start).poll().iter().count());
        });
    }
    group.finish();
}

fn single(c: &mut Criterion) {
    let mut group = c.benchmark_group("among_50000");
    let store = filled(50_000);
    group.bench_function("insert_one_and_commit", |b| {
        let mut next = 50_000;
        b.iter(|| {
            next += 1;
            insert(&store, &[next], 1);
        });
    });
    let store = filled(50_000);
    group.bench_function("update_one_and_commit", |b| {
        let (mut next, mut weight) = (0, 1);
        b.iter(|| {
            next = (next + 7_919) % 50_000;
            weight += u16::from(next < 7_919);
            insert(&store, &[next], weight);
        });
    });
    group.bench_function("empty_commit", |b| b.iter(|| store.write().commit()));
    group.bench_function("snapshot", |b| b.iter(|| store.snapshot().revision()));
    let snapshot = store.snapshot();
    let mut next = 0;
    let mut number = move || {
        next = (next + 7_919) % 50_000;
        next
    };
    group.bench_function("get", |b| b.iter(|| snapshot.backends.get(row(number(), 1).key).is_some()));
    group.bench_function("by_index_20_rows", |b| {
        b.iter(|| snapshot.backends.by(ByNode, number() / 20).map(|row| u32::from(row.weight)).sum::<u32>());
    });
    group.bench_function("prefix_1_row", |b| b.iter(|| snapshot.backends.prefix(number()).count()));
    group.bench_function("scan", |b| b.iter(|| snapshot.backends.iter().map(|row| row.revision).max()));
    group.finish();
}

fn watches(c: &mut Criterion) {
    let mut group = c.benchmark_group("update_one_watched");
    for n in [0u32, 1, 1_000] {
        for (name, ranges) in [("rows", false), ("ranges", true)] {
            group.bench_with_input(BenchmarkId::new(name, n), &n, |b, n| {
                let store = filled(50_000);
                let watched = |i: u32| {
                    let key = row(i * 7, 1).key;
                    if ranges { Watched::Range(key, row(i * 7 + 3, 1).key) } else { Watched::Key(key) }
                };
                let watches: Vec<_> = (0..*n).map(|i| store.watch::<Backend>(watched(i))).collect();
                let mut weight = 1;
                b.iter(|| {
                    weight = if weight == u16::MAX { 1 } else { weight + 1 };
                    insert(&store, &[7], weight);
                });
                black_box(watches);
            });
        }
    }
    group.finish();
}

criterion_group!(benches, batches, single, watches);
criterion_main!(benches);
