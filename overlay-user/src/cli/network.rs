//! `overlay network`: networks.

use std::slice;

use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;
use ipnet::IpNet;

use super::{ASKING, CommandError, Session, completions, removal, watch::WatchArgs};
use crate::{
    agent::api::{NetworkRequest, NetworkView},
    model::{FloodMode, Name, NetworkSettings, Resolve, VniChoice},
    observe::table::{Table, list},
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
    Create(CreateArgs),
    /// Change a network while traffic runs
    #[command(after_help = SET_EXAMPLES)]
    Set(SetArgs),
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

/// The network that is asked for.
#[derive(Debug, Args)]
pub struct CreateArgs {
    /// Its name
    name: Name,
    /// Its VXLAN network identifier, 1 to 16777215; auto: the lowest from 4096 that is free
    #[arg(long, value_name = "N|auto")]
    vni: VniChoice,
    /// Where its endpoints' addresses come from; may be repeated. Without: any address, none handed out
    #[arg(long = "subnet", value_name = "CIDR", value_parser = subnet)]
    subnets: Vec<IpNet>,
    /// Bytes of an IP packet, from 576, with IPv6 from 1280; 0: what the underlay leaves
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

/// What is to change.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// Its name
    #[arg(add = ArgValueCompleter::new(completions::networks))]
    name: Name,
    /// Bytes of an IP packet, from 576, with IPv6 from 1280; 0: what the underlay leaves
    #[arg(long, value_name = "BYTES", value_parser = mtu)]
    mtu: Option<u32>,
    /// What becomes of broadcast, unknown unicast and multicast: none, head-end or "multicast GROUP"
    #[arg(long, value_name = "MODE")]
    flood: Option<FloodMode>,
    /// Whether source MACs are learned from packets
    #[arg(long, value_name = "on|off", value_parser = on_or_off)]
    learning: Option<bool>,
}

fn on_or_off(text: &str) -> Result<bool, String> {
    match text {
        "on" => Ok(true),
        "off" => Ok(false),
        _ => Err(format!("{text:?} is neither on nor off")),
    }
}

fn subnet(text: &str) -> Result<IpNet, String> {
    text.parse().map_err(|_| {
        format!("subnet {text:?} is malformed: write for example 7.7.7.0/24 or fd00::/64")
    })
}

fn mtu(text: &str) -> Result<u32, String> {
    match text.parse() {
        Ok(bytes @ (0 | 576..=65485)) => Ok(bytes),
        _ => Err(format!(
            "MTU {text:?} is not a number from 576 to 65485 (1280 with IPv6), or 0 for what the underlay leaves"
        )),
    }
}

impl NetworkVerb {
    pub(super) async fn execute(self, session: &mut Session<'_>) -> Result<(), CommandError> {
        let Session { client, output, .. } = session;
        match self {
            Self::Create(args) => {
                let work = format!("creating network {}", args.name);
                let request = NetworkRequest {
                    name: args.name,
                    vni: args.vni,
                    subnets: args.subnets,
                    mtu: args.mtu,
                    flood: args.flood,
                    learning: args.learning,
                    resolve: args.resolve,
                };
                let made = output.during(work, client.network_create(&request)).await?;
                output.show(&made, |made, out| {
                    writeln!(out, "network {} created with VNI {}", made.name, made.vni)
                })?;
            }
            Self::Set(SetArgs {
                name,
                mtu,
                flood,
                learning,
            }) => {
                let settings = NetworkSettings {
                    mtu,
                    flood,
                    learning,
                };
                if settings == NetworkSettings::default() {
                    return Err(CommandError::usage(
                        "nothing to change: give --mtu, --flood or --learning",
                    ));
                }
                let work = format!("changing network {name}");
                let set = output
                    .during(work, client.network_set(&name, &settings))
                    .await?;
                output.show(&set, |set, out| table(slice::from_ref(set)).write(out))?;
            }
            Self::Ls(watch) => return watch.repeat(session, list_all).await,
            Self::Rm { names } => {
                let removal = removal::each(output, "network", names, async |name| {
                    let view = client.network_rm(name).await?;
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

async fn list_all(session: &mut Session<'_>) -> Result<(), CommandError> {
    let networks = match session.client.network_ls().await {
        Ok(networks) => networks,
        Err(error) => {
            let left = session.left_in_registry(error)?;
            let reading = session.in_time("reading the registry", ASKING, left.networks());
            reading.await?
        }
    };
    session
        .output
        .show(&networks, |networks, out| table(networks).write(out))?;
    Ok(())
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
