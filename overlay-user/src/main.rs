//! `overlay`: parse, log, dispatch, exit code.

use std::{
    env,
    io::{self, IsTerminal as _, stderr, stdout},
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode},
};

use overlay_user::{
    agent::{self, Ending},
    cli::{Cli, CommandError, Context, Output, Verb, answer_completion},
    config::LogFormat,
    observe::log,
};
use tokio::runtime::Runtime;

fn main() -> ExitCode {
    if answer_completion() {
        return ExitCode::SUCCESS;
    }
    let cli = match Cli::from_args(env::args_os()) {
        Ok(cli) => cli,
        Err(stop) => return stop.report(&mut stderr()).into(),
    };
    let format = cli.output;
    let outcome = dispatch(cli).and_then(|ending| match ending {
        Ending::Stopped => Ok(()),
        Ending::StartAnew => Err(CommandError::internal(start_anew())),
    });
    match outcome {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(format, &mut stderr()).into(),
    }
}

/// Becomes the same program with the same words, as the same process: to a service manager it has never
/// ended. Comes back only if that fails.
fn start_anew() -> io::Error {
    let mut words = env::args_os();
    let mut command = Command::new("/proc/self/exe");
    command.arg0(words.next().unwrap_or_default()).args(words);
    command.exec()
}

fn dispatch(cli: Cli) -> Result<Ending, CommandError> {
    let runtime = Runtime::new().map_err(CommandError::internal)?;
    let outcome = match cli.verb {
        Verb::Run(args) => {
            let config = args.config(cli.instance, cli.log)?;
            log::start(&log::LogSettings {
                filter: &config.log,
                format: log_format(config.log_format),
            });
            runtime
                .block_on(agent::run(config))
                .map_err(|error| CommandError::from(&error))
        }
        Verb::Command(command) => {
            let log = cli.log.unwrap_or_default();
            log::start(&log::LogSettings {
                filter: log.filter.as_deref().unwrap_or("off"),
                format: log_format(log.format.unwrap_or_default()),
            });
            let mut out = stdout().lock();
            let output = Output::new(cli.output, &mut out);
            let output = output.on_terminal(stdout().is_terminal());
            let mut context = Context::new(cli.instance, output).with_patience(cli.timeout);
            let executed = runtime.block_on(command.execute(&mut context));
            executed.map(|()| Ending::Stopped)
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
