//! What the demo prints: headings, prompts and lines, their output. Coloured on a terminal that
//! wants it.

use std::io::{Stdout, Write as _};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use anyhow::Result;
use comfy_table::{Table, presets};

const HEADING: Style = AnsiColor::Cyan.on_default().bold();
const PROMPT: Style = AnsiColor::Green.on_default();
const LINE: Style = Style::new().bold();
const ASIDE: Style = Style::new().italic();

/// What belongs to each tenant has its colour, in the drawing and in what programs print.
const TENANTS: [(&[&str], Style); 2] = [
    // The longer words are looked for first: a blue-43 is not blue's.
    (
        &["blue-43", "green-43", "VNI 43", "vni 43"],
        AnsiColor::Magenta.on_default(),
    ),
    (
        &["blue", "green", "VNI 42", "vni 42"],
        AnsiColor::Blue.on_default().bold(),
    ),
];

/// Columns that prose is wrapped at.
const WIDTH: usize = 96;

pub(super) struct Screen {
    out: AutoStream<Stdout>,
    steps: u32,
}

impl Screen {
    pub(super) fn new() -> Self {
        Self {
            out: anstream::stdout(),
            steps: 0,
        }
    }

    pub(super) fn title(&mut self, title: &str, drawing: &str) -> Result<()> {
        writeln!(self.out, "{HEADING}{title}{HEADING:#}\n")?;
        self.output(drawing)
    }

    /// Begins a step; `about` may be empty.
    pub(super) fn step(&mut self, heading: &str, about: &str) -> Result<()> {
        self.steps += 1;
        let number = self.steps;
        writeln!(self.out, "\n{HEADING}{number}. {heading}{HEADING:#}")?;
        if !about.is_empty() {
            self.aside(about)?;
        }
        Ok(writeln!(self.out)?)
    }

    /// Says something between lines.
    pub(super) fn note(&mut self, text: &str) -> Result<()> {
        writeln!(self.out)?;
        self.aside(text)?;
        Ok(writeln!(self.out)?)
    }

    /// A line as it was typed, behind the prompt of a host or of the machine itself.
    pub(super) fn command(&mut self, host: Option<&str>, line: &str) -> Result<()> {
        let prompt = host.map_or_else(|| "$".to_owned(), |host| format!("{host} $"));
        writeln!(self.out, "{PROMPT}{prompt}{PROMPT:#} {LINE}{line}{LINE:#}")?;
        Ok(self.out.flush()?)
    }

    /// What a line printed.
    pub(super) fn output(&mut self, text: &str) -> Result<()> {
        for line in text.trim_end().lines() {
            writeln!(self.out, "{}", coloured(line))?;
        }
        Ok(())
    }

    pub(super) fn table(&mut self, mut table: Table) -> Result<()> {
        for column in table.column_iter_mut() {
            column.set_padding((0, 3));
        }
        let text = table.trim_fmt();
        self.output(&text)
    }

    fn aside(&mut self, text: &str) -> Result<()> {
        for line in textwrap::wrap(text, WIDTH) {
            writeln!(self.out, "{ASIDE}{line}{ASIDE:#}")?;
        }
        Ok(())
    }
}

/// A table in the style of what `overlay` prints.
pub(super) fn table(titles: &[&str]) -> Table {
    let mut table = Table::new();
    table.load_style(presets::NOTHING).set_header(titles);
    table
}

/// Gives a line's words their tenant's colour.
fn coloured(line: &str) -> String {
    let Some((at, word, style)) = first_word(line) else {
        return line.to_owned();
    };
    let (before, rest) = line.split_at(at);
    let rest = coloured(rest.strip_prefix(word).unwrap_or_default());
    format!("{before}{style}{word}{style:#}{rest}")
}

/// The first of the tenants' words in a text, and where it begins.
fn first_word(text: &str) -> Option<(usize, &'static str, Style)> {
    TENANTS
        .iter()
        .flat_map(|(words, style)| words.iter().map(move |word| (*word, *style)))
        .filter_map(|(word, style)| Some((text.find(word)?, word, style)))
        // The first of equals: the longer word.
        .min_by_key(|(at, ..)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_word_that_begins_with_another_has_its_own_colour() {
        let [(_, second), (_, first)] = TENANTS;
        assert_eq!(
            coloured("blue, blue-43."),
            format!("{first}blue{first:#}, {second}blue-43{second:#}.")
        );
    }
}
