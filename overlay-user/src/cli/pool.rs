//! `overlay pool`: external addresses that endpoints share.

use std::slice;

use clap::Subcommand;

use super::{CommandError, Context, removal, watch::WatchArgs};
use crate::{
    agent::api::{CreatePool, ListPools, PoolView, RemovePool},
    model::Name,
    observe::table::{Table, list},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay pool create public --ip 203.0.113.8/29
  overlay pool create games --ip 203.0.113.16 --block 256 --filter endpoint-independent
  overlay network set blue --snat public
  overlay pool ls
  overlay pool rm public

An endpoint gets a block of ports of one address, and more blocks as it needs them. An address is one host's at a time:
a pool has at least as many as there are hosts with such endpoints.";

/// What to do with pools.
#[derive(Debug, Subcommand)]
pub enum PoolVerb {
    /// Make a pool of external addresses
    #[command(after_help = EXAMPLES)]
    Create(CreatePool),
    /// List the pools
    #[command(after_help = EXAMPLES, visible_alias = "list")]
    Ls(WatchArgs),
    /// Remove pools that nobody uses; one that is gone already is fine
    #[command(after_help = EXAMPLES, visible_alias = "delete")]
    Rm {
        /// The pools
        #[arg(required = true, value_name = "NAME")]
        names: Vec<Name>,
    },
}

impl PoolVerb {
    pub(super) async fn execute(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        let Context { client, output, .. } = context;
        match self {
            Self::Create(request) => {
                let work = format!("creating pool {}", request.name);
                let made = output.during(work, client.call(&request)).await?;
                output.show(&made, |made, out| table(slice::from_ref(made)).write(out))?;
            }
            Self::Ls(watch) => return watch.repeat(context, list_all).await,
            Self::Rm { names } => {
                let removal = removal::each(output, "pool", names, async |name| {
                    let name = name.clone();
                    let view = client.call(&RemovePool { name }).await?;
                    Ok(view.removed.then_some(()))
                })
                .await;
                removal.show(output, "pool")?;
                removal.conclude()?;
            }
        }
        Ok(())
    }
}

async fn list_all(context: &mut Context<'_>) -> Result<(), CommandError> {
    let pools = context.client.call(&ListPools {}).await?;
    context
        .output
        .show(&pools, |pools, out| table(pools).write(out))?;
    Ok(())
}

fn table(pools: &[PoolView]) -> Table {
    let mut table = Table::new([
        "NAME",
        "ADDRESSES",
        "BLOCK",
        "MOST",
        "FILTER",
        "USED",
        "NETWORKS",
    ]);
    for pool in pools {
        table.row([
            pool.name.to_string(),
            list(&pool.ips),
            pool.block.to_string(),
            pool.max_blocks.to_string(),
            pool.filter.to_string(),
            format!("{} of {}", pool.used, pool.blocks),
            list(&pool.networks),
        ]);
    }
    table
}
