//! `overlay vtep`: the nodes' tunnel ends.

use clap::Subcommand;
use clap_complete::ArgValueCompleter;
use jiff::Timestamp;

use super::{ASKING, CommandError, Context, completions, removal, watch::WatchArgs};
use crate::{
    agent::api::{
        ListVteps, NodeState, PathState, PathView, RemoveVtep, VtepRef, VtepRemovedView, VtepView,
    },
    observe::table::{Table, or_dash},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay vtep ls
  overlay -o json vtep ls | jq -r '.[] | select(.alive | not) | .node'
  overlay vtep rm h3

A node that has not been heard of for 15 s is silent, and down after --node-grace more.";

const RM_EXAMPLES: &str = "\
Examples:
  overlay vtep rm h3                   a host that is gone for good, with its endpoints' rows
  overlay vtep rm 10.0.0.3 h4

Refused while the host's agent lives. A second time is fine too. Move away what is to go on before, with
`overlay endpoint move`; the other addresses are kept free for --quarantine.";

/// What to do with VTEPs.
#[derive(Debug, Subcommand)]
pub enum VtepVerb {
    /// List the nodes, their VTEPs and when their agents were last seen
    #[command(after_help = EXAMPLES, visible_alias = "list")]
    Ls(WatchArgs),
    /// Remove nodes whose hosts are gone for good, and their endpoints
    #[command(after_help = RM_EXAMPLES, visible_alias = "delete")]
    Rm {
        /// The nodes, by name or by their VTEP's address
        #[arg(
            required = true,
            value_name = "NODE|IP",
            add = ArgValueCompleter::new(completions::vteps)
        )]
        vteps: Vec<VtepRef>,
    },
}

impl VtepVerb {
    pub(super) async fn execute(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        let Context { client, output, .. } = context;
        match self {
            Self::Ls(watch) => return watch.repeat(context, list_all).await,
            Self::Rm { vteps } => {
                let removal = removal::each(output, "node", vteps, async |vtep| {
                    client.call(&RemoveVtep { vtep: vtep.clone() }).await
                })
                .await;
                if !removal.done.is_empty() {
                    let known: Vec<_> = removal.done.iter().flat_map(|(_, view)| view).collect();
                    output.show(&known, |_, out| {
                        removal.done.iter().try_for_each(|(vtep, removed)| {
                            writeln!(out, "{}", line(vtep, removed.as_ref()))
                        })
                    })?;
                }
                removal.conclude()?;
            }
        }
        Ok(())
    }
}

async fn list_all(context: &mut Context<'_>) -> Result<(), CommandError> {
    let vteps = match context.client.call(&ListVteps {}).await {
        Ok(vteps) => vteps,
        Err(error) => {
            let left = context.left_in_registry(error)?;
            let reading = context.in_time("reading the registry", ASKING, left.vteps());
            reading.await?
        }
    };
    context.output.show(&vteps, |vteps, out| {
        table(vteps, Timestamp::now()).write(out)
    })?;
    Ok(())
}

/// What became of a node that was to be removed.
fn line(vtep: &VtepRef, removed: Option<&VtepRemovedView>) -> String {
    match removed {
        None => format!("there is no node {vtep}"),
        Some(VtepRemovedView {
            node, endpoints, ..
        }) => format!("node {node} removed, and with it {endpoints} endpoints"),
    }
}

fn table(vteps: &[VtepView], now: Timestamp) -> Table {
    let mut table = Table::new([
        "NODE",
        "IP",
        "PORT",
        "MTU",
        "LAST-SEEN",
        "STATE",
        "PATH",
        "RTT",
        "LARGEST",
        "VERSION",
    ]);
    for vtep in vteps {
        table.row([
            vtep.node.to_string(),
            or_dash((!vtep.has_no_address()).then_some(vtep.ip)),
            vtep.port.to_string(),
            or_dash(vtep.mtu),
            or_dash(vtep.last_seen.map(|seen| age(seen, now))),
            match vtep.state {
                NodeState::Alive => "alive",
                NodeState::Silent => "silent",
                NodeState::Down => "down",
                NodeState::NoAgent => "no agent",
            }
            .to_owned(),
            or_dash(vtep.path.as_ref().map(|path| path_state(path, now))),
            or_dash(
                vtep.path
                    .as_ref()
                    .and_then(|path| path.rtt_us)
                    .map(round_trip),
            ),
            or_dash(vtep.path.as_ref().and_then(|path| path.largest)),
            or_dash(vtep.version.as_ref()),
        ]);
    }
    table
}

/// Since when is said of what is not well.
fn path_state(path: &PathView, now: Timestamp) -> String {
    match (path.state, path.since) {
        (PathState::OneWay | PathState::Lost | PathState::Damaged, Some(since)) => {
            format!("{} since {}", path.state.name(), age(since, now))
        }
        _ => path.state.name().to_owned(),
    }
}

/// A round trip of so many microseconds.
pub(super) fn round_trip(us: u64) -> String {
    format!("{}.{:02} ms", us / 1000, us % 1000 / 10)
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
