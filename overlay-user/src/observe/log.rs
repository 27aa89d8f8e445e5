//! The log: to journald with its fields where that reads our stderr, to stderr otherwise.

use std::{
    env,
    io::{IsTerminal, stderr},
};

use nix::sys::stat::{FileStat, fstat};
use tracing_journald::{Priority, PriorityMappings};
use tracing_subscriber::{
    EnvFilter, Layer, Registry, layer::SubscriberExt as _, util::SubscriberInitExt as _,
};

/// What a line of the log looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// A line for people; under journald a record with the event's fields.
    #[default]
    Text,
    /// A JSON object a line, for programs, on stderr in any case.
    Json,
}

/// What to log, and how.
#[derive(Debug, Clone, Copy)]
pub struct Settings<'a> {
    /// In the syntax of tracing's `EnvFilter`. One that is malformed lets errors through.
    pub filter: &'a str,
    /// What a line looks like.
    pub format: Format,
}

/// Starts logging. A second call changes nothing.
pub fn start(settings: &Settings) {
    let output = output(settings.format).with_filter(EnvFilter::new(settings.filter));
    let _ = tracing_subscriber::registry().with(output).try_init();
}

fn output(format: Format) -> Box<dyn Layer<Registry> + Send + Sync> {
    let lines = tracing_subscriber::fmt::layer().with_writer(stderr);
    match format {
        Format::Json => lines.json().flatten_event(true).boxed(),
        Format::Text => match journal() {
            Some(journal) => journal.boxed(),
            None => lines.with_ansi(stderr().is_terminal()).boxed(),
        },
    }
}

/// journald, if it is the reader of our stderr and takes records.
fn journal() -> Option<tracing_journald::Layer> {
    let stream = env::var("JOURNAL_STREAM").ok()?;
    if !is_stream(&stream, &fstat(stderr()).ok()?) {
        return None;
    }
    let journal = tracing_journald::layer().ok()?;
    Some(
        journal
            .with_syslog_identifier("overlay".to_owned())
            .with_field_prefix(Some("OVERLAY".to_owned()))
            .with_priority_mappings(PriorityMappings {
                info: Priority::Informational,
                debug: Priority::Debug,
                ..PriorityMappings::new()
            }),
    )
}

/// Whether `stream`, `DEVICE:INODE` in decimal, names `file`: systemd.exec(5) on `$JOURNAL_STREAM`.
/// Whoever redirects the stderr of a service's child leaves the variable as it is.
fn is_stream(stream: &str, file: &FileStat) -> bool {
    stream == format!("{}:{}", file.st_dev, file.st_ino)
}

#[cfg(test)]
mod tests {
    use std::os::unix::net::UnixDatagram;

    use super::*;

    #[test]
    fn stderr_is_the_journals_only_if_device_and_inode_are_those_of_the_stream() {
        let (one, other) = UnixDatagram::pair().unwrap();
        let (one, other) = (fstat(&one).unwrap(), fstat(&other).unwrap());
        let stream = format!("{}:{}", one.st_dev, one.st_ino);
        assert!(is_stream(&stream, &one));
        assert!(!is_stream(&stream, &other));
        for malformed in ["", ":", "8", "8:", "journal:socket"] {
            assert!(!is_stream(malformed, &one), "{malformed}");
        }
    }
}
