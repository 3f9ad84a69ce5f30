//! The table of docs/conditions.md, which people and tests read alike: those of the operator make each situation as a
//! value, those of `epicctl explain` say what is to be done in it.

use std::collections::{BTreeMap, BTreeSet};

use epic_crds::{Condition, Reason};

const TEXT: &str = include_str!("../../../docs/conditions.md");

/// Below this heading stand the reasons that Events alone have: of which kinds, and when they come.
const EVENTS: &str = "Events";

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

/// Checks that the table has just these situations of a kind, and says of each what its conditions say.
///
/// # Panics
/// When they differ.
pub fn check(kind: &str, found: Vec<(&str, Vec<Condition>)>) {
    let mut rows = rows(kind);
    let mut wrong = Vec::new();
    for (name, conditions) in found {
        let said: BTreeMap<String, String> = conditions
            .iter()
            .map(|known| (known.type_.clone(), format!("{} {}", known.status.as_str(), known.reason)))
            .collect();
        match rows.remove(name) {
            None => wrong.push(format!("docs/conditions.md lacks {kind} {name:?}: {said:?}")),
            Some(row) if row.conditions != said => {
                wrong.push(format!(
                    "{kind} {name:?} is {said:?}, docs/conditions.md says {:?}",
                    row.conditions
                ));
            }
            Some(row) if row.fix.is_empty() => wrong.push(format!("{kind} {name:?}: what is to be done?")),
            Some(_) => {}
        }
    }
    wrong.extend(
        rows.keys().map(|name| format!("docs/conditions.md has {kind} {name:?}, which nothing makes")),
    );
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// The headings of a kind: its name, and its name with what the table is about.
pub fn headings(kind: &str) -> Vec<&'static str> {
    let headings = TEXT.lines().filter_map(|line| line.strip_prefix("## "));
    headings.filter(|heading| heading.split(':').next() == Some(kind)).collect()
}

/// What is wrong with the reasons of a kind: each stands in a row of one of its tables, and so a value was made that has
/// it, or among those of Events.
pub fn unexplained<R: Reason>(kind: &str) -> Vec<String> {
    let mut said = BTreeSet::new();
    for row in headings(kind).into_iter().flat_map(|heading| rows(heading).into_values()) {
        said.extend(row.conditions.into_values().filter_map(|cell| Some(cell.split_once(' ')?.1.to_owned())));
    }
    let of = |row: &Row| row.conditions["of"].split(", ").any(|named| named == kind);
    said.extend(rows(EVENTS).into_iter().filter(|(_, row)| of(row)).map(|(reason, _)| reason));
    let all: BTreeSet<String> = R::ALL.iter().map(|(reason, _)| reason.as_str().to_owned()).collect();
    let lacking = all.difference(&said).map(|reason| format!("docs/conditions.md lacks {kind} {reason}"));
    let strange = said.difference(&all).map(|reason| format!("{kind} has no reason {reason}"));
    lacking.chain(strange).collect()
}
