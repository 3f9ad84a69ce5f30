//! Columns: what people see of a row, from which text, JSON and queries by text follow.

use std::fmt::{self, Debug, Display};

use serde_json::Value;

/// One column of a table.
pub struct Column<R> {
    name: &'static str,
    value: fn(&R) -> Value,
}

impl<R> Column<R> {
    /// A column; its name is also the field of the JSON form. `null` is shown as `-`.
    pub const fn new(name: &'static str, value: fn(&R) -> Value) -> Self {
        Self { name, value }
    }

    /// Its name.
    pub const fn name(&self) -> &'static str {
        self.name
    }

    /// Its value of a row.
    pub fn value(&self, row: &R) -> Value {
        (self.value)(row)
    }
}

impl<R> Debug for Column<R> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Column").field(&self.name).finish()
    }
}

/// A value as text, for what JSON has no type for.
pub fn text(value: impl Display) -> Value {
    Value::String(value.to_string())
}

/// A value, or `null`.
pub fn optional(value: Option<impl Display>) -> Value {
    value.map_or(Value::Null, text)
}

/// Texts of a list.
pub fn list(values: impl IntoIterator<Item = impl Display>) -> Value {
    Value::Array(values.into_iter().map(text).collect())
}

/// A cell of a text table: one line whatever it holds, for rows may carry what a tenant wrote.
pub(crate) fn cell(value: &Value) -> String {
    match value {
        Value::Null => "-".to_owned(),
        Value::String(text) if text.is_empty() => "\"\"".to_owned(),
        Value::String(text) => printable(text),
        Value::Array(values) if values.is_empty() => "-".to_owned(),
        Value::Array(values) => values.iter().map(cell).collect::<Vec<_>>().join(","),
        Value::Bool(_) | Value::Number(_) | Value::Object(_) => printable(&value.to_string()),
    }
}

fn printable(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in text.chars() {
        if c.is_control() { out.extend(c.escape_default()) } else { out.push(c) }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cell_is_one_line_whatever_it_holds() {
        assert_eq!(cell(&text("a\nb\u{1b}[2J")), "a\\nb\\u{1b}[2J");
        assert_eq!(cell(&optional(None::<u8>)), "-");
        assert_eq!(cell(&text("")), "\"\"");
        assert_eq!(cell(&list(["a", "b"])), "a,b");
        assert_eq!(cell(&list(Vec::<u8>::new())), "-");
        assert_eq!(cell(&Value::Bool(true)), "true");
    }
}
