//! Errors of the command line: one line on stderr and an exit code.

use std::io::{self, Write};

use clap::error::{ContextKind, ContextValue, ErrorKind as Parse};

use super::Format;
use crate::{
    agent::{
        api::{ErrorKind, ErrorView, OperationError, error_of_chain},
        client::ClientError,
    },
    config::ConfigError,
};

/// Exit code of a failure.
const FAILED: u8 = 1;
/// Exit code of bad usage.
const USAGE: u8 = 2;

/// Why a verb was not done.
#[derive(Debug)]
pub enum CommandError {
    /// It was refused or it failed.
    Operation(OperationError),
    /// Some of it was refused or failed, each for its reason; the rest was done.
    Several(Vec<OperationError>),
    /// It was done, but the answer can't be printed.
    Output(io::Error),
}

impl CommandError {
    /// The command line or the configuration is wrong.
    pub fn usage(message: impl std::fmt::Display) -> Self {
        Self::Operation(OperationError::new(ErrorKind::Usage, message))
    }

    /// What was looked at is not as it should be, and what was printed says how.
    pub fn finding(message: impl std::fmt::Display) -> Self {
        Self::Operation(OperationError::new(ErrorKind::Finding, message))
    }

    /// Something that should work did not.
    pub fn internal(message: impl std::fmt::Display) -> Self {
        Self::Operation(OperationError::new(ErrorKind::Internal, message))
    }

    /// Prints a line for each error, of which there is one as a rule, and gives the exit code.
    pub fn report(&self, format: Format, stderr: &mut dyn Write) -> u8 {
        let errors = match self {
            // The reader has seen enough, as in `overlay endpoint ls | head -1`.
            Self::Output(error) if error.kind() == io::ErrorKind::BrokenPipe => return 0,
            Self::Output(error) => vec![OperationError::new(
                ErrorKind::Internal,
                format_args!("can't write the output: {error}"),
            )],
            Self::Operation(error) => vec![error.clone()],
            Self::Several(errors) => errors.clone(),
        };
        let is_usage = errors.iter().all(|error| error.kind == ErrorKind::Usage);
        for error in errors {
            let error = OperationError::new(error.kind, one_line(&error.message));
            // With stderr closed the exit code alone has to do.
            let _ = match format {
                Format::Table => writeln!(stderr, "error: {error}"),
                Format::Json => serde_json::to_writer(&mut *stderr, &ErrorView { error })
                    .map_err(io::Error::from)
                    .and_then(|()| writeln!(stderr)),
            };
        }
        if is_usage { USAGE } else { FAILED }
    }
}

/// Line breaks and other control characters, which could come from a file or another host, become
/// spaces.
fn one_line(message: &str) -> String {
    let spaced = message.replace(|c: char| c.is_control(), " ");
    spaced.trim().to_owned()
}

impl From<ClientError> for CommandError {
    fn from(error: ClientError) -> Self {
        Self::Operation(error.into())
    }
}

impl From<OperationError> for CommandError {
    fn from(error: OperationError) -> Self {
        Self::Operation(error)
    }
}

impl From<ConfigError> for CommandError {
    fn from(error: ConfigError) -> Self {
        Self::usage(error)
    }
}

impl From<io::Error> for CommandError {
    fn from(error: io::Error) -> Self {
        Self::Output(error)
    }
}

impl From<&anyhow::Error> for CommandError {
    fn from(error: &anyhow::Error) -> Self {
        Self::Operation(error_of_chain(error))
    }
}

/// Why the command line did not become a verb: a text that was asked for, or an error.
#[derive(Debug)]
pub struct ParseExit {
    error: clap::Error,
    format: Format,
}

impl ParseExit {
    pub(super) fn new(error: clap::Error, format: Format) -> Self {
        Self { error, format }
    }

    /// Prints the text that was asked for, or one line, and gives the exit code.
    pub fn report(self, stderr: &mut dyn Write) -> u8 {
        match (self.error.kind(), self.format) {
            (Parse::DisplayHelp | Parse::DisplayVersion, format) => match self.error.print() {
                Ok(()) => 0,
                Err(error) => CommandError::Output(error).report(format, stderr),
            },
            // `overlay` alone, or a verb that needs another: the help is the answer.
            (Parse::DisplayHelpOnMissingArgumentOrSubcommand, Format::Table) => {
                let _ = write!(stderr, "{}", self.error.render());
                USAGE
            }
            (_, format) => CommandError::usage(usage_line(&self.error)).report(format, stderr),
        }
    }
}

/// clap's report of several lines as one: what is wrong, any tip, and where to read on.
fn usage_line(error: &clap::Error) -> String {
    if error.kind() == Parse::DisplayHelpOnMissingArgumentOrSubcommand {
        return "a verb is missing: see 'overlay --help'".to_owned();
    }
    if error.kind() == Parse::ValueValidation
        && let Some(line) = refused_value(error)
    {
        return line;
    }
    let text = error.render().to_string();
    let mut parts = Vec::new();
    let mut command = "overlay".to_owned();
    for paragraph in text.split("\n\n") {
        let line = paragraph.split_whitespace().collect::<Vec<_>>().join(" ");
        if let Some(usage) = line.strip_prefix("Usage: ") {
            let words = usage.split(' ');
            let verbs = words.take_while(|word| !word.starts_with(['[', '<', '-']));
            command = verbs.collect::<Vec<_>>().join(" ");
        } else if !line.starts_with("For more information") {
            parts.push(line.trim_start_matches("error: ").to_owned());
        }
    }
    parts.push(format!("see '{command} --help'"));
    parts.join("; ")
}

/// The flag and what its parser said, which names the value itself.
fn refused_value(error: &clap::Error) -> Option<String> {
    let Some(ContextValue::String(flag)) = error.get(ContextKind::InvalidArg) else {
        return None;
    };
    let flag = flag.split(' ').next()?.trim_end_matches("...");
    let cause = std::error::Error::source(error)?;
    Some(format!("{flag}: {cause}"))
}
