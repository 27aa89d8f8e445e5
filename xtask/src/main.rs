//! The overlay's own commands: `cargo xtask build`, `run`, `demo`, `test`, `bench`, `lint`, `package`.
//!
//! One verb is one module, one variant of [`Verb`] and one line of the dispatch. Every verb installs
//! what it needs and builds what it runs, so that each of them is the only command that one has to
//! know on a new machine.

mod bench;
mod build;
mod demo;
mod host;
mod kernels;
mod lint;
mod package;
mod progress;
mod run;
mod setup;
mod test;
mod workspace;

use std::process::ExitCode;

use clap::Parser;

use crate::workspace::Workspace;

/// Builds, runs, demonstrates, tests and measures the overlay.
#[derive(Parser)]
#[command(name = "cargo xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Cli {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(clap::Subcommand)]
enum Verb {
    Setup(setup::Args),
    Build(build::Args),
    Run(run::Args),
    Demo(demo::Args),
    Test(test::Args),
    Bench(bench::Args),
    Lint(lint::Args),
    Package(package::Args),
}

fn main() -> ExitCode {
    let cli = Cli::parse();
    let outcome = Workspace::find().and_then(|workspace| match cli.verb {
        Verb::Setup(args) => setup::run(&args, &workspace),
        Verb::Build(args) => build::run(&args, &workspace),
        Verb::Run(args) => run::run(args, &workspace),
        Verb::Demo(args) => demo::run(&args, &workspace),
        Verb::Test(args) => test::run(&args, &workspace),
        Verb::Bench(args) => bench::run(&args, &workspace),
        Verb::Lint(args) => lint::run(&args, &workspace),
        Verb::Package(args) => package::run(&args, &workspace),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}
