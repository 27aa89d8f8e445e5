//! `--watch`: repeats a list until Ctrl-C.

use std::{
    io::{self, Write},
    time::Duration,
};

use clap::Args;
use tokio::{
    signal::unix::{SignalKind, signal},
    time::sleep,
};

use super::{CommandError, Context, Output};
use crate::config::WatchPeriod;

/// Whether to show it once.
#[derive(Debug, Args)]
pub struct WatchArgs {
    /// Show it again every 2 s, or as often as this says, until Ctrl-C
    #[arg(
        long,
        value_name = "SECONDS",
        num_args = 0..=1,
        default_missing_value = "2"
    )]
    watch: Option<WatchPeriod>,
}

impl WatchArgs {
    /// Shows it as often as is asked for. After the first time an error is told, and the next look may go
    /// well: an agent that is started anew is away for a moment.
    pub(super) async fn repeat(
        &self,
        context: &mut Context<'_>,
        show: impl AsyncFn(&mut Context<'_>) -> Result<(), CommandError>,
    ) -> Result<(), CommandError> {
        let Some(period) = self.watch else {
            return show(context).await;
        };
        // Listened to from here on: one that comes between two waits is not lost.
        let mut interrupts = signal(SignalKind::interrupt()).map_err(CommandError::internal)?;
        let mut is_first = true;
        loop {
            let shown = tokio::select! {
                shown = once(context, &show, is_first) => shown,
                _ = interrupts.recv() => return Ok(()),
            };
            match shown {
                Err(failure @ CommandError::Output(_)) => return Err(failure),
                Err(failure) if is_first => return Err(failure),
                Err(failure) => drop(failure.report(context.output.format(), &mut io::stderr())),
                Ok(()) => is_first = false,
            }
            tokio::select! {
                () = sleep(period.get().max(SHORTEST)) => {}
                _ = interrupts.recv() => return Ok(()),
            }
        }
    }
}

/// Between two looks at least.
const SHORTEST: Duration = Duration::from_millis(100);

/// Shows it in the place of what was there, or below that where it is no terminal.
async fn once(
    context: &mut Context<'_>,
    show: &impl AsyncFn(&mut Context<'_>) -> Result<(), CommandError>,
    is_first: bool,
) -> Result<(), CommandError> {
    let (mut text, format) = (Vec::new(), context.output.format());
    let mut inner = Context {
        client: context.client.clone(),
        output: Output::new(format, &mut text).on_terminal(context.output.is_redrawn()),
        patience: context.patience,
    };
    show(&mut inner).await?;
    let text = if context.output.is_redrawn() {
        redrawn(&text)
    } else {
        below(text, format, is_first)
    };
    Ok(context.output.text(&text)?)
}

/// An empty line parts tables; JSON documents need none.
fn below(text: Vec<u8>, format: super::Format, is_first: bool) -> Vec<u8> {
    if is_first || format == super::Format::Json {
        return text;
    }
    let mut parted = vec![b'\n'];
    parted.extend(text);
    parted
}

/// The text from the screen's upper left corner on, each line to its end, with nothing below (ECMA-48: CUP,
/// EL, ED): the screen is never empty in between.
fn redrawn(text: &[u8]) -> Vec<u8> {
    let mut drawn = b"\x1b[H".to_vec();
    for line in text.split_inclusive(|byte| *byte == b'\n') {
        let (body, end) = match line.strip_suffix(b"\n") {
            Some(body) => (body, "\x1b[K\n"),
            None => (line, "\x1b[K"),
        };
        // Writing to a vector does not fail.
        let _ = drawn.write_all(body);
        let _ = drawn.write_all(end.as_bytes());
    }
    drawn.extend(b"\x1b[J");
    drawn
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_redrawn_covers_what_was_there() {
        let drawn = redrawn(b"NAME\nweb\n");
        assert_eq!(drawn, b"\x1b[HNAME\x1b[K\nweb\x1b[K\n\x1b[J");
    }

    #[test]
    fn tables_are_parted_by_an_empty_line_and_documents_are_not() {
        use super::super::Format;
        assert_eq!(below(b"a".to_vec(), Format::Table, false), b"\na");
        assert_eq!(below(b"a".to_vec(), Format::Table, true), b"a");
        assert_eq!(below(b"{}".to_vec(), Format::Json, false), b"{}");
    }
}
