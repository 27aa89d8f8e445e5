//! Tables without borders, as `kubectl get` prints them.

use std::{
    io::{self, Write},
    iter,
};

use comfy_table::{
    Cell, Color, ColumnConstraint, ContentArrangement, Table as Grid, Width, presets,
};

/// Spaces between two columns.
const GAP: u16 = 3;

/// Rows under a header. Nothing is wrapped or cut: scripts may read it too.
pub struct Table {
    header: Vec<String>,
    rows: Grid,
}

impl Table {
    /// An empty table.
    #[must_use]
    pub fn new<const N: usize>(header: [&str; N]) -> Self {
        Self {
            header: header.map(str::to_owned).into(),
            rows: Self::bare(),
        }
    }

    /// An empty table whose columns are known only when it is made.
    #[must_use]
    pub fn with_header(header: impl IntoIterator<Item = String>) -> Self {
        Self {
            header: header.into_iter().collect(),
            rows: Self::bare(),
        }
    }

    /// Adds a row of as many cells as the header has. Those that are marked are red on a terminal.
    pub fn marked(&mut self, cells: impl IntoIterator<Item = (String, bool)>) {
        let cells = cells.into_iter().map(|(text, is_marked)| {
            let cell = Cell::new(text);
            if is_marked { cell.fg(Color::Red) } else { cell }
        });
        self.rows.add_row(cells);
    }

    /// Two columns, names and values, without a header.
    #[must_use]
    pub fn properties<'a>(properties: impl IntoIterator<Item = (&'a str, String)>) -> Self {
        let mut rows = Self::bare();
        for (name, value) in properties {
            rows.add_row([name.to_owned(), value]);
        }
        Self {
            header: Vec::new(),
            rows,
        }
    }

    fn bare() -> Grid {
        let mut grid = Grid::new();
        grid.load_style(presets::NOTHING)
            .set_content_arrangement(ContentArrangement::Disabled);
        grid
    }

    /// Adds a row.
    pub fn row<const N: usize>(&mut self, cells: [String; N]) {
        self.rows.add_row(cells);
    }

    /// Prints it.
    pub fn write(self, out: &mut dyn Write) -> io::Result<()> {
        Layout::default().write(self, out)
    }
}

/// The columns of a table that is printed page by page: the header once, and no column narrower
/// than it was.
#[derive(Debug, Default)]
pub struct Layout {
    widths: Option<Vec<u16>>,
}

impl Layout {
    /// Whether a page was printed.
    #[must_use]
    pub fn is_begun(&self) -> bool {
        self.widths.is_some()
    }

    /// Prints the next page.
    pub fn write(&mut self, table: Table, out: &mut dyn Write) -> io::Result<()> {
        let Table { header, mut rows } = table;
        match &self.widths {
            None if header.is_empty() => {}
            None => {
                rows.set_header(header);
            }
            Some(widths) => {
                for (column, width) in rows.column_iter_mut().zip(widths) {
                    let width = Width::Fixed(width.saturating_add(GAP));
                    column.set_constraint(ColumnConstraint::LowerBoundary(width));
                }
            }
        }
        for column in rows.column_iter_mut() {
            column.set_padding((0, GAP));
        }
        let content = rows.column_max_content_widths().into_iter();
        let previous = self.widths.take().unwrap_or_default().into_iter();
        let widths = content.zip(previous.chain(iter::repeat(0)));
        self.widths = Some(widths.map(|(now, before)| now.max(before)).collect());
        writeln!(out, "{}", rows.trim_fmt())
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
    fn pages_share_a_header_and_their_columns_only_grow() {
        let mut layout = Layout::default();
        let mut out = Vec::new();
        for (name, vni) in [("blue", "42"), ("a", "4200"), ("a-long-name", "1")] {
            let mut page = Table::new(["NAME", "VNI"]);
            page.row([name.into(), vni.into()]);
            layout.write(page, &mut out).unwrap();
        }
        assert_eq!(
            String::from_utf8(out).unwrap(),
            "NAME   VNI\nblue   42\na      4200\na-long-name   1\n"
        );
    }

    #[test]
    fn an_empty_table_is_its_header() {
        assert_eq!(print(Table::new(["NAME", "VNI"])), "NAME   VNI\n");
    }
}
