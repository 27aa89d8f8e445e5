//! The instrument: a program that links the agent's own code, which xtask itself does not. Its
//! source is in the folder beside this file.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result};
use duct::Expression;

use super::process;
use crate::workspace::Workspace;

/// Builds it, as fast as the agent is.
pub(super) fn build(workspace: &Workspace) -> Result<PathBuf> {
    const NAME: &str = "bench-instrument";
    workspace
        .cargo(&[
            "build",
            "--release",
            "--package",
            "xtask",
            "--bin",
            NAME,
            "--features",
            "instrument",
        ])?
        .run()
        .context("the benchmark's instrument does not build (see above)")?;
    Ok(workspace.target().join("release").join(NAME))
}

/// A command line of it.
pub(super) fn command(instrument: &Path, words: &[&str]) -> Result<Expression> {
    let program = instrument
        .to_str()
        .context("the instrument's path is not UTF-8")?;
    process::command(program, words)
}

/// How long one change took, in microseconds.
#[derive(Debug, Clone, PartialEq)]
pub(super) struct Timed {
    /// `add`, `move` or `remove`.
    pub(super) kind: String,
    /// The commit itself.
    pub(super) commit_us: f64,
    /// From its return to the map.
    pub(super) to_map_us: f64,
}

/// Takes the stopwatch's lines apart.
pub(super) fn timed(output: &str) -> Result<Vec<Timed>> {
    output
        .lines()
        .map(|line| {
            let mut words = line.split(' ');
            let mut next = || words.next();
            let timed = Timed {
                kind: next()?.to_owned(),
                commit_us: next()?.parse().ok()?,
                to_map_us: next()?.parse().ok()?,
            };
            next().is_none().then_some(timed)
        })
        .collect::<Option<_>>()
        .context("the stopwatch's output is malformed")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_stopwatchs_lines_are_read_in_order() {
        let read = timed("add 1200 3400\nmove 900 10\n").unwrap();
        let expected = [("add", 1200.0, 3400.0), ("move", 900.0, 10.0)];
        assert_eq!(
            read,
            expected.map(|(kind, commit_us, to_map_us)| Timed {
                kind: kind.to_owned(),
                commit_us,
                to_map_us,
            })
        );
    }

    #[test]
    fn a_line_cut_short_or_garbled_is_an_error() {
        for bad in ["add 1200 3400\nadd 900", "add 1200 x", "add 1 2 3"] {
            assert!(timed(bad).is_err(), "{bad}");
        }
    }
}
