//! One boot in QEMU, without KVM: a CI machine is a guest itself.

use std::fs;
use std::io::{BufRead as _, BufReader};
use std::path::Path;
use std::sync::Arc;
use std::sync::mpsc::{self, RecvTimeoutError};
use std::thread;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use crate::test::Tally;

/// Longest time for a guest from power-on to power-off. It takes a tenth of this on a fast machine.
const LIMIT: Duration = Duration::from_mins(20);

/// What init says at the end, before guest.sh's exit status.
const FINISHED: &str = "guest.sh exited with ";

/// How much of the kernel's messages a failure shows.
const LOG_TAIL: usize = 25;

/// Boots, shows the guest's report as it comes and adds up its results. The kernel's messages are
/// in `log`; a failure shows the end of them.
pub(super) fn boot(image: &Path, initrd: &Path, log: &Path, tally: &mut Tally) -> Result<()> {
    let outcome = converse(image, initrd, log, tally);
    if outcome.is_err() {
        let messages = fs::read(log).unwrap_or_default();
        let messages = String::from_utf8_lossy(&messages);
        let lines: Vec<&str> = messages.lines().collect();
        let skipped = lines.len().saturating_sub(LOG_TAIL);
        println!("--- the end of {}", log.display());
        lines
            .iter()
            .skip(skipped)
            .for_each(|line| println!("{line}"));
        println!("---");
    }
    outcome
}

fn converse(image: &Path, initrd: &Path, log: &Path, tally: &mut Tally) -> Result<()> {
    let console = format!("file:{}", log.display());
    let guest = duct::cmd!(
        "qemu-system-x86_64",
        "-machine",
        "q35,accel=tcg",
        "-cpu",
        "max",
        "-smp",
        "2",
        "-m",
        "1024",
        "-nodefaults",
        "-no-reboot",
        "-display",
        "none",
        "-serial",
        console,
        "-serial",
        "stdio",
        "-kernel",
        image,
        "-initrd",
        initrd,
        "-append",
        "console=ttyS0 quiet panic=-1"
    );
    let guest = guest.stdin_null().stderr_to_stdout().unchecked().reader();
    let guest = Arc::new(guest.context("starting qemu-system-x86_64")?);

    let (finished, watched) = mpsc::channel::<()>();
    let watchdog = thread::spawn({
        let guest = Arc::clone(&guest);
        move || {
            let late = watched.recv_timeout(LIMIT) == Err(RecvTimeoutError::Timeout);
            // Where this fails the guest has just gone by itself.
            late && guest.kill().is_ok()
        }
    });

    let mut status = None;
    for line in BufReader::new(&*guest).split(b'\n') {
        let line = line?;
        let line = String::from_utf8_lossy(&line);
        let line = line.trim_end();
        if let Some(code) = line.strip_prefix(FINISHED) {
            status = Some(code.to_owned());
        } else {
            println!("{line}");
            tally.count(line);
        }
    }
    drop(finished);

    if watchdog.join().unwrap_or(false) {
        bail!("it did not finish within {} s", LIMIT.as_secs());
    }
    match status.as_deref() {
        Some("0") => Ok(()),
        Some(code) => bail!("{FINISHED}{code}"),
        None => bail!("it stopped before its tests ended"),
    }
}
