//! `db watch`: a table, then what changes in it.

use std::sync::Arc;

use epic_lb::{Snapshot, TableId, Tables};
use epic_store::{Line, ListedChange, Listing, Schema as _};
use serde_json::json;

use crate::request::Form;

/// A watched table. Its owner waits for the tables and polls; what came and went between two polls is not seen.
#[derive(Debug)]
pub struct Watching {
    table: TableId,
    form: Form,
    /// As it was at the last poll. While nobody polls, these tables stay in memory.
    seen: Arc<Snapshot>,
    begun: bool,
}

impl Watching {
    /// Begins with nothing seen: the first poll gives every row.
    pub fn new(table: TableId, form: Form) -> Self {
        Self { table, form, seen: Arc::default(), begun: false }
    }

    /// What changed since the last poll, a line a change; often nothing.
    pub fn poll(&mut self, now: Arc<Snapshot>) -> String {
        let mut changes = now.listed_changes_of(self.table, &self.seen);
        // The order of the table differs from run to run.
        changes.sort_by(|a, b| epic_store::natural(&parts(a).2.key(), &parts(b).2.key()));
        self.seen = now;
        match self.form {
            Form::Text => self.text(&changes),
            Form::Json => self.json(&changes),
        }
    }

    fn text(&mut self, changes: &[ListedChange]) -> String {
        if changes.is_empty() && self.begun {
            return String::new();
        }
        let lines = changes.iter().map(|change| parts(change).2.clone()).collect();
        let listing = Listing { columns: Tables::columns_of(self.table), lines }.to_string();
        let mut lines = listing.lines();
        let head = lines.next().filter(|_| !self.begun).map(|head| format!("  {head}\n"));
        self.begun = true;
        let body = changes.iter().zip(lines).map(|(change, line)| format!("{} {line}\n", parts(change).0));
        head.into_iter().chain(body).collect()
    }

    fn json(&self, changes: &[ListedChange]) -> String {
        let listing = Listing { columns: Tables::columns_of(self.table), lines: Vec::new() };
        let line = |change: &ListedChange| {
            let (_, what, line) = parts(change);
            format!("{}\n", json!({"change": what, "row": listing.object(line)}))
        };
        changes.iter().map(line).collect()
    }
}

fn parts(change: &ListedChange) -> (char, &'static str, &Line) {
    match change {
        ListedChange::Added(line) => ('+', "added", line),
        ListedChange::Updated(line) => ('~', "updated", line),
        ListedChange::Removed(line) => ('-', "removed", line),
    }
}
