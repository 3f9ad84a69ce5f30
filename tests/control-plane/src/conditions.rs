//! The table of docs/conditions.md, which people and tests read alike: those of the operator make each situation as a
//! value, those of `epicctl explain` say what is to be done in it.

use std::collections::BTreeMap;

/// The whole text.
pub const TEXT: &str = include_str!("../../../docs/conditions.md");

/// What the table says of a situation.
#[derive(Debug)]
pub struct Row {
    /// The conditions by type, as `Status Reason`; those that are not there are missing.
    pub conditions: BTreeMap<String, String>,
    /// What to do.
    pub fix: String,
}

/// The rows below the heading of a kind, by their situation.
///
/// # Panics
/// When a row has another number of cells than its heading.
pub fn rows(kind: &str) -> BTreeMap<String, Row> {
    let heading = format!("## {kind}");
    let section =
        TEXT.lines().skip_while(|line| *line != heading).skip(1).take_while(|line| !line.starts_with("## "));
    let mut lines = section.filter(|line| line.starts_with('|')).map(|line| {
        let cells = line.trim_matches('|').split('|').map(|cell| cell.trim().replace('`', ""));
        cells.collect::<Vec<String>>()
    });
    let titles = lines.next().unwrap_or_default();
    let row = |cells: Vec<String>| {
        assert_eq!(cells.len(), titles.len(), "a row of {kind} has another number of cells: {cells:?}");
        let conditions = titles.iter().zip(&cells).skip(1).take(titles.len().saturating_sub(2));
        let conditions = conditions.filter(|(_, cell)| *cell != "–");
        let conditions = conditions.map(|(title, cell)| (title.clone(), cell.clone())).collect();
        (cells[0].clone(), Row { conditions, fix: cells.last().cloned().unwrap_or_default() })
    };
    lines.skip(1).map(row).collect()
}
