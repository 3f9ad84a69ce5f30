//! What is measured: heap and CPU time, counted, and the rows with their bars.

use std::fmt::Display;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::{Value, json};

#[global_allocator]
static ALLOCATOR: epic_meter::Counting = epic_meter::Counting;

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
