//! What the benchmarks need of the agent's own code. A program of its own, since it links that code:
//! `cargo xtask` itself shall build quickly. `cargo xtask bench --latency` and `--control` start it.

mod agents;
mod drive;
mod fake;
mod fill;
mod lookup;
mod population;
mod recorder;
mod stopwatch;

use anyhow::Result;
use clap::Parser;

/// Fills registries, changes them, and takes the time until the changes are in maps.
#[derive(Parser)]
enum Verb {
    Agents(agents::Args),
    Drive(drive::Args),
    Fill(fill::Args),
    Lookup(lookup::Args),
    Stopwatch(stopwatch::Args),
}

#[tokio::main]
async fn main() -> Result<()> {
    match Verb::parse() {
        Verb::Agents(args) => agents::run(&args).await,
        Verb::Drive(args) => drive::run(&args).await,
        Verb::Fill(args) => fill::run(&args).await,
        Verb::Lookup(args) => lookup::run(&args),
        Verb::Stopwatch(args) => stopwatch::run(&args).await,
    }
}
