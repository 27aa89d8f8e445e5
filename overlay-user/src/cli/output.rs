//! Prints tables, JSON, and a spinner while something takes long.

use std::{
    ffi::OsString,
    fmt::Display,
    future::Future,
    io::{self, IsTerminal as _, Write},
    time::Duration,
};

use clap::ValueEnum;
use indicatif::ProgressBar;
use serde::Serialize;
use serde_json::json;

use crate::observe::table::{Layout, Table};

/// The reader of the output.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Format {
    /// For people.
    Table,
    /// For programs.
    Json,
}

impl Format {
    /// The format that a command line asks for which clap refused as a whole.
    pub(super) fn from_args(args: &[OsString]) -> Self {
        let words: Vec<_> = args
            .iter()
            .map(|arg| arg.to_string_lossy())
            .take_while(|arg| arg != "--")
            .collect();
        let joined = words
            .iter()
            .any(|word| matches!(&**word, "-ojson" | "-o=json" | "--output=json"));
        let apart = words
            .windows(2)
            .any(|pair| matches!(pair, [flag, value] if (flag == "-o" || flag == "--output") && value == "json"));
        if joined || apart {
            Self::Json
        } else {
            Self::Table
        }
    }
}

/// Asks a person at a terminal. `None`: there is none.
pub(super) fn is_confirmed(question: &str) -> io::Result<Option<bool>> {
    if !io::stdin().is_terminal() {
        return Ok(None);
    }
    write!(io::stderr(), "{question} [y/N] ")?;
    let mut answer = String::new();
    io::stdin().read_line(&mut answer)?;
    Ok(Some(matches!(answer.trim(), "y" | "yes")))
}

/// Where a verb's answer goes.
pub struct Output<'a> {
    format: Format,
    out: &'a mut dyn Write,
    is_terminal: bool,
}

impl<'a> Output<'a> {
    /// Prints to `out`.
    pub fn new(format: Format, out: &'a mut dyn Write) -> Self {
        Self {
            format,
            out,
            is_terminal: false,
        }
    }

    /// The same, where `out` is a terminal or not.
    #[must_use]
    pub fn on_terminal(self, is_terminal: bool) -> Self {
        Self {
            is_terminal,
            ..self
        }
    }

    /// The reader.
    pub(super) fn format(&self) -> Format {
        self.format
    }

    /// Whether a person looks at it who can be shown another picture in the place of this one.
    pub(super) fn is_redrawn(&self) -> bool {
        self.is_terminal && self.format == Format::Table
    }

    /// Says what has to be known of the answer: on stderr, or above it where it is redrawn.
    pub(super) fn note(&mut self, note: &str) -> io::Result<()> {
        let note = note.replace(|c: char| c.is_control(), " ");
        if self.is_redrawn() {
            return writeln!(self.out, "note: {note}");
        }
        let mut stderr = io::stderr().lock();
        match self.format {
            Format::Table => writeln!(stderr, "note: {note}"),
            Format::Json => writeln!(stderr, "{}", json!({"note": note})),
        }
    }

    /// Prints `value` as JSON, or as `people` wants to read it.
    pub fn show<T: Serialize>(
        &mut self,
        value: &T,
        people: impl FnOnce(&T, &mut dyn Write) -> io::Result<()>,
    ) -> io::Result<()> {
        match self.format {
            Format::Table => people(value, self.out)?,
            Format::Json => {
                serde_json::to_writer_pretty(&mut *self.out, value)?;
                writeln!(self.out)?;
            }
        }
        self.out.flush()
    }

    /// Prints one value of many on a line of its own, at once.
    pub fn line<T: Serialize + Display>(&mut self, value: &T) -> io::Result<()> {
        match self.format {
            Format::Table => writeln!(self.out, "{value}")?,
            Format::Json => {
                serde_json::to_writer(&mut *self.out, value)?;
                writeln!(self.out)?;
            }
        }
        self.out.flush()
    }

    /// Begins a list that comes in pages.
    pub fn list(&mut self) -> List<'_, 'a> {
        List {
            output: self,
            layout: Layout::default(),
            is_empty: true,
        }
    }

    /// Prints text that is the same for everyone.
    pub fn text(&mut self, text: &[u8]) -> io::Result<()> {
        self.out.write_all(text)?;
        self.out.flush()
    }

    /// Waits for `work`; people at a terminal see that it goes on.
    pub async fn during<T>(&self, what: String, work: impl Future<Output = T>) -> T {
        if self.format == Format::Json {
            return work.await;
        }
        // Draws on stderr, and nothing at all where that is no terminal.
        let spinner = ProgressBar::new_spinner().with_message(what);
        spinner.enable_steady_tick(Duration::from_millis(100));
        let outcome = work.await;
        spinner.finish_and_clear();
        outcome
    }
}

/// A list that is printed page by page, however long it is.
pub struct List<'o, 'a> {
    output: &'o mut Output<'a>,
    layout: Layout,
    is_empty: bool,
}

impl List<'_, '_> {
    /// Prints the next page, as JSON or as the rows of `table`.
    pub fn page<T: Serialize>(
        &mut self,
        values: &[T],
        table: impl FnOnce(&[T]) -> Table,
    ) -> io::Result<()> {
        let Output { format, out, .. } = self.output;
        match format {
            Format::Table => self.layout.write(table(values), *out),
            Format::Json => {
                for value in values {
                    let is_first = std::mem::replace(&mut self.is_empty, false);
                    out.write_all(if is_first { b"[\n  " } else { b",\n  " })?;
                    let text = serde_json::to_string_pretty(value)?;
                    out.write_all(text.replace('\n', "\n  ").as_bytes())?;
                }
                Ok(())
            }
        }
    }

    /// Prints what belongs behind the last page.
    pub fn end(self, table: impl FnOnce() -> Table) -> io::Result<()> {
        let Output { format, out, .. } = self.output;
        match format {
            Format::Table if self.layout.is_begun() => {}
            Format::Table => table().write(*out)?,
            Format::Json if self.is_empty => writeln!(out, "[]")?,
            Format::Json => writeln!(out, "\n]")?,
        }
        out.flush()
    }
}
