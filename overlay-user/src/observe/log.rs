//! The log: lines on stderr, for people, for systemd's journal or for programs.

use std::{
    env, fmt,
    io::{IsTerminal, stderr},
};

use nix::sys::stat::{FileStat, fstat};
use tracing::{Event, Level, Subscriber};
use tracing_subscriber::{
    EnvFilter, Layer, Registry,
    fmt::{FmtContext, FormatEvent, FormatFields, format::Writer},
    layer::SubscriberExt as _,
    registry::LookupSpan,
    util::SubscriberInitExt as _,
};

/// What a line of the log looks like.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Format {
    /// For people; where systemd's journal reads stderr, with its priorities and without the time.
    #[default]
    Text,
    /// A JSON object, for programs.
    Json,
}

/// What to log, and how.
#[derive(Debug, Clone, Copy)]
pub struct LogSettings<'a> {
    /// In the syntax of tracing's `EnvFilter`. One that is malformed lets errors through.
    pub filter: &'a str,
    /// What a line looks like.
    pub format: Format,
}

/// Starts logging. A second call changes nothing.
pub fn start(settings: &LogSettings) {
    let output = output(settings.format).with_filter(EnvFilter::new(settings.filter));
    let _ = tracing_subscriber::registry().with(output).try_init();
}

fn output(format: Format) -> Box<dyn Layer<Registry> + Send + Sync> {
    let lines = tracing_subscriber::fmt::layer().with_writer(stderr);
    match format {
        Format::Json => lines.json().flatten_event(true).boxed(),
        Format::Text if journal_reads_stderr() => {
            lines.with_ansi(false).event_format(JournalLine).boxed()
        }
        Format::Text => lines.with_ansi(stderr().is_terminal()).boxed(),
    }
}

/// A line as the journal takes it from a service: its priority in front (sd-daemon(3)), which is not
/// shown, and no time, which the journal has. The fields stay in the text: journalctl shows no others.
struct JournalLine;

impl<S, N> FormatEvent<S, N> for JournalLine
where
    S: Subscriber + for<'a> LookupSpan<'a>,
    N: for<'a> FormatFields<'a> + 'static,
{
    fn format_event(
        &self,
        context: &FmtContext<'_, S, N>,
        mut writer: Writer<'_>,
        event: &Event<'_>,
    ) -> fmt::Result {
        let metadata = event.metadata();
        let priority = priority(*metadata.level());
        write!(writer, "<{priority}>{}: ", metadata.target())?;
        context.format_fields(writer.by_ref(), event)?;
        writeln!(writer)
    }
}

/// syslog(3)'s number.
fn priority(level: Level) -> u8 {
    match level {
        Level::ERROR => 3,
        Level::WARN => 4,
        Level::INFO => 6,
        Level::DEBUG | Level::TRACE => 7,
    }
}

/// Whether what we print goes to systemd's journal.
fn journal_reads_stderr() -> bool {
    let stream = env::var("JOURNAL_STREAM");
    let file = fstat(stderr());
    matches!((stream, file), (Ok(stream), Ok(file)) if is_stream(&stream, &file))
}

/// Whether `stream`, `DEVICE:INODE` in decimal, names `file`: systemd.exec(5) on `$JOURNAL_STREAM`.
/// A redirected stderr of a service's child leaves the variable as it is.
fn is_stream(stream: &str, file: &FileStat) -> bool {
    stream == format!("{}:{}", file.st_dev, file.st_ino)
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        os::unix::net::UnixDatagram,
        sync::{Arc, Mutex},
    };

    use super::*;

    #[derive(Clone, Default)]
    struct Buffer(Arc<Mutex<Vec<u8>>>);

    impl Write for Buffer {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap().write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_line_for_the_journal_has_its_priority_its_target_and_its_fields() {
        let buffer = Buffer::default();
        let writer = buffer.clone();
        let lines = tracing_subscriber::fmt::layer()
            .with_writer(move || writer.clone())
            .with_ansi(false)
            .event_format(JournalLine);
        let subscriber = tracing_subscriber::registry().with(lines);
        tracing::subscriber::with_default(subscriber, || {
            tracing::warn!(target: "overlay_user", reason = "no route", "registry lost");
            tracing::info!(target: "overlay_user", "ready");
        });
        let text = String::from_utf8(buffer.0.lock().unwrap().clone()).unwrap();
        assert_eq!(
            text,
            "<4>overlay_user: registry lost reason=\"no route\"\n<6>overlay_user: ready\n"
        );
    }

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
