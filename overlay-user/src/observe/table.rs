//! Tables without borders, as `kubectl get` prints them.

use std::io::{self, Write};

use comfy_table::{ContentArrangement, Table as Grid, presets};

/// Spaces between two columns.
const GAP: u16 = 3;

/// Rows under a header. Nothing is wrapped or cut: scripts may read it too.
pub struct Table(Grid);

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new<const N: usize>(header: [&str; N]) -> Self {
        let mut grid = Self::bare();
        grid.set_header(header);
        Self(grid)
    }

    /// Two columns, names and values, without a header.
    #[must_use]
    pub fn properties<const N: usize>(properties: [(&str, String); N]) -> Self {
        let mut grid = Self::bare();
        for (name, value) in properties {
            grid.add_row([name.to_owned(), value]);
        }
        Self(grid)
    }

    fn bare() -> Grid {
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        grid
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.0.add_row(cells);
    }

    /// Prints it.
    pub fn write(mut self, out: &mut dyn Write) -> io::Result<()> {
        for column in self.0.column_iter_mut() {
            column.set_padding((0, GAP));
        }
        writeln!(out, "{}", self.0.trim_fmt())
    }
}

/// The cell for something that may be missing.
pub fn or_dash(value: Option<impl ToString>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

/// The cell for a list.
pub fn list<T: ToString>(values: &[T]) -> String {
    if values.is_empty() {
        return "-".to_owned();
    }
    let texts: Vec<_> = values.iter().map(ToString::to_string).collect();
    texts.join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(table: Table) -> String {
        let mut out = Vec::new();
        table.write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn columns_are_as_wide_as_their_longest_cell_and_lines_end_without_spaces() {
        let mut table = Table::new(["NAME", "VNI"]);
        table.row(["a-long-name".into(), "42".into()]);
        table.row(["b".into(), "16777215".into()]);
        assert_eq!(
            print(table),
            "NAME          VNI\na-long-name   42\nb             16777215\n"
        );
    }

    #[test]
    fn an_empty_table_is_its_header() {
        assert_eq!(print(Table::new(["NAME", "VNI"])), "NAME   VNI\n");
    }
}
