//! What the demo prints: headings, prompts and lines, their output. Coloured on a terminal that
//! wants it.

use std::io::{Stdout, Write as _};

use anstream::AutoStream;
use anstyle::{AnsiColor, Style};
use anyhow::Result;

const HEADING: Style = AnsiColor::Cyan.on_default().bold();
const PROMPT: Style = AnsiColor::Green.on_default();
const LINE: Style = Style::new().bold();
const ASIDE: Style = Style::new().italic();
const RESULT: Style = AnsiColor::Yellow.on_default().bold();

/// What each endpoint has for a colour, in the drawing and in what programs print.
const ENDPOINTS: [(&str, Style); 2] = [
    ("blue", AnsiColor::Blue.on_default().bold()),
    ("green", AnsiColor::Green.on_default().bold()),
];

/// Columns: no line is wider.
pub(super) const WIDTH: usize = 80;

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
        let mut lines = typed(&prompt, line).into_iter();
        let first = lines.next().unwrap_or_default();
        writeln!(self.out, "{PROMPT}{prompt}{PROMPT:#} {LINE}{first}{LINE:#}")?;
        for line in lines {
            writeln!(self.out, "{LINE}{line}{LINE:#}")?;
        }
        Ok(self.out.flush()?)
    }

    /// What a line printed.
    pub(super) fn output(&mut self, text: &str) -> Result<()> {
        for line in text.trim_end().lines().flat_map(fitted) {
            writeln!(self.out, "{}", coloured(&line))?;
        }
        Ok(self.out.flush()?)
    }

    /// What came of a step.
    pub(super) fn result(&mut self, text: &str) -> Result<()> {
        for line in fitted(text) {
            writeln!(self.out, "{RESULT}{line}{RESULT:#}")?;
        }
        Ok(())
    }

    fn aside(&mut self, text: &str) -> Result<()> {
        for line in textwrap::wrap(text, WIDTH) {
            writeln!(self.out, "{ASIDE}{line}{ASIDE:#}")?;
        }
        Ok(())
    }
}

/// A line of output, in as many as it needs.
fn fitted(line: &str) -> Vec<String> {
    // The drawing's lines and blocks are as wide as letters, which the wrapping does not know.
    if line.chars().count() <= WIDTH {
        return vec![line.to_owned()];
    }
    let wrapped = textwrap::wrap(
        line,
        textwrap::Options::new(WIDTH).subsequent_indent("    "),
    );
    wrapped.into_iter().map(String::from).collect()
}

/// A line that is typed behind a prompt, in as many as it needs: each but the last ends as a shell wants it.
fn typed(prompt: &str, line: &str) -> Vec<String> {
    const CONTINUED: &str = " \\";
    let width = WIDTH - CONTINUED.len();
    let options = textwrap::Options::new(width)
        .initial_indent(" ")
        .subsequent_indent("    ")
        .break_words(false)
        .word_splitter(textwrap::WordSplitter::NoHyphenation);
    // The prompt takes its columns of the first line.
    let behind = format!("{}{line}", "_".repeat(prompt.chars().count()));
    let mut lines: Vec<String> = textwrap::wrap(&behind, options)
        .into_iter()
        .map(|line| format!("{line}{CONTINUED}"))
        .collect();
    if let Some(first) = lines.first_mut() {
        *first = first.trim_start_matches([' ', '_']).to_owned();
    }
    if let Some(last) = lines.last_mut() {
        last.truncate(last.len() - CONTINUED.len());
    }
    lines
}

/// Gives a line's words their endpoint's colour.
fn coloured(line: &str) -> String {
    let Some((at, word, style)) = first_word(line) else {
        return line.to_owned();
    };
    let (before, rest) = line.split_at(at);
    let rest = coloured(rest.strip_prefix(word).unwrap_or_default());
    format!("{before}{style}{word}{style:#}{rest}")
}

/// The first of the endpoints' names in a text, and where it begins.
fn first_word(text: &str) -> Option<(usize, &'static str, Style)> {
    let found = ENDPOINTS.into_iter();
    found
        .filter_map(|(word, style)| Some((text.find(word)?, word, style)))
        .min_by_key(|(at, ..)| *at)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_endpoint_has_its_own_colour() {
        let [(_, blue), (_, green)] = ENDPOINTS;
        assert_eq!(
            coloured("green, blue."),
            format!("{green}green{green:#}, {blue}blue{blue:#}.")
        );
    }

    #[test]
    fn no_line_is_wider_than_a_terminal_and_what_was_typed_can_be_pasted() {
        let long = "overlay run --iface underlay --node host-1 --vni 42 --registry \
                    sqlite:///run/overlay-demo/registry.db 2> host-1.log &";
        let long = long.split_whitespace().collect::<Vec<_>>().join(" ");
        let mut lines = typed("host-1 $", &long);
        assert!(lines.len() > 1);
        if let Some(first) = lines.first_mut() {
            *first = format!("host-1 $ {first}");
        }
        for line in lines.iter().chain(&fitted(&long.repeat(3))) {
            assert!(line.chars().count() <= WIDTH, "{line}");
        }
        let pasted = lines.join("\n").replace("\\\n", "");
        let words: Vec<_> = pasted.split_whitespace().skip(2).collect();
        assert_eq!(words.join(" "), long);
        assert_eq!(typed("$", "ip netns add a"), ["ip netns add a"]);
        for line in super::super::topology::DRAWING.lines() {
            assert_eq!(fitted(line), [line]);
        }
    }
}
