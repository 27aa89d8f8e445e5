//! `overlay drops`: dropped packets by reason, and some of them.

use std::{
    collections::BTreeMap,
    io::{self, Write},
};

use super::{ASKING, CommandError, Context, completions, watch::WatchArgs};
use crate::{
    agent::{
        api::{CountDrops, DropCountView, DropSampleView, DropsView, ShowDrops, drop_counts},
        client::{ClientError, Left},
    },
    model::{DropDirection, Name},
    observe::{
        drops::{Count, write_endpoint_table, write_table},
        table::{Table, or_dash},
    },
};
use clap::Args;
use clap_complete::ArgValueCompleter;

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay drops                        the reasons that occurred, the most frequent first
  overlay drops --all
  overlay drops -v                     and the last few packets of each: whose, from where, to where
  overlay drops --endpoint web -v      what was dropped of one endpoint of this host
  overlay drops --watch                while the traffic runs
  overlay -o json drops | jq .vni_unknown
  overlay -o json drops -v | jq '.samples[] | select(.endpoint == \"web\")'

Loss is what somebody may miss. Noise is what hosts send to all of a link when it or an address comes up:
multicast memberships, questions for routers, address detection, gratuitous ARP. Nobody misses it.
Packets are sampled: of each reason and sender a CPU notes down four a second. With -v or --endpoint, JSON is
{endpoint, reasons: [...], samples: [...]}.";

/// What to show.
#[derive(Debug, Args)]
pub struct DropsArgs {
    /// Show the reasons that never occurred too; JSON has them always
    #[arg(long)]
    all: bool,
    /// Show the last few packets of each reason too
    #[arg(short, long)]
    verbose: bool,
    /// Only what was dropped of this endpoint of this host: sent by it, or on the way to it
    #[arg(
        long,
        value_name = "NAME",
        add = ArgValueCompleter::new(completions::endpoints)
    )]
    endpoint: Option<Name>,
    #[command(flatten)]
    watch: WatchArgs,
}

/// Dropped packets by reason.
type Drops = BTreeMap<String, u64>;

impl DropsArgs {
    pub(super) async fn execute(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        let Self {
            all,
            verbose,
            endpoint,
            watch,
        } = self;
        if !verbose && endpoint.is_none() {
            let show = async |context: &mut Context<'_>| show(context, all).await;
            return watch.repeat(context, show).await;
        }
        let filter = ShowDrops { endpoint };
        let show = async |context: &mut Context<'_>| detail(context, &filter, all, verbose).await;
        watch.repeat(context, show).await
    }
}

async fn show(context: &mut Context<'_>, all: bool) -> Result<(), CommandError> {
    let drops = match context.client.call(&CountDrops {}).await {
        Ok(drops) => drops,
        Err(error) => without_agent(context, error, async |left| left.drops().await).await?,
    };
    context.output.show(&drops, |drops: &Drops, out| {
        let counts = drops
            .iter()
            .map(|(reason, count)| (reason.as_str(), *count));
        write_table(drop_counts(counts).iter().map(count), all, out)
    })?;
    Ok(())
}

async fn detail(
    context: &mut Context<'_>,
    filter: &ShowDrops,
    all: bool,
    verbose: bool,
) -> Result<(), CommandError> {
    let view = match context.client.call(filter).await {
        Ok(view) => view,
        Err(error) => {
            let filter = filter.clone();
            without_agent(context, error, async |left| left.drops_detail(filter).await).await?
        }
    };
    context.output.show(&view, |view: &DropsView, out| {
        let counts = view.reasons.iter().map(count);
        if view.endpoint.is_some() {
            write_endpoint_table(counts, out)?;
        } else {
            write_table(counts, all, out)?;
        }
        if verbose && !view.samples.is_empty() {
            writeln!(out)?;
            write_samples(&view.samples, out)?;
        }
        Ok(())
    })?;
    Ok(())
}

/// What the datapath tells that goes on without an agent.
async fn without_agent<T>(
    context: &mut Context<'_>,
    error: ClientError,
    read: impl AsyncFnOnce(Left) -> anyhow::Result<Option<T>>,
) -> Result<T, CommandError> {
    let no_agent = context.client.no_agent();
    let left = context.left(error)?;
    let reading = context.in_time("reading the drops", ASKING, read(left));
    let drops = reading.await?.ok_or(no_agent)?;
    context.output.note(&format!(
        "no agent of instance {} runs: this is what its datapath counts, which is up",
        context.client.instance()
    ))?;
    Ok(drops)
}

fn count(view: &DropCountView) -> Count<'_> {
    Count {
        reason: &view.reason,
        class: view.class,
        packets: view.packets,
        of_endpoint: view.sent.zip(view.received),
    }
}

fn write_samples(samples: &[DropSampleView], out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new(["TIME", "REASON", "ENDPOINT", "WAY", "VNI", "PEER", "PACKET"]);
    for sample in samples {
        let dropped = &sample.dropped;
        table.row([
            sample.time.to_string(),
            dropped.reason.clone(),
            or_dash(dropped.endpoint.as_ref()),
            way(dropped.direction).to_owned(),
            or_dash(dropped.vni.as_ref()),
            or_dash(dropped.peer_name().as_ref()),
            dropped.frame.to_string(),
        ]);
    }
    table.write(out)
}

fn way(direction: DropDirection) -> &'static str {
    match direction {
        DropDirection::Sent => "sent",
        DropDirection::Received => "received",
    }
}
