//! A table of text: columns as wide as their longest cell.

use std::{fmt::Write as _, iter};

/// A table of text.
///
/// A cell has no control characters: those of stored texts, such as errors of handlers, could move the cursor of a
/// terminal.
#[derive(Debug)]
pub(crate) struct Table {
    /// The names, with `true` for a column whose cells end on the right.
    columns: Vec<(&'static str, bool)>,
    rows: Vec<Vec<String>>,
}

impl Table {
    /// Makes a table with [these columns](columns); the cells of one with `>` end on the right.
    pub(crate) fn new(names: &'static str) -> Self {
        Self { columns: columns(names).collect(), rows: Vec::new() }
    }

    /// Adds a row for each item.
    pub(crate) fn rows<T, const N: usize>(
        mut self,
        items: impl IntoIterator<Item = T>,
        cells: impl Fn(T) -> [String; N],
    ) -> Self {
        items.into_iter().for_each(|item| self.add(cells(item)));
        self
    }

    /// Adds a row, with a cell for each column.
    pub(crate) fn add<const N: usize>(&mut self, cells: [String; N]) {
        debug_assert_eq!(N, self.columns.len(), "a row has a cell for each column");
        self.rows.push(cells.into_iter().map(|cell| printable(&cell)).collect());
    }

    /// Returns the lines of the table.
    pub(crate) fn to_text(&self) -> String {
        let header: Vec<_> = self.columns.iter().map(|(name, _)| (*name).to_owned()).collect();
        let width = |column: usize| {
            let cells = iter::once(&header).chain(&self.rows).filter_map(|row| row.get(column));
            cells.map(|cell| cell.chars().count()).max().unwrap_or_default()
        };
        let widths: Vec<_> = (0..self.columns.len()).map(width).collect();
        let mut text = String::new();
        for row in iter::once(&header).chain(&self.rows) {
            let mut line = String::new();
            for ((cell, width), (_, is_right)) in row.iter().zip(&widths).zip(&self.columns) {
                // writing to a string cannot fail
                let _ = match is_right {
                    false => write!(line, "{cell:<width$}  "),
                    true => write!(line, "{cell:>width$}  "),
                };
            }
            text.push_str(line.trim_end());
            text.push('\n');
        }
        text
    }
}

/// Returns the columns of a table, which are separated by commas, and `true` for one whose name ends with `>`.
pub(crate) fn columns(names: &'static str) -> impl Iterator<Item = (&'static str, bool)> {
    names.split(", ").map(|name| name.strip_suffix('>').map_or((name, false), |name| (name, true)))
}

/// Returns a text without control characters: each is shown escaped.
pub(crate) fn printable(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut shown, c| {
        if c.is_control() {
            shown.extend(c.escape_debug())
        } else {
            shown.push(c)
        }
        shown
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_cells_and_lines_end_with_text() {
        let mut table = Table::new("NAME, AT>, OWNER");
        table.add(["order-rows".into(), "9".into(), String::new()]);
        table.add(["漢".into(), "9120".into(), "a\u{1b}[2Jb\n".into()]);
        let wanted = "NAME          AT  OWNER\norder-rows     9\n漢           9120  a\\u{1b}[2Jb\\n\n";
        assert_eq!(table.to_text(), wanted);
    }
}
