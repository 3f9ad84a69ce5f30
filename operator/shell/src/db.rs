//! `db`: the tables.

use epic_lb::{Snapshot, TableId};
use epic_store::{Line, Listing, Query, Schema as _};
use serde_json::json;

use crate::command::Rows;
use crate::{Error, Form, pretty};

pub(crate) fn tables(tables: &Snapshot, form: Form) -> String {
    let row = |table: &TableId| (table.name(), tables.len_of(*table), tables.revision_of(*table));
    match form {
        Form::Json => {
            let rows = TableId::ALL.iter().map(row);
            pretty(
                &rows
                    .map(|(name, rows, revision)| json!({"table": name, "rows": rows, "revision": revision}))
                    .collect(),
            )
        }
        Form::Text => {
            let lines = TableId::ALL.iter().map(row).map(|(name, rows, revision)| Line {
                revision,
                cells: vec![name.into(), rows.into(), revision.into()],
            });
            let listing = Listing { columns: vec!["table", "rows", "revision"], lines: lines.collect() };
            listing.to_string()
        }
    }
}

pub(crate) fn list(tables: &Snapshot, table: TableId, rows: &Rows, form: Form) -> Result<String, Error> {
    let query = match rows {
        Rows::All => Query::All,
        Rows::Key(key) => Query::Key(key),
        Rows::Prefix(text) => Query::Prefix(text),
        Rows::LowerBound(key) => Query::LowerBound(key),
    };
    let listing = tables.listing_of(table, query);
    if let Rows::Key(key) = rows
        && listing.lines.is_empty()
    {
        return Err(Error::NoRow { table, key: key.clone() });
    }
    Ok(match form {
        Form::Text => listing.to_string(),
        Form::Json => pretty(&listing.to_json()),
    })
}

pub(crate) fn initialized(tables: &Snapshot, form: Form) -> String {
    match form {
        Form::Json => {
            let pending: Vec<_> = tables
                .pending()
                .map(|pending| json!({"name": pending.name, "abandoned": pending.abandoned}))
                .collect();
            pretty(&json!({"initialized": tables.initialized(), "pending": pending}))
        }
        Form::Text if tables.initialized() => "every source has listed\n".to_owned(),
        Form::Text => tables.pending().map(|pending| format!("waiting for {pending}\n")).collect(),
    }
}
