//! `health` and `reconciler status`: how far the maps are.

use std::collections::BTreeMap;
use std::time::Duration;

use epic_lb::{Progress, RowId, Snapshot, TableId, Tables};
use epic_reconciler::Status;
use epic_store::{Line, Listing, Schema as _};
use serde_json::{Value, json};

use crate::{Form, Part, Subject, pretty};

pub(crate) fn health(tables: &Snapshot, progress: &Progress, parts: &[Part], form: Form) -> String {
    let (health, revision) = (&progress.health, tables.revision());
    let failing = progress.failing.len() + progress.failing_of_node.len();
    match form {
        Form::Json => pretty(&json!({
            "ok": health.is_ok(),
            "health": health.to_string(),
            "entries": health.entries,
            "writes": progress.writes,
            "revision": revision,
            "reconciled": progress.covers(revision),
            "failing-rows": failing,
            "services-behind": progress.behind.keys().flatten().map(ToString::to_string).collect::<Vec<_>>(),
            "unconfirmed": health.unconfirmed,
            "unlisted": health.unlisted,
            "waiting-for": health.waiting_for.iter().map(|name| &**name).collect::<Vec<_>>(),
            "parts": parts
                .iter()
                .map(|part| json!({"name": part.name, "ok": part.ok, "says": part.says}))
                .collect::<Vec<_>>(),
        })),
        Form::Text => {
            let far = if progress.covers(revision) {
                "the maps hold all of it".to_owned()
            } else if failing > 0 {
                let rows = if failing == 1 { "1 row fails" } else { &format!("{failing} rows fail") };
                format!("{rows}; type: reconciler status")
            } else {
                "the maps are being written".to_owned()
            };
            let maps = format!(
                "maps    {health}\ntables  revision {revision}, {far}\nwrites  {}\n",
                progress.writes
            );
            let parts = parts.iter().map(|Part { name, says, .. }| format!("{name:<6}  {says}\n"));
            std::iter::once(maps).chain(parts).collect()
        }
    }
}

/// A row that the maps do not hold.
struct Unsettled {
    row: String,
    status: &'static str,
    reason: Option<String>,
    since: Option<Duration>,
}

/// Rows that the maps do not hold.
pub(crate) fn behind(subject: &impl Subject, table: Option<TableId>, form: Form) -> String {
    let (tables, progress, now) = (subject.tables(), subject.progress(), subject.now());
    let mut found: BTreeMap<RowId, Status> = BTreeMap::new();
    if !progress.covers(tables.revision()) {
        tables.changed_rows(&Tables::default(), &mut |row| {
            let status = tables.status(row, &progress).unwrap_or(Status::Done);
            if status != Status::Done {
                found.insert(row, status);
            }
        });
    }
    // Rows that were removed and whose entries cannot be are in no table.
    for (row, failing) in progress.failing.iter().chain(&progress.failing_of_node) {
        found.insert(*row, Status::Error(failing.text.clone()));
    }
    let of_table = found.into_iter().filter(|(row, _)| table.is_none_or(|table| row.table() == table));
    let mut rows: Vec<Unsettled> = of_table
        .map(|(row, status)| Unsettled {
            row: row.to_string(),
            status: match (&status, tables.row_revision(row)) {
                (Status::Error(_), None) => "removing",
                (Status::Error(_), Some(_)) => "error",
                _ => "pending",
            },
            reason: match status {
                Status::Error(text) => Some(text.to_string()),
                _ => None,
            },
            since: progress.failure(row).map(|failing| now.saturating_duration_since(failing.since)),
        })
        .collect();
    rows.sort_by(|a, b| epic_store::natural(&a.row, &b.row));
    match form {
        Form::Json => pretty(&rows.iter().map(object).collect()),
        Form::Text if rows.is_empty() => match table {
            None => "the maps hold every row\n".to_owned(),
            Some(table) => format!("the maps hold every row of {table}\n"),
        },
        Form::Text => {
            let columns = vec!["row", "status", "for", "reason"];
            Listing { columns, lines: rows.iter().map(line).collect() }.to_string()
        }
    }
}

fn object(row: &Unsettled) -> Value {
    json!({
        "row": row.row,
        "status": row.status,
        "reason": row.reason,
        "seconds": row.since.map(|since| since.as_secs()),
    })
}

fn line(row: &Unsettled) -> Line {
    let since = row.since.map_or(Value::Null, |since| format!("{}s", since.as_secs()).into());
    let reason = row.reason.clone().map_or(Value::Null, Value::from);
    Line { revision: 0, cells: vec![row.row.clone().into(), row.status.into(), since, reason] }
}
