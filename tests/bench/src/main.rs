//! The binary behind `cargo xtask bench` and `cargo xtask demo`.
//!
//! The benchmark's own helpers link the agent's code and run in namespaces of their own: they are verbs of
//! this program too ([`instrument`]).

mod agent;
mod compare;
mod control;
mod demo;
mod instrument;
mod lab;
mod latency;
mod machine;
mod measure;
mod outside;
mod plan;
mod quick;
mod report;
mod statistics;
mod thresholds;
mod underlay;
mod usage;

use std::process::ExitCode;

use clap::Parser;

#[derive(Parser)]
enum Verb {
    Compare(Box<compare::Args>),
    Demo(demo::Args),
    #[command(flatten)]
    Instrument(instrument::Verb),
}

fn main() -> ExitCode {
    let outcome = match Verb::parse() {
        Verb::Compare(args) => compare::run(&args),
        Verb::Demo(args) => demo::run(&args),
        Verb::Instrument(verb) => instrument::run(&verb),
    };
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
