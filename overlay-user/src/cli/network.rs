//! `overlay network`: networks.

use std::slice;

use clap::Subcommand;
use clap_complete::ArgValueCompleter;

use super::{ASKING, CommandError, Context, completions, removal, watch::WatchArgs};
use crate::{
    agent::api::{CreateNetwork, ListNetworks, NetworkView, RemoveNetwork, SetNetwork},
    model::Name,
    observe::table::{Table, list, or_dash},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay network create blue --vni 42 --subnet 7.7.7.0/24
  overlay network ls
  overlay network set blue --mtu 1400
  overlay network rm blue";

const CREATE_EXAMPLES: &str = "\
Examples:
  overlay network create blue --vni 42 --subnet 7.7.7.0/24
  overlay network create lab --vni 43 --subnet 10.1.0.0/16 --subnet fd00:43::/64 --mtu 1400
  overlay network create next --vni auto --subnet 10.2.0.0/16
  overlay network create flat --vni 44 --flood head-end --learning
  overlay network create vast --vni 46 --subnet 10.64.0.0/10 --resolve on-demand
  overlay network create cast --vni 45 --flood \"multicast 239.1.1.1\"";

const SET_EXAMPLES: &str = "\
Examples:
  overlay network set blue --mtu 1400      every interface follows, traffic goes on
  overlay network set blue --mtu 0         what the narrowest host's underlay leaves, again
  overlay network set blue --flood head-end --learning on
  overlay network set blue --snat host     endpoints reach the outside by their hosts' addresses
  overlay network set blue --dhcp on       its endpoints may ask by DHCP: see `overlay dhcp set`
  overlay network set blue --qos gold      each of its endpoints gets these limits for itself

What is not named stays. A larger MTU than an endpoint's host can carry is refused.";

const LS_EXAMPLES: &str = "\
Examples:
  overlay network ls
  overlay -o json network ls | jq '.[].vni'";

const RM_EXAMPLES: &str = "\
Examples:
  overlay network rm blue              its endpoints must be gone; a second time is fine
  overlay network rm blue lab";

/// What to do with networks.
#[derive(Debug, Subcommand)]
pub enum NetworkVerb {
    /// Make a network
    #[command(after_help = CREATE_EXAMPLES)]
    Create(CreateNetwork),
    /// Change a network while traffic runs
    #[command(
        after_help = SET_EXAMPLES,
        mut_arg("name", completions::of(completions::networks)),
        mut_arg("qos", completions::of(completions::qos))
    )]
    Set(SetNetwork),
    /// List the networks
    #[command(after_help = LS_EXAMPLES, visible_alias = "list")]
    Ls(WatchArgs),
    /// Remove networks that have no endpoints; one that is gone already is fine
    #[command(after_help = RM_EXAMPLES, visible_alias = "delete")]
    Rm {
        /// The networks
        #[arg(
            required = true,
            value_name = "NAME",
            add = ArgValueCompleter::new(completions::networks)
        )]
        names: Vec<Name>,
    },
}

impl NetworkVerb {
    pub(super) async fn execute(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        let Context { client, output, .. } = context;
        match self {
            Self::Create(request) => {
                let work = format!("creating network {}", request.name);
                let made = output.during(work, client.call(&request)).await?;
                output.show(&made, |made, out| {
                    writeln!(out, "network {} created with VNI {}", made.name, made.vni)
                })?;
            }
            Self::Set(request) => {
                if request.is_empty() {
                    return Err(CommandError::usage(
                        "nothing to change: give --mtu, --flood, --learning, --snat, --dhcp or --qos",
                    ));
                }
                let work = format!("changing network {}", request.name);
                let set = output.during(work, client.call(&request)).await?;
                output.show(&set, |set, out| table(slice::from_ref(set)).write(out))?;
            }
            Self::Ls(watch) => return watch.repeat(context, list_all).await,
            Self::Rm { names } => {
                let removal = removal::each(output, "network", names, async |name| {
                    let name = name.clone();
                    let view = client.call(&RemoveNetwork { name }).await?;
                    Ok(view.removed.then_some(()))
                })
                .await;
                removal.show(output, "network")?;
                removal.conclude()?;
            }
        }
        Ok(())
    }
}

async fn list_all(context: &mut Context<'_>) -> Result<(), CommandError> {
    let networks = match context.client.call(&ListNetworks {}).await {
        Ok(networks) => networks,
        Err(error) => {
            let left = context.left_in_registry(error)?;
            let reading = context.in_time("reading the registry", ASKING, left.networks());
            reading.await?
        }
    };
    context
        .output
        .show(&networks, |networks, out| table(networks).write(out))?;
    Ok(())
}

fn table(networks: &[NetworkView]) -> Table {
    let mut table = Table::new([
        "NAME", "VNI", "SUBNETS", "MTU", "FLOOD", "LEARNING", "RESOLVE", "SNAT", "DHCP", "QOS",
    ]);
    for network in networks {
        table.row([
            network.name.to_string(),
            network.vni.to_string(),
            list(&network.subnets),
            match network.mtu {
                0 => "auto".to_owned(),
                mtu => mtu.to_string(),
            },
            network.flood.to_string(),
            if network.learning { "on" } else { "off" }.to_owned(),
            network.resolve.to_string(),
            network.snat.to_string(),
            if network.dhcp { "on" } else { "off" }.to_owned(),
            or_dash(network.qos.as_ref()),
        ]);
    }
    table
}
