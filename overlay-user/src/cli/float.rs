//! `overlay float`: external addresses of one endpoint each.

use std::{net::Ipv4Addr, slice};

use clap::Subcommand;

use super::{CommandError, Context, completions, removal, watch::WatchArgs};
use crate::{
    agent::api::{AddFloat, FloatView, ListFloats, MoveFloat, RemoveFloat},
    observe::table::Table,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay float add 203.0.113.5 --endpoint web
  overlay float move 203.0.113.5 --endpoint web2
  overlay float ls
  overlay float rm 203.0.113.5

A float is one endpoint's own, both ways, whatever it speaks. Its host answers ARP for it on the uplink. The endpoint's
network needs a router that leads outside: `overlay router set R --outside host`.";

/// What to do with floats.
#[derive(Debug, Subcommand)]
pub enum FloatVerb {
    /// Give an endpoint an external address of its own
    #[command(
        after_help = EXAMPLES,
        mut_arg("endpoint", completions::of(completions::endpoints))
    )]
    Add(AddFloat),
    /// Give an external address to another endpoint, while traffic runs
    #[command(
        after_help = EXAMPLES,
        mut_arg("endpoint", completions::of(completions::endpoints))
    )]
    Move(MoveFloat),
    /// List the floats
    #[command(after_help = EXAMPLES, visible_alias = "list")]
    Ls(WatchArgs),
    /// Take external addresses from their endpoints; one that is gone already is fine
    #[command(after_help = EXAMPLES, visible_alias = "delete")]
    Rm {
        /// The external addresses
        #[arg(required = true, value_name = "IP")]
        ips: Vec<Ipv4Addr>,
    },
}

impl FloatVerb {
    pub(super) async fn execute(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        let Context { client, output, .. } = context;
        match self {
            Self::Add(request) => {
                let work = format!("giving {} to endpoint {}", request.ip, request.endpoint);
                let view = output.during(work, client.call(&request)).await?;
                output.show(&view, |view, out| table(slice::from_ref(view)).write(out))?;
            }
            Self::Move(request) => {
                let work = format!("giving {} to endpoint {}", request.ip, request.endpoint);
                let view = output.during(work, client.call(&request)).await?;
                output.show(&view, |view, out| table(slice::from_ref(view)).write(out))?;
            }
            Self::Ls(watch) => return watch.repeat(context, list_all).await,
            Self::Rm { ips } => {
                let removal = removal::each(output, "float", ips, async |ip| {
                    let view = client.call(&RemoveFloat { ip: *ip }).await?;
                    Ok(view.removed.then_some(()))
                })
                .await;
                removal.show(output, "float")?;
                removal.conclude()?;
            }
        }
        Ok(())
    }
}

async fn list_all(context: &mut Context<'_>) -> Result<(), CommandError> {
    let floats = context.client.call(&ListFloats {}).await?;
    context
        .output
        .show(&floats, |floats, out| table(floats).write(out))?;
    Ok(())
}

fn table(floats: &[FloatView]) -> Table {
    let mut table = Table::new(["IP", "ENDPOINT", "VNI", "ADDRESS", "NODE", "STATE"]);
    for float in floats {
        let node = float.node.as_ref();
        table.row([
            float.ip.to_string(),
            float.endpoint.to_string(),
            float.vni.to_string(),
            float.own.to_string(),
            node.map_or_else(|| "-".to_owned(), ToString::to_string),
            float.problem.clone().unwrap_or_else(|| "ready".to_owned()),
        ]);
    }
    table
}
