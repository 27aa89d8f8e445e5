//! `overlay nat` and `overlay flow`: what address translation has in use.

use clap::{Args, Subcommand};
use jiff::{SignedDuration, Timestamp};

use super::{CommandError, Context, completions};
use crate::{
    agent::api::{
        BlockView, CheckNat, ExternalPort, FlowView, ListFlows, ListNat, MappingView, OwnerView,
        RemoveFlows,
    },
    observe::table::Table,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay nat ls                              blocks of ports, and what is in use of this host's
  overlay nat ls --endpoint web --mappings
  overlay nat check 203.0.113.8:40960         whose it is
  overlay nat check 203.0.113.8:40960 --at 2026-11-30T12:00:00Z
  overlay nat check 203.0.113.8:40960 --at 2h       whose it was two hours ago";

pub(super) const FLOW_EXAMPLES: &str = "\
Examples:
  overlay flow ls
  overlay flow ls --endpoint web
  overlay flow rm --endpoint web              its connections are not answered until it sends again";

/// What to tell of address translation.
#[derive(Debug, Subcommand)]
pub enum NatVerb {
    /// List the blocks of ports that endpoints have, and what is in use
    #[command(
        after_help = EXAMPLES,
        visible_alias = "list",
        mut_arg("endpoint", completions::of(completions::endpoints))
    )]
    Ls {
        #[command(flatten)]
        filter: ListNat,
        /// List the external ports in use on this host instead
        #[arg(long)]
        mappings: bool,
    },
    /// Say whose an external address and port are, or were
    #[command(after_help = EXAMPLES)]
    Check(CheckArgs),
}

/// Whose an external port was.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// The external address and port; of a float the address alone
    #[arg(value_name = "IP:PORT")]
    external: ExternalPort,
    /// When: a time as 2026-11-30T12:00:00Z, or how long ago as 2h [default: now]
    #[arg(long, value_name = "TIME", value_parser = time)]
    at: Option<u64>,
}

/// Seconds since 1970 of a time, or of so long ago.
fn time(text: &str) -> Result<u64, String> {
    let ago = || {
        let ago: SignedDuration = text.parse().ok()?;
        Timestamp::now().checked_sub(ago).ok()
    };
    let time = text.parse::<Timestamp>().ok().or_else(ago);
    time.and_then(|time| time.as_second().try_into().ok())
        .ok_or_else(|| {
            format!(
                "{text:?} is no time: write for example 2026-11-30T12:00:00Z, or 2h for so long ago"
            )
        })
}

/// What to do with flows.
#[derive(Debug, Subcommand)]
pub enum FlowVerb {
    /// List the flows between this host's endpoints and the outside
    #[command(
        after_help = FLOW_EXAMPLES,
        visible_alias = "list",
        mut_arg("endpoint", completions::of(completions::endpoints))
    )]
    Ls(ListFlows),
    /// End flows
    #[command(
        after_help = FLOW_EXAMPLES,
        visible_alias = "delete",
        mut_arg("endpoint", completions::of(completions::endpoints))
    )]
    Rm(RemoveFlows),
}

impl NatVerb {
    pub(super) async fn execute(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        let Context { client, output, .. } = context;
        match self {
            Self::Ls { filter, mappings } => {
                let view = client.call(&filter).await?;
                if mappings {
                    output.show(&view.mappings, |mappings, out| {
                        mappings_table(mappings).write(out)
                    })?;
                    return Ok(());
                }
                output.show(&view, |view, out| {
                    blocks_table(&view.blocks).write(out)?;
                    let mut without = view.without_block.iter();
                    without.try_for_each(|it| {
                        writeln!(out, "endpoint {} has no block: {}", it.endpoint, it.reason)
                    })
                })?;
            }
            Self::Check(args) => {
                let ExternalPort { ip, port } = args.external;
                let at = args.at;
                let owners = client.call(&CheckNat { ip, port, at }).await?;
                output.show(&owners, |owners, out| {
                    if owners.is_empty() {
                        return writeln!(out, "nobody had it, as far as the registry remembers");
                    }
                    owners_table(owners).write(out)
                })?;
            }
        }
        Ok(())
    }
}

impl FlowVerb {
    pub(super) async fn execute(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        let Context { client, output, .. } = context;
        match self {
            Self::Ls(filter) => {
                let flows = client.call(&filter).await?;
                output.show(&flows, |flows, out| flows_table(flows).write(out))?;
            }
            Self::Rm(request) => {
                let view = client.call(&request).await?;
                output.show(&view, |view, out| {
                    writeln!(out, "{} flows ended", view.ended)
                })?;
            }
        }
        Ok(())
    }
}

fn blocks_table(blocks: &[BlockView]) -> Table {
    let mut table = Table::new([
        "ENDPOINT", "NODE", "POOL", "IP", "PORTS", "TCP", "UDP", "ICMP", "EARLY",
    ]);
    for block in blocks {
        let last = block.first_port.saturating_add(block.ports - 1);
        let used = |of: fn(&crate::agent::api::UsedView) -> u64| {
            block
                .used
                .as_ref()
                .map_or_else(|| "-".to_owned(), |used| of(used).to_string())
        };
        table.row([
            block.endpoint.to_string(),
            block.node.to_string(),
            block
                .pool
                .as_ref()
                .map_or_else(|| "host".to_owned(), ToString::to_string),
            block.ip.to_string(),
            format!("{}-{last}", block.first_port),
            used(|it| it.tcp),
            used(|it| it.udp),
            used(|it| it.icmp),
            used(|it| it.early),
        ]);
    }
    table
}

fn mappings_table(mappings: &[MappingView]) -> Table {
    let mut table = Table::new([
        "PROTOCOL",
        "ENDPOINT",
        "INSIDE",
        "OUTSIDE",
        "ESTABLISHED",
        "IDLE",
    ]);
    for it in mappings {
        table.row([
            it.protocol.clone(),
            name(it.endpoint.as_ref()),
            format!("{}:{}", it.own, it.own_port),
            format!("{}:{}", it.ip, it.port),
            it.established.to_string(),
            format!("{}s", it.idle_s),
        ]);
    }
    table
}

fn flows_table(flows: &[FlowView]) -> Table {
    let mut table = Table::new([
        "PROTOCOL", "ENDPOINT", "INSIDE", "OUTSIDE", "REMOTE", "STATE", "IDLE",
    ]);
    for it in flows {
        table.row([
            it.protocol.clone(),
            name(it.endpoint.as_ref()),
            format!("{}:{}", it.own, it.own_port),
            format!("{}:{}", it.ip, it.port),
            format!("{}:{}", it.remote, it.remote_port),
            it.state.clone(),
            format!("{}s", it.idle_s),
        ]);
    }
    table
}

fn owners_table(owners: &[OwnerView]) -> Table {
    let mut table = Table::new(["ENDPOINT", "VNI", "NODE", "FROM", "UNTIL"]);
    for owner in owners {
        table.row([
            owner.endpoint.to_string(),
            owner.vni.to_string(),
            name(owner.node.as_ref()),
            moment(owner.from),
            owner.until.map_or_else(|| "now".to_owned(), moment),
        ]);
    }
    table
}

fn name(name: Option<&crate::model::Name>) -> String {
    name.map_or_else(|| "-".to_owned(), ToString::to_string)
}

fn moment(seconds: u64) -> String {
    let seconds = i64::try_from(seconds).ok();
    let moment = seconds.and_then(|seconds| Timestamp::from_second(seconds).ok());
    moment.map_or_else(|| "-".to_owned(), |moment| moment.to_string())
}
