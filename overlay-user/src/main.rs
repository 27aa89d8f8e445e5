//! `overlay`: parse, log, dispatch, exit code.

use std::{
    env,
    io::{stderr, stdout},
    process::ExitCode,
};

use overlay_user::{
    agent,
    cli::{Cli, Failure, Output, Session, Verb},
    config::LogFormat,
    observe::log,
};
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    let cli = match Cli::from_args(env::args_os()) {
        Ok(cli) => cli,
        Err(stop) => return stop.report(&mut stderr()).into(),
    };
    let format = cli.output;
    match dispatch(cli) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(format, &mut stderr()).into(),
    }
}

fn dispatch(cli: Cli) -> Result<(), Failure> {
    let runtime = Runtime::new().map_err(Failure::internal)?;
    let outcome = match cli.verb {
        Verb::Run(args) => {
            let config = args.config(cli.instance, cli.log)?;
            log::start(&log::Settings {
                filter: &config.log,
                format: log_format(config.log_format),
            });
            runtime
                .block_on(agent::run(config))
                .map_err(|error| Failure::from(&error))
        }
        Verb::Command(command) => {
            let log = cli.log.unwrap_or_default();
            log::start(&log::Settings {
                filter: log.filter.as_deref().unwrap_or("off"),
                format: log_format(log.format.unwrap_or_default()),
            });
            let mut out = stdout().lock();
            let output = Output::new(cli.output, &mut out);
            runtime.block_on(command.execute(&mut Session::new(cli.instance, output)))
        }
    };
    // The outcome is known: a thread that still blocks in the kernel is not worth waiting for.
    runtime.shutdown_background();
    outcome
}

fn log_format(format: LogFormat) -> log::Format {
    match format {
        LogFormat::Text => log::Format::Text,
        LogFormat::Json => log::Format::Json,
    }
}
