//! `overlay vtep`: the nodes' tunnel ends.

use clap::Subcommand;
use jiff::Timestamp;

use super::{Failure, Session};
use crate::{
    agent::api::{NodeState, VtepView},
    observe::table::{Table, or_dash},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay vtep ls
  overlay -o json vtep ls | jq -r '.[] | select(.alive | not) | .node'

A node that has not been heard of for 15 s is silent, and down after --node-grace more.";

/// What to do with VTEPs.
#[derive(Debug, Subcommand)]
pub enum VtepVerb {
    /// List the nodes, their VTEPs and when their agents were last seen
    #[command(after_help = EXAMPLES)]
    Ls,
}

impl VtepVerb {
    pub(super) async fn execute(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let Self::Ls = self;
        let vteps = session.client.vtep_ls().await?;
        session.output.show(&vteps, |vteps, out| {
            table(vteps, Timestamp::now()).write(out)
        })?;
        Ok(())
    }
}

fn table(vteps: &[VtepView], now: Timestamp) -> Table {
    let mut table = Table::new(["NODE", "IP", "PORT", "LAST-SEEN", "STATE", "VERSION"]);
    for vtep in vteps {
        table.row([
            vtep.node.to_string(),
            vtep.ip.to_string(),
            vtep.port.to_string(),
            or_dash(vtep.last_seen.map(|seen| age(seen, now))),
            match vtep.state {
                NodeState::Alive => "alive",
                NodeState::Silent => "silent",
                NodeState::Down => "down",
                NodeState::NoAgent => "no agent",
            }
            .to_owned(),
            or_dash(vtep.version.as_ref()),
        ]);
    }
    table
}

/// One unit is enough, as in `kubectl get`.
fn age(seen: Timestamp, now: Timestamp) -> String {
    let seconds = now.duration_since(seen).as_secs().max(0);
    match seconds {
        0..120 => format!("{seconds}s ago"),
        120..7200 => format!("{}m ago", seconds / 60),
        7200..172_800 => format!("{}h ago", seconds / 3600),
        _ => format!("{}d ago", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ages_have_one_unit() {
        for (seconds, expected) in [
            (-5, "0s ago"),
            (119, "119s ago"),
            (120, "2m ago"),
            (7200, "2h ago"),
            (200_000, "2d ago"),
        ] {
            let now = Timestamp::from_second(1_000_000 + seconds).unwrap();
            assert_eq!(
                age(Timestamp::from_second(1_000_000).unwrap(), now),
                expected
            );
        }
    }
}
