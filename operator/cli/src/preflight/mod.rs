//! `preflight`: whether a cluster, or a node, has what EPIC needs, before EPIC is installed.
//!
//! What the API server knows of all nodes is judged at once ([`judge`]): versions, kernels, addresses, ranges that
//! collide, ports that are taken, PodSecurity, traps of CNIs, and whether so many proxies fit. What only a node itself
//! knows (its BPF file system, its interfaces, its routes) is judged on the node, by `preflight --node` ([`node`]).
//! Judging is pure; [`gather`] and [`node::gather`] read. It works before EPIC's definitions are there, and afterwards.

mod cluster;
mod gather;
pub mod node;

use std::fmt::Write as _;

use serde::Serialize;

pub use cluster::judge;
pub use gather::{Facts, gather};

/// The oldest kernel whose BPF has what the programs need: tcx links.
pub const OLDEST_KERNEL: (u32, u32) = (6, 6);
/// The oldest Kubernetes that the chart takes.
pub const OLDEST_KUBERNETES: (u32, u32) = (1, 33);

/// How a check ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Verdict {
    /// As it should be.
    Ok,
    /// It could not be read.
    Unknown,
    /// EPIC works, with a limit that the text names.
    Warn,
    /// EPIC does not work until this is mended.
    Fail,
}

impl Verdict {
    /// The word at the beginning of a line.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Ok => "ok",
            Self::Unknown => "??",
            Self::Warn => "WARN",
            Self::Fail => "FAIL",
        }
    }
}

/// One thing that was looked at.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Check {
    /// What.
    pub name: &'static str,
    /// How it ended.
    pub verdict: Verdict,
    /// What was found.
    pub found: String,
    /// What to do; empty where nothing is.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub remedy: String,
}

impl Check {
    pub(crate) fn ok(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Ok, found: found.into(), remedy: String::new() }
    }

    pub(crate) fn unknown(name: &'static str, found: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Unknown, found: found.into(), remedy: String::new() }
    }

    pub(crate) fn warn(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Warn, found: found.into(), remedy: remedy.into() }
    }

    pub(crate) fn fail(name: &'static str, found: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Fail, found: found.into(), remedy: remedy.into() }
    }
}

/// Whether EPIC would work.
pub fn passes(checks: &[Check]) -> bool {
    checks.iter().all(|check| check.verdict < Verdict::Fail)
}

/// The checks for people.
pub fn render(checks: &[Check]) -> String {
    let width = checks.iter().map(|check| check.name.len()).max().unwrap_or(0);
    let mut text = String::new();
    for check in checks {
        let _ = writeln!(text, "{:4}  {:width$}  {}", check.verdict.as_str(), check.name, check.found);
        if !check.remedy.is_empty() {
            let _ = writeln!(text, "{:4}  {:width$}  -> {}", "", "", check.remedy);
        }
    }
    text
}

/// The checks for programs.
pub fn json(checks: &[Check]) -> String {
    serde_json::to_string_pretty(checks).map(|text| text + "\n").unwrap_or_default()
}

/// The first two numbers of a version, however it goes on: `6.12.0-1-cloud`, `v1.36.0`, `1.33+`.
pub(crate) fn version(text: &str) -> Option<(u32, u32)> {
    let mut numbers = text.trim_start_matches('v').split(|c: char| !c.is_ascii_digit());
    Some((numbers.next()?.parse().ok()?, numbers.next()?.parse().ok()?))
}

/// A few names, and how many more.
pub(crate) fn some(names: &[String]) -> String {
    const SHOWN: usize = 5;
    let shown = names.iter().take(SHOWN).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(SHOWN) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}
