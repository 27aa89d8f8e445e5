//! Measurements that need the agent's own code, each in a separate process.

mod agents;
mod dataset;
mod fake;
mod fill;
mod load;
mod lookup;
mod recording_datapath;
mod stopwatch;

use std::env;

use anyhow::{Context as _, Result};

/// Fills registries, changes them, and takes the time until the changes are in maps.
#[derive(clap::Subcommand)]
pub(crate) enum Verb {
    Agents(agents::Args),
    Fill(fill::Args),
    Load(load::Args),
    Lookup(lookup::Args),
    Stopwatch(stopwatch::Args),
}

#[tokio::main]
pub(crate) async fn run(verb: &Verb) -> Result<()> {
    match verb {
        Verb::Agents(args) => agents::run(args).await,
        Verb::Fill(args) => fill::run(args).await,
        Verb::Load(args) => load::run(args).await,
        Verb::Lookup(args) => lookup::run(args),
        Verb::Stopwatch(args) => stopwatch::run(args).await,
    }
}

/// This program, whose verbs these are.
pub(crate) fn program() -> Result<String> {
    let program = env::current_exe()?.into_os_string().into_string();
    program
        .ok()
        .context("the path of the benchmark is not UTF-8")
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
