//! What is measured: heap and CPU time, counted, and the rows with their bars.

use std::alloc::{GlobalAlloc, Layout as Memory, System};
use std::fmt::Display;
use std::path::PathBuf;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use serde_json::{Value, json};

struct Counting;

static LIVE: AtomicUsize = AtomicUsize::new(0);

// SAFETY: all work is the system allocator's; the counter allocates nothing.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, memory: Memory) -> *mut u8 {
        LIVE.fetch_add(memory.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.alloc(memory) }
    }
    unsafe fn dealloc(&self, at: *mut u8, memory: Memory) {
        LIVE.fetch_sub(memory.size(), Ordering::Relaxed);
        // SAFETY: the caller's promise is passed on.
        unsafe { System.dealloc(at, memory) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

/// Bytes that are allocated, without what an allocator adds to each piece.
pub(crate) fn live() -> usize {
    LIVE.load(Ordering::Relaxed)
}

/// How long all threads of this process have run so far, in the kernel too.
pub(crate) fn cpu() -> Duration {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it writes to `time` alone.
    let done = unsafe { libc::clock_gettime(libc::CLOCK_PROCESS_CPUTIME_ID, &raw mut time) };
    assert_eq!(done, 0, "this clock is on every Linux");
    Duration::new(time.tv_sec.unsigned_abs(), time.tv_nsec.unsigned_abs() as u32)
}

/// What a row must be.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Bar {
    AtMost(f64),
    Below(f64),
    AtLeast(f64),
}

impl Bar {
    fn is_met(self, value: f64) -> bool {
        match self {
            Bar::AtMost(bar) => value <= bar,
            Bar::Below(bar) => value < bar,
            Bar::AtLeast(bar) => value >= bar,
        }
    }

    fn text(self) -> String {
        match self {
            Bar::AtMost(bar) => format!("<= {bar}"),
            Bar::Below(bar) => format!("< {bar}"),
            Bar::AtLeast(bar) => format!(">= {bar}"),
        }
    }
}

/// Rows that were measured; each is printed at once.
#[derive(Debug, Default)]
pub(crate) struct Rows(Vec<Value>);

impl Rows {
    pub(crate) fn row(&mut self, name: impl Display, value: f64, unit: &str) {
        self.add(name.to_string(), value, unit, None);
    }

    pub(crate) fn bar(&mut self, name: impl Display, value: f64, unit: &str, bar: Bar) {
        self.add(name.to_string(), value, unit, Some(bar));
    }

    fn add(&mut self, name: String, value: f64, unit: &str, bar: Option<Bar>) {
        let value = (value * 1000.0).round() / 1000.0;
        let mut row = json!({ "row": name, "value": value, "unit": unit });
        let mut verdict = String::new();
        if let Some(bar) = bar {
            let met = bar.is_met(value);
            (row["bar"], row["met"]) = (bar.text().into(), met.into());
            verdict = format!("  {}  {}", bar.text(), if met { "met" } else { "NOT MET" });
        }
        println!("{name:48} {value:>12} {unit}{verdict}");
        self.0.push(row);
    }

    /// Writes them to the file of `EPIC_BENCH_RESULT`, or to `target/bench/lb.json`. Returns the rows that miss their bar.
    pub(crate) fn write(&self) -> std::io::Result<Vec<String>> {
        let default = || PathBuf::from(env!("EPIC_CHECKOUT")).join("target/bench/lb.json");
        let path = std::env::var_os("EPIC_BENCH_RESULT").map_or_else(default, PathBuf::from);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        std::fs::write(&path, serde_json::to_string_pretty(&self.0)? + "\n")?;
        println!("written to {}", path.display());
        let missed = self.0.iter().filter(|row| row["met"] == false);
        Ok(missed.map(|row| format!("{} {}, bar {}", row["row"], row["value"], row["bar"])).collect())
    }
}

/// The sample at this share of all, in milliseconds.
pub(crate) fn percentile(times: &mut [Duration], share: f64) -> f64 {
    times.sort_unstable();
    times[((times.len() - 1) as f64 * share) as usize].as_secs_f64() * 1e3
}
