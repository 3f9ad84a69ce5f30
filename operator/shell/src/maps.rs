//! `lb-maps`: the entries of the maps, and what is wrong with them.

use std::collections::BTreeMap;
use std::sync::Arc;

use epic_lb::{Progress, RowId, Snapshot};
use epic_reconciler::Layout;
use serde_json::{Value, json};

use crate::command::Filter;
use crate::side::{Entries, MapSide, Wanted};
use crate::{Error, Form, Subject, pretty};

/// Entries by key.
type Held<L> = BTreeMap<<L as Layout>::Key, <L as Layout>::Value>;

pub(crate) fn dump<S: MapSide>(entries: Entries<S::Layout>, filter: Option<&Filter>, form: Form) -> String {
    let entries = match filter {
        Some(Filter::Vip(address, port)) => S::of_vip(entries, *address, *port),
        _ => entries,
    };
    let text = S::dump(entries);
    let pattern = match filter {
        Some(Filter::Text(pattern)) => pattern.to_lowercase(),
        _ => String::new(),
    };
    let lines = text.lines().filter(|line| line.to_lowercase().contains(&pattern));
    match form {
        Form::Text => lines.map(|line| format!("{line}\n")).collect(),
        Form::Json => pretty(&lines.map(object).collect()),
    }
}

fn object(line: &str) -> Value {
    let (entry, value) = line.split_once(" -> ").map_or((line, None), |(entry, value)| (entry, Some(value)));
    let (map, key) = entry.split_once(' ').unwrap_or((entry, ""));
    json!({"map": map, "key": key, "value": value})
}

/// Something wrong with an entry.
struct Finding {
    what: &'static str,
    entry: String,
    why: String,
}

/// Entries that point to nothing, and those that differ from what the rows want.
pub(crate) fn check<S: Subject>(subject: &S, form: Form) -> Result<String, Error> {
    let (tables, progress, held) = coherent(subject)?;
    let mut findings = dangling::<S::Side>(&held);
    let wanted = subject.side().wanted(&tables, &held);
    findings.extend(differences::<<S::Side as MapSide>::Layout>(&held, &wanted, &tables, &progress));
    Ok(match form {
        Form::Json => {
            let found = findings
                .iter()
                .map(|finding| json!({"what": finding.what, "entry": finding.entry, "why": finding.why}));
            pretty(&json!({
                "entries": held.len(),
                "revision": tables.revision(),
                "reconciled": progress.covers(tables.revision()),
                "findings": found.collect::<Vec<_>>(),
            }))
        }
        Form::Text if findings.is_empty() => format!("{} entries, all as the rows want them\n", held.len()),
        Form::Text => findings
            .iter()
            .map(|finding| format!("{:<8}  {}: {}\n", finding.what, finding.entry, finding.why))
            .collect(),
    })
}

/// How often maps are read again that were written meanwhile.
const ATTEMPTS: usize = 5;

/// Tables, progress and entries of one moment.
type Moment<L> = (Arc<Snapshot>, Progress, Held<L>);

/// Tables, progress and entries of one moment, if the reconciler leaves one.
fn coherent<S: Subject>(subject: &S) -> Result<Moment<<S::Side as MapSide>::Layout>, Error> {
    let mut attempt = 1;
    loop {
        let (tables, progress) = (subject.tables(), subject.progress());
        let held = subject.entries()?.into_iter().collect();
        let same =
            subject.tables().revision() == tables.revision() && subject.progress().writes == progress.writes;
        if same || attempt == ATTEMPTS {
            return Ok((tables, progress, held));
        }
        attempt += 1;
    }
}

fn dangling<S: MapSide>(held: &Held<S::Layout>) -> Vec<Finding> {
    let mut found = Vec::new();
    for (from, value) in held {
        S::Layout::targets(from, value, &mut |to, expected| {
            let identity = held.get(&to).map(|value| S::Layout::identity(&to, value));
            let why = match identity {
                None => format!("it names {to}, which is not there"),
                Some(identity) if expected != 0 && identity != expected => {
                    format!("it names {to}, which is of another {}", S::HOLDER)
                }
                Some(_) => return,
            };
            found.push(Finding { what: "dangling", entry: from.to_string(), why });
        });
    }
    found
}

fn differences<L: Layout>(
    held: &Held<L>,
    wanted: &Wanted<L>,
    tables: &Snapshot,
    progress: &Progress,
) -> Vec<Finding> {
    let behind = |row: RowId| {
        let text = progress.failure(row).map(|failing| failing.text.to_string());
        let unseen = || (!progress.has_attempted(tables.revision())).then(|| "not written yet".to_owned());
        let why = text.or_else(unseen);
        let why =
            why.unwrap_or_else(|| "somebody else changed it; the next full pass corrects it".to_owned());
        format!("wanted by {row}: {why}")
    };
    let mut found = Vec::new();
    for (key, wants) in wanted {
        let Some((row, _)) = wants.first() else { continue };
        let what = match held.get(key) {
            None => "missing",
            Some(value) if wants.iter().any(|(_, wanted)| wanted == value) => continue,
            Some(_) => "differs",
        };
        found.push(Finding { what, entry: key.to_string(), why: behind(*row) });
    }
    for key in held.keys().filter(|key| !wanted.contains_key(key)) {
        let why = if progress.health.unlisted > 0 {
            "no row wants it; it goes unless a source wants it that has yet to list (db initialized)"
        } else if progress.health.unconfirmed > 0 {
            "no row wants it; its removal waits for confirmation"
        } else {
            "no row wants it; it is removed by the next round or full pass"
        };
        found.push(Finding { what: "stray", entry: key.to_string(), why: why.to_owned() });
    }
    found
}
