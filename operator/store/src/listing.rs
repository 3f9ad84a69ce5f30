//! Rows of any table as text and as JSON, all of them or those that a query by text asks for.
//!
//! Keys are compared as people write them, by the text of the first column and with numbers by value: the order of keys
//! in a table may follow the order in which names were interned, which differs from run to run. So the same content gives
//! the same listing. A query looks at every row: it is for people and tests.

use std::cmp::Ordering;
use std::fmt;
use std::sync::Arc;

use serde_json::{Map, Value};

use crate::changes::Change;
use crate::column::cell;
use crate::row::{Row, Stored};
use crate::table::Table;

/// Which rows of a table, by the text of their keys.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Query<'a> {
    /// All.
    All,
    /// The one of this key.
    Key(&'a str),
    /// Those whose keys begin so.
    Prefix(&'a str),
    /// Those from this key on.
    LowerBound(&'a str),
}

impl Query<'_> {
    fn admits(&self, key: &str) -> bool {
        match self {
            Query::All => true,
            Query::Key(wanted) => key == *wanted,
            Query::Prefix(start) => key.starts_with(start),
            Query::LowerBound(least) => natural(key, least) != Ordering::Less,
        }
    }
}

/// One row.
#[derive(Clone, Debug, PartialEq)]
pub struct Line {
    /// Revision of the row. In JSON only: it depends on the past.
    pub revision: u64,
    /// A value per column.
    pub cells: Vec<Value>,
}

impl Line {
    fn of<R: Row>(row: &Stored<R>) -> Self {
        Self { revision: row.revision, cells: R::columns().iter().map(|column| column.value(row)).collect() }
    }

    /// The row's key as people write it.
    pub fn key(&self) -> String {
        self.cells.first().map(cell).unwrap_or_default()
    }
}

/// Rows of a table, sorted by key. Its [`Display`](fmt::Display) form is a text table with aligned columns.
#[derive(Clone, Debug, PartialEq)]
pub struct Listing {
    /// Names of the columns.
    pub columns: Vec<&'static str>,
    /// The rows.
    pub lines: Vec<Line>,
}

impl Listing {
    /// An array of objects, one a row.
    pub fn to_json(&self) -> Value {
        Value::Array(self.lines.iter().map(|line| self.object(line)).collect())
    }

    /// One row as an object, also one that [`ListedChange`] gave.
    pub fn object(&self, line: &Line) -> Value {
        let named = self.columns.iter().zip(&line.cells);
        let mut fields: Map<String, Value> =
            named.map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
        fields.insert("revision".to_owned(), line.revision.into());
        Value::Object(fields)
    }
}

impl fmt::Display for Listing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let head = self.columns.iter().map(|name| name.to_uppercase()).collect::<Vec<_>>();
        let body = self.lines.iter().map(|line| line.cells.iter().map(cell).collect::<Vec<_>>());
        let lines: Vec<Vec<String>> = std::iter::once(head).chain(body).collect();
        let width = |at: usize| lines.iter().map(|line| line[at].chars().count()).max().unwrap_or(0);
        let widths: Vec<usize> = (0..self.columns.len()).map(width).collect();
        for line in &lines {
            for (at, text) in line.iter().enumerate() {
                // Nothing behind the last column.
                if at + 1 == line.len() {
                    writeln!(f, "{text}")?;
                } else {
                    write!(f, "{text:<width$}  ", width = widths[at])?;
                }
            }
        }
        Ok(())
    }
}

/// What became of a row.
#[derive(Clone, Debug, PartialEq)]
pub enum ListedChange {
    /// Written for the first time.
    Added(Line),
    /// Written again; as it is now.
    Updated(Line),
    /// Removed; as it was.
    Removed(Line),
}

impl<R: Row> Table<R> {
    /// Rows as text and JSON.
    pub fn listing(&self, query: Query<'_>) -> Listing {
        let admitted = |row: &Arc<Stored<R>>| {
            let key = R::columns().first().map(|column| cell(&column.value(row))).unwrap_or_default();
            query.admits(&key).then(|| (key, Line::of(row)))
        };
        let mut found: Vec<(String, Line)> = self.iter().filter_map(admitted).collect();
        found.sort_by(|a, b| natural(&a.0, &b.0));
        Listing {
            columns: R::columns().iter().map(|column| column.name()).collect(),
            lines: found.into_iter().map(|(_, line)| line).collect(),
        }
    }

    /// What made an older table into this one, in the order of the table.
    pub fn listed_changes(&self, before: &Self) -> Vec<ListedChange> {
        let listed = |change| match change {
            Change::Added(row) => ListedChange::Added(Line::of(row)),
            Change::Updated { new, .. } => ListedChange::Updated(Line::of(new)),
            Change::Removed(row) => ListedChange::Removed(Line::of(row)),
        };
        self.changes_since(before).map(listed).collect()
    }
}

/// Compares texts with runs of digits by value: `10.0.0.9` before `10.0.0.10`.
pub fn natural(a: &str, b: &str) -> Ordering {
    let (mut rest_a, mut rest_b) = (a, b);
    loop {
        let ((part_a, next_a), (part_b, next_b)) = (part(rest_a), part(rest_b));
        let order = match (digits(part_a), digits(part_b)) {
            // Without leading zeros the longer number is the greater one.
            (Some(x), Some(y)) => x.len().cmp(&y.len()).then_with(|| x.cmp(y)),
            _ => part_a.cmp(part_b),
        };
        if order != Ordering::Equal {
            return order;
        }
        if part_a.is_empty() {
            // `07` and `7` are equal so far, and still two keys.
            return a.cmp(b);
        }
        (rest_a, rest_b) = (next_a, next_b);
    }
}

/// The digits that a text begins with, or its first character.
fn part(text: &str) -> (&str, &str) {
    let digits = text.len() - text.trim_start_matches(|c: char| c.is_ascii_digit()).len();
    let first = text.chars().next().map_or(0, char::len_utf8);
    text.split_at(digits.max(first))
}

fn digits(part: &str) -> Option<&str> {
    part.starts_with(|c: char| c.is_ascii_digit()).then(|| part.trim_start_matches('0'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_in_keys_are_ordered_by_value() {
        let mut keys = ["10.0.0.10:80", "b", "10.0.0.9:443", "10.0.0.9:80", "a10", "a9", "a", "07", "7", "é"];
        keys.sort_by(|a, b| natural(a, b));
        assert_eq!(
            keys,
            ["07", "7", "10.0.0.9:80", "10.0.0.9:443", "10.0.0.10:80", "a", "a9", "a10", "b", "é"]
        );
    }

    #[test]
    fn a_text_table_is_aligned() {
        let line = |name: &str, port: u16| Line { revision: 7, cells: vec![name.into(), port.into()] };
        let listing =
            Listing { columns: vec!["name", "port"], lines: vec![line("acme/web", 80), line("b", 8080)] };
        assert_eq!(listing.to_string(), "NAME      PORT\nacme/web  80\nb         8080\n");
        let json = r#"[{"name":"acme/web","port":80,"revision":7},{"name":"b","port":8080,"revision":7}]"#;
        assert_eq!(listing.to_json().to_string(), json);
    }
}
