//! Tables of text: columns as wide as their widest cell.
//!
//! Texts come from objects that tenants write, so whatever a terminal would obey is made visible.

/// Lines of a table, each indented. Nothing for no rows.
pub(super) fn table(indent: usize, head: &[&str], rows: &[Vec<String>]) -> String {
    if rows.is_empty() {
        return String::new();
    }
    let head: Vec<String> = head.iter().map(|&name| name.to_owned()).collect();
    let rows: Vec<Vec<String>> =
        rows.iter().map(|row| row.iter().map(|cell| cell_text(cell)).collect()).collect();
    let width = |column: usize| {
        let cells = std::iter::once(&head).chain(&rows).filter_map(|row| row.get(column));
        cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
    };
    let widths: Vec<usize> = (0..head.len()).map(width).collect();
    let mut text = String::new();
    for row in std::iter::once(&head).chain(&rows) {
        let mut line = " ".repeat(indent);
        for (cell, &width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn cell_text(cell: &str) -> String {
    if cell.is_empty() { "-".to_owned() } else { visible(cell) }
}

/// The text on one line, without anything that a terminal would obey.
pub(super) fn visible(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '\n' | '\t' => ' ',
            other if other.is_control() => '\u{fffd}',
            other => other,
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let rows = [vec!["a".to_owned(), String::new()], vec!["longer".to_owned(), "x".to_owned()]];
        assert_eq!(table(2, &["NAME", "X"], &rows), "  NAME    X\n  a       -\n  longer  x\n");
        assert_eq!(table(0, &["NAME"], &[]), "");
    }

    #[test]
    fn a_tenant_cannot_write_on_the_administrators_terminal() {
        assert_eq!(visible("a\u{1b}[2Jb\nc"), "a\u{fffd}[2Jb c");
    }
}
