//! Fills a registry with networks, nodes and endpoints.

use anyhow::Result;
use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use overlay_user::model::{Change, Resolve};
use overlay_user::registry::{RegistrySettings, open};

use super::dataset::{NODES, endpoint, network, node};

/// Adds endpoints `from` up to `to` to the registry, and the networks and nodes before the first.
#[derive(clap::Args)]
pub(crate) struct Args {
    /// The registry.
    #[arg(long)]
    registry: String,
    /// How the networks resolve: `proactive` or `on-demand`.
    #[arg(long)]
    resolve: Resolve,
    /// Networks over which the endpoints are spread.
    #[arg(long)]
    networks: u32,
    /// Number of the first endpoint.
    #[arg(long)]
    from: u32,
    /// Number behind the last one.
    #[arg(long)]
    to: u32,
}

/// Endpoints in a commit.
const BATCH: usize = 1000;
/// Commits at the same time: a cluster's latency is shared then, and a file has one writer anyway.
const AT_ONCE: usize = 8;

pub(super) async fn run(args: &Args) -> Result<()> {
    let registry = open(&RegistrySettings::new(args.registry.clone())).await?;
    if args.from == 0 {
        let mut changes = Vec::new();
        for number in 0..args.networks {
            changes.push(Change::CreateNetwork(network(number, args.resolve)?));
        }
        for number in 0..NODES {
            changes.push(Change::PutNode(node(number)?));
        }
        registry.commit(&changes).await?;
    }
    let at_once = if args.registry.starts_with("sqlite") {
        1
    } else {
        AT_ONCE
    };
    let numbers: Vec<u32> = (args.from..args.to).collect();
    stream::iter(numbers.chunks(BATCH))
        .map(|batch| {
            let registry = &registry;
            async move {
                let changes: Vec<Change> = batch
                    .iter()
                    .map(|number| endpoint(*number, args.networks).map(Change::CreateEndpoint))
                    .collect::<Result<_>>()?;
                registry.commit(&changes).await?;
                Ok(())
            }
        })
        .buffer_unordered(at_once)
        .try_collect()
        .await
}
