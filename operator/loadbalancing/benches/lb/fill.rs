//! All services are put into the tables and taken out again, in batches, while the reconciler follows on its own thread.

use std::time::{Duration, Instant};

use epic_lb::{ServiceName, Writer};
use epic_meter::{live, of_process as cpu};
use epic_reconciler::{FakeMaps, Handle, Reconciler, Running, Settings, run};
use tokio::sync::watch;

use crate::meter::{Bar, Rows, percentile};
use crate::shapes::{Direct, Shape, names};

/// Services in one transaction, as many as a source that batches events has together.
const BATCH: usize = 500;

type Id = epic_lb::RowId;
type Scope = epic_lb::ServiceRef;
type Ask<S> = epic_reconciler::Ask<<<S as Shape>::Layout as epic_reconciler::Layout>::Key>;

/// A reconciler on its thread.
struct World<S: Shape> {
    writer: Writer,
    handle: Handle<Id, Scope>,
    running: Running<FakeMaps<S::Layout>>,
    stop: watch::Sender<bool>,
}

impl<S: Shape> World<S> {
    fn new() -> Self {
        let writer = Writer::new();
        // Whether a removal is meant is answered at once; how soon it is asked again is no cost of the work.
        let settings = Settings { ask_again: Duration::ZERO, ..Settings::default() };
        let reconciler = Reconciler::new(writer.reader(), FakeMaps::<S::Layout>::new(), S::side(), settings)
            .expect("maps in memory can be read");
        let (stop, stopped) = watch::channel(false);
        let yes = |_: Ask<S>| true;
        let (handle, running) = run(reconciler, yes, stopped).expect("a thread");
        Self { writer, handle, running, stop }
    }

    async fn change(
        &mut self,
        names: &[(u32, String)],
        each: impl Fn(&mut epic_lb::WriteTxn<'_>, u32, &str),
    ) {
        let mut revision = 0;
        for batch in names.chunks(BATCH) {
            let mut txn = self.writer.write();
            batch.iter().for_each(|(i, name)| each(&mut txn, *i, name));
            revision = txn.commit();
            tokio::task::yield_now().await;
        }
        let progress = self.handle.wait_until_reconciled(revision).await;
        assert!(progress.health.is_ok(), "{}", progress.health);
    }

    async fn end(self) -> FakeMaps<S::Layout> {
        self.stop.send_replace(true);
        self.running.join().await
    }
}

#[derive(Clone, Copy, Debug)]
struct Turn {
    insert: Duration,
    delete: Duration,
    cpu: Duration,
    cpu_of_insert: Duration,
    heap: f64,
    left: f64,
}

async fn turn<S: Shape>(names: &[(u32, String)]) -> Turn {
    let empty = live();
    let mut world = World::<S>::new();
    let (begun, ran) = (Instant::now(), cpu());
    world.change(names, S::put).await;
    let (insert, cpu_of_insert) = (begun.elapsed(), cpu() - ran);
    let entries = world.handle.progress().health.entries;
    assert_eq!(entries, S::ENTRIES * names.len());
    let full = live();
    let begun = Instant::now();
    world.change(names, |txn, _, name| S::remove(txn, name)).await;
    let delete = begun.elapsed();
    let cpu = cpu() - ran;
    let left = live();
    assert!(world.end().await.is_empty());
    let per_service = |bytes: usize| bytes.saturating_sub(empty) as f64 / names.len() as f64;
    Turn { insert, delete, cpu, cpu_of_insert, heap: per_service(full), left: per_service(left) }
}

/// What the maps hold of the heap, which a node has in its kernel instead.
pub(crate) async fn heap_of_maps(rows: &mut Rows, n: u32) {
    let mut world = World::<Direct>::new();
    world.change(&names(n), Direct::put).await;
    let maps = world.end().await;
    let with = live();
    drop(maps);
    rows.row("heap_of_maps_bytes_per_service", (with - live()) as f64 / f64::from(n), "B");
}

/// Work and heap per service for this many services.
pub(crate) async fn fill<S: Shape>(
    rows: &mut Rows,
    shape: &str,
    names: &[(u32, String)],
    turns: usize,
    bars: bool,
) {
    let n = names.len();
    let mut all = Vec::with_capacity(turns);
    for _ in 0..turns {
        all.push(turn::<S>(names).await);
    }
    let median = |of: &dyn Fn(&Turn) -> f64| {
        let mut values: Vec<f64> = all.iter().map(of).collect();
        values.sort_by(f64::total_cmp);
        values[values.len() / 2]
    };
    let count = n as f64;
    let insert = count / median(&|turn| turn.insert.as_secs_f64());
    let delete = count / median(&|turn| turn.delete.as_secs_f64());
    let cpu = median(&|turn| turn.cpu.as_secs_f64() * 1e6 / count);
    let heap = median(&|turn| turn.heap);
    let bar = |rows: &mut Rows, name: &str, value, unit, bar| match bars {
        true => rows.bar(format!("{name}_{n}"), value, unit, bar),
        false => rows.row(format!("{shape}{name}_{n}"), value, unit),
    };
    // Of what is to be at least so much, others on the machine take; the best turn shows how much.
    let best = |of: fn(&Turn) -> Duration| count / all.iter().map(of).min().unwrap_or_default().as_secs_f64();
    rows.row(format!("{shape}insert_per_s_best_{n}"), best(|turn| turn.insert), "1/s");
    rows.row(format!("{shape}delete_per_s_best_{n}"), best(|turn| turn.delete), "1/s");
    bar(rows, "insert_per_s", insert, "1/s", Bar::AtLeast(140_000.0));
    bar(rows, "delete_per_s", delete, "1/s", Bar::AtLeast(180_000.0));
    bar(rows, "user_us_per_service", cpu, "us", Bar::AtMost(17.0));
    bar(rows, "heap_bytes_per_service", heap, "B", Bar::AtMost(1_200.0));
    let inserting = median(&|turn| turn.cpu_of_insert.as_secs_f64() * 1e6 / count);
    rows.row(format!("{shape}user_us_of_insert_{n}"), inserting, "us");
    rows.row(format!("{shape}heap_bytes_left_per_service_{n}"), median(&|turn| turn.left), "B");
}

/// From the commit of one new service until whoever waits for it knows that the maps hold it.
pub(crate) async fn single(rows: &mut Rows, present: u32) {
    let mut world = World::<Direct>::new();
    world.change(&names(present), Direct::put).await;
    let mut times = Vec::new();
    for i in 0..300 {
        let i = 1_000_000 + i;
        let name = format!("one/web-{i}");
        let scope = ServiceName::parse(&name).expect("namespace/name");
        let begun = Instant::now();
        let mut txn = world.writer.write();
        Direct::put(&mut txn, i, &name);
        let revision = txn.commit();
        let progress = world.handle.wait_until_scope_reconciled(scope.id(), revision).await;
        times.push(begun.elapsed());
        assert!(progress.covers_scope(scope.id(), revision), "{}", progress.health);
    }
    let p50 = percentile(&mut times, 0.5);
    if present == 0 {
        rows.bar("single_service_to_maps_p50_ms", p50, "ms", Bar::Below(1.0));
    } else {
        rows.row(format!("single_service_among_{present}_to_maps_p50_ms"), p50, "ms");
    }
    world.end().await;
}
