//! `overlay drops`: dropped packets by reason.

use std::collections::BTreeMap;

use clap::Args;

use super::{ASKING, Failure, Session, watch::WatchArgs};
use crate::{agent::client::ClientError, observe};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay drops                        the reasons that occurred, the most frequent first
  overlay drops --all
  overlay drops --watch                while the traffic runs
  overlay -o json drops | jq .vni_unknown";

/// What to show.
#[derive(Debug, Args)]
pub struct DropsArgs {
    /// Show the reasons that never occurred too; JSON has them always
    #[arg(long)]
    all: bool,
    #[command(flatten)]
    watch: WatchArgs,
}

/// Dropped packets by reason.
type Drops = BTreeMap<String, u64>;

impl DropsArgs {
    pub(super) async fn execute(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let all = self.all;
        let show = async |session: &mut Session<'_>| show(session, all).await;
        self.watch.repeat(session, show).await
    }
}

async fn show(session: &mut Session<'_>, all: bool) -> Result<(), Failure> {
    let drops = match session.client.drops().await {
        Ok(drops) => drops,
        Err(error) => counted(session, error).await?,
    };
    session.output.show(&drops, |drops, out| {
        observe::drops::write_table(drops, all, out)
    })?;
    Ok(())
}

/// What the datapath has counted that goes on without an agent.
async fn counted(session: &mut Session<'_>, error: ClientError) -> Result<Drops, Failure> {
    let no_agent = session.client.no_agent();
    let left = session.left(error)?;
    let reading = session.in_time("reading the drops", ASKING, left.drops());
    let drops = reading.await?.ok_or(no_agent)?;
    session.output.note(&format!(
        "no agent of instance {} runs: this is what its datapath counts, which is up",
        session.client.instance()
    ))?;
    Ok(drops)
}
