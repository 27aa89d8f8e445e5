//! A ping that runs while something happens, and what it lost.

use std::time::Duration;

use anyhow::{Context as _, Result};

use super::READY_TIMEOUT;
use super::environment::Environment;
use super::topology::{Endpoint, Host};
use overlay_lab::interrupt;
use overlay_lab::process::Running;

/// How many, and how far apart.
const COUNT: u32 = 200;
const INTERVAL: &str = "0.01";
/// How long it runs before something happens.
const BEFORE: Duration = Duration::from_millis(500);

/// Pings that are under way.
pub(super) struct Pings(Running);

/// The line that sends them.
pub(super) fn line() -> String {
    let (from, to) = (Endpoint::BLUE, Endpoint::GREEN);
    format!(
        "ip netns exec {} ping -q -i {INTERVAL} -c {COUNT} -W 1 {}",
        from.name, to.ip
    )
}

impl Pings {
    /// Starts them, and lets some go.
    pub(super) fn start(environment: &Environment) -> Result<Self> {
        let running = environment.start(Some(Host::One), &line())?;
        interrupt::sleep(BEFORE)?;
        Ok(Self(running))
    }

    /// Waits for the last: what ping says, and the same in a few words.
    pub(super) fn finish(self) -> Result<(String, String)> {
        let output = self.0.output(READY_TIMEOUT)?;
        let said = String::from_utf8_lossy(&output.stdout).into_owned();
        let counted = counted(&said).with_context(|| format!("ping has not counted: {said}"))?;
        let summary = said.lines().filter(|line| line.contains("packets"));
        Ok((summary.collect(), counted))
    }
}

/// "0 of 300 lost", by what ping says at its end.
fn counted(said: &str) -> Option<String> {
    let summary = said.lines().find(|line| line.contains("transmitted"))?;
    let number = |behind: &str| {
        let part = summary.split(',').find(|part| part.contains(behind))?;
        part.split_whitespace().next()?.parse::<u32>().ok()
    };
    let (sent, received) = (number("transmitted")?, number("received")?);
    Some(format!("{} of {sent} lost", sent.saturating_sub(received)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_ping_lost_is_read_from_its_last_lines() {
        let said = "PING 7.7.7.3 (7.7.7.3) 56(84) bytes of data.\n\n--- 7.7.7.3 ping statistics ---\n\
                    300 packets transmitted, 297 received, +2 errors, 1% packet loss, time 3193ms\n\
                    rtt min/avg/max/mdev = 0.020/0.031/0.110/0.009 ms";
        assert_eq!(counted(said).as_deref(), Some("3 of 300 lost"));
        assert_eq!(counted("ping: unknown host"), None);
    }
}
