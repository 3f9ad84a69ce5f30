//! Tables as text.

use std::fmt::Write as _;

use epic_lb::{Here, Selection, TableId, Writer};
use epic_store::{Query, Schema as _};

/// Every table that has rows, and who serves each frontend.
pub(crate) fn tables(writer: &Writer, here: Here<'_>) -> String {
    let snapshot = writer.snapshot();
    let mut out = String::new();
    for table in TableId::ALL.iter().filter(|table| snapshot.len_of(**table) > 0) {
        write!(out, "== {table}\n{}", snapshot.listing_of(*table, Query::All)).unwrap();
    }
    out.push_str("== serving\n");
    for frontend in snapshot.frontends.iter() {
        let selection = Selection::of(&snapshot, frontend, here);
        let serving: Vec<String> = selection.serving().map(|row| row.place.to_string()).collect();
        writeln!(out, "{} -> {}", frontend.key, serving.join(" ")).unwrap();
    }
    out
}
