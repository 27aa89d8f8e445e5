//! Long work shows that it goes on: a spinner with the last line of output on a terminal, two plain
//! lines elsewhere.

use std::collections::VecDeque;
use std::io::{BufRead as _, BufReader, IsTerminal as _};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail};
use duct::Expression;
use indicatif::{ProgressBar, ProgressStyle};

/// How many lines of a failed command's output are worth reading.
const TAIL: usize = 20;

/// Runs a command whose output matters only when it fails. The error holds the last lines of it.
pub(crate) fn quietly(what: &str, command: &Expression) -> Result<()> {
    let started = Instant::now();
    let spinner = std::io::stderr().is_terminal().then(|| spinner(what));
    if spinner.is_none() {
        eprintln!("{what} ...");
    }

    let output = command
        .stdin_null()
        .stderr_to_stdout()
        .unchecked()
        .reader()
        .with_context(|| format!("{what}: the command can't be started"))?;
    let mut tail = VecDeque::with_capacity(TAIL);
    for line in BufReader::new(&output).split(b'\n') {
        let line = String::from_utf8_lossy(&line?).trim_end().to_owned();
        if let Some(spinner) = &spinner {
            spinner.set_message(line.clone());
        }
        if tail.len() == TAIL {
            tail.pop_front();
        }
        tail.push_back(line);
    }
    // The reader is at its end, so the status is there.
    let finished = output
        .try_wait()?
        .is_some_and(|output| output.status.success());

    if let Some(spinner) = spinner {
        spinner.finish_and_clear();
    }
    let seconds = started.elapsed().as_secs_f32();
    if !finished {
        bail!(
            "{what} failed after {seconds:.0} s:\n{}",
            Vec::from(tail).join("\n")
        );
    }
    eprintln!("{what}: done in {seconds:.0} s");
    Ok(())
}

/// Runs a command that shows by itself what it does and why it fails.
pub(crate) fn visibly(what: &str, command: &Expression) -> Result<()> {
    let output = command.unchecked().run();
    let output = output.with_context(|| format!("{what}: the command can't be started"))?;
    if !output.status.success() {
        bail!("{what} failed (see above)");
    }
    Ok(())
}

fn spinner(what: &str) -> ProgressBar {
    let spinner = ProgressBar::new_spinner().with_prefix(what.to_owned());
    if let Ok(style) =
        ProgressStyle::with_template("{spinner} {prefix} [{elapsed}] {wide_msg:.dim}")
    {
        spinner.set_style(style);
    }
    spinner.enable_steady_tick(Duration::from_millis(120));
    spinner
}
