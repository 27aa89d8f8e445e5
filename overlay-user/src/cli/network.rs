//! `overlay network`: networks.

use clap::{Args, Subcommand};
use ipnet::IpNet;
use serde_json::json;

use super::{Failure, Session};
use crate::{
    agent::api::NetworkView,
    model::{FloodMode, Name, Network, Resolve, Vni},
    observe::table::{Table, list},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay network create blue --vni 42 --subnet 7.7.7.0/24
  overlay network ls
  overlay network rm blue";

const CREATE_EXAMPLES: &str = "\
Examples:
  overlay network create blue --vni 42 --subnet 7.7.7.0/24
  overlay network create lab --vni 43 --subnet 10.1.0.0/16 --subnet fd00:43::/64 --mtu 1400
  overlay network create flat --vni 44 --flood head-end --learning
  overlay network create vast --vni 46 --subnet 10.64.0.0/10 --resolve on-demand
  overlay network create cast --vni 45 --flood \"multicast 239.1.1.1\"";

const LS_EXAMPLES: &str = "\
Examples:
  overlay network ls
  overlay -o json network ls | jq '.[].vni'";

const RM_EXAMPLES: &str = "\
Examples:
  overlay network rm blue              its endpoints must be gone";

/// What to do with networks.
#[derive(Debug, Subcommand)]
pub enum NetworkVerb {
    /// Make a network
    #[command(after_help = CREATE_EXAMPLES)]
    Create(CreateArgs),
    /// List the networks
    #[command(after_help = LS_EXAMPLES)]
    Ls,
    /// Remove a network that has no endpoints
    #[command(after_help = RM_EXAMPLES)]
    Rm {
        /// The network
        name: Name,
    },
}

/// The network that is asked for.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Its name
    name: Name,
    /// Its VXLAN network identifier, 1 to 16777215
    #[arg(long, value_name = "N")]
    vni: Vni,
    /// Where its endpoints' addresses come from; may be repeated. Without: any address, none handed out
    #[arg(long = "subnet", value_name = "CIDR", value_parser = subnet)]
    subnets: Vec<IpNet>,
    /// Bytes of an IP packet; 0: what the underlay leaves
    #[arg(long, value_name = "BYTES", default_value_t = 0, value_parser = mtu)]
    mtu: u32,
    /// What becomes of broadcast, unknown unicast and multicast: none, head-end or "multicast GROUP"
    #[arg(long, value_name = "MODE", default_value_t = FloodMode::None)]
    flood: FloodMode,
    /// Learn source MACs from packets
    #[arg(long)]
    learning: bool,
    /// When hosts learn where its endpoints are: proactive (all at once) or on-demand (when one of
    /// theirs asks, for networks of which a host talks to a small part)
    #[arg(long, value_name = "MODE", default_value_t = Resolve::Proactive)]
    resolve: Resolve,
}

fn subnet(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| {
        format!("subnet {text:?} is malformed: write for example 7.7.7.0/24 or fd00::/64")
    })
}

fn mtu(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(bytes) if bytes <= 65535 => Ok(bytes),
        _ => Err(format!("MTU {text:?} is not a number from 0 to 65535")),
    }
}

impl NetworkVerb {
    pub(super) async fn execute(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let Session { client, output } = session;
        match self {
            Self::Create(args) => {
                let work = format!("creating network {}", args.name);
                let network = Network {
                    subnets: args.subnets,
                    mtu: args.mtu,
                    flood: args.flood,
                    learning: args.learning,
                    resolve: args.resolve,
                    ..Network::new(args.name, args.vni)
                };
                let made = output.during(work, client.network_create(&network)).await?;
                output.show(&made, |made, out| {
                    writeln!(out, "network {} created with VNI {}", made.name, made.vni)
                })?;
            }
            Self::Ls => {
                let networks = client.network_ls().await?;
                output.show(&networks, |networks, out| table(networks).write(out))?;
            }
            Self::Rm { name } => {
                let work = format!("removing network {name}");
                output.during(work, client.network_rm(&name)).await?;
                output.show(&json!({}), |_, out| writeln!(out, "network {name} removed"))?;
            }
        }
        Ok(())
    }
}

fn table(networks: &[NetworkView]) -> Table {
    let mut table = Table::new([
        "NAME", "VNI", "SUBNETS", "MTU", "FLOOD", "LEARNING", "RESOLVE",
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
        ]);
    }
    table
}
