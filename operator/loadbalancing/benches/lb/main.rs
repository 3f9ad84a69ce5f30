//! The load-balancing control plane as a whole: tables, Writer, selection, reconciler and maps in memory.
//!
//! ```text
//! cargo bench -p epic-lb --bench lb [-- --bars] [-- --quick]
//! ```
//!
//! Prints rows, each with its bar if it has one, and writes them to `target/bench/lb.json` (or to `EPIC_BENCH_RESULT`).
//! `--bars` fails when one is missed, `--quick` does everything once and small, to see that it works.
//!
//! The work is that which others are measured by: services with one frontend and one backend, from a source in the same
//! process, in batches; heap is counted with maps, without what the source keeps, and without what an allocator adds. CPU
//! time is that of all threads, the kernel's part included. EPIC's own shape (proxy, tunnel, alias) stands beside it.

#[path = "../../tests/lb/churn.rs"]
#[expect(dead_code, reason = "tests use more of it")]
mod churn;
mod fill;
mod meter;
mod replace;
mod shapes;

use std::process::ExitCode;

use churn::{Churn, ENOUGH, SCARCE};
use meter::{Bar, Rows};
use shapes::{Direct, Node, names, shuffled};

fn dangling(rows: &mut Rows, changes: u64) {
    let (mut done, mut dangling, mut writes) = (0, 0, 0);
    for seed in 0..10 {
        let room = if seed < 5 { ENOUGH } else { SCARCE };
        let mut churn = Churn::new(seed, if seed % 2 == 0 { 0.0 } else { 0.2 }, room);
        while churn.changes < changes / 10 {
            churn.step();
        }
        done += churn.changes;
        let maps = churn.settle();
        if let Some(first) = &maps.first {
            println!("seed {seed}: {first}");
        }
        dangling += maps.dangling;
        writes += maps.writes;
    }
    rows.bar(format!("dangling_states_per_{changes}_changes"), dangling as f64, "states", Bar::AtMost(0.0));
    println!("{done} random changes, {writes} map writes, each followed by a look at all entries");
}

async fn measure(quick: bool) -> Rows {
    let mut rows = Rows::default();
    let most = if quick { 2_000 } else { 50_000 };
    let turns = |n| if quick { 1 } else { n };
    for n in [1, 100, 1_000, 10_000] {
        fill::fill::<Direct>(&mut rows, "", &names(n.min(most)), turns(5), false).await;
    }
    fill::fill::<Direct>(&mut rows, "", &names(most), turns(7), true).await;
    fill::fill::<Direct>(&mut rows, "shuffled_", &shuffled(most), turns(3), false).await;
    fill::heap_of_maps(&mut rows, most).await;
    for n in [100, 1_000, 10_000] {
        fill::fill::<Node>(&mut rows, "node_", &names(n.min(most)), turns(2), false).await;
    }
    fill::single(&mut rows, 0).await;
    fill::single(&mut rows, most).await;
    replace::replacements(&mut rows);
    replace::pending(&mut rows, most);
    replace::store(&mut rows, most);
    dangling(&mut rows, if quick { 1_000 } else { 100_000 });
    rows
}

fn main() -> ExitCode {
    let is_asked = |flag: &str| std::env::args().any(|argument| argument == flag);
    let runtime = tokio::runtime::Builder::new_current_thread().build();
    let rows = runtime.expect("a runtime").block_on(measure(is_asked("--quick")));
    match rows.write() {
        Err(error) => {
            eprintln!("cannot write the result: {error}");
            ExitCode::FAILURE
        }
        Ok(missed) if missed.is_empty() => ExitCode::SUCCESS,
        Ok(missed) => {
            println!("not met: {}", missed.join("; "));
            if is_asked("--bars") { ExitCode::FAILURE } else { ExitCode::SUCCESS }
        }
    }
}
