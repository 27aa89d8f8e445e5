//! `overlay dhcp`: what networks tell their endpoints.

use std::{
    net::{IpAddr, Ipv4Addr},
    slice,
};

use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;

use super::{CommandError, Context, completions, removal, watch::WatchArgs};
use crate::{
    agent::api::{DhcpOption, DhcpRoute, DhcpView, ListDhcp, Pxe, RemoveDhcp, SetDhcp, ShowDhcp},
    config::LeaseTime,
    model::NetworkRef,
    observe::table::{Table, list},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay dhcp set blue --dns 10.0.0.53 --domain cloud.example
  overlay endpoint add web --vni blue --dhcp      a DHCP client in it sets its addresses
  overlay network set blue --dhcp off             what is set stays
  overlay dhcp show blue";

const SET_EXAMPLES: &str = "\
Examples:
  overlay dhcp set blue                           on, with the addresses alone
  overlay dhcp set blue --dns 10.0.0.53 --dns fd00::53 --domain cloud.example --ntp 10.0.0.123
  overlay dhcp set blue --lease 1h --route 10.9.0.0/16=7.7.7.9
  overlay dhcp set blue --pxe 7.7.7.5 boot/pxelinux.0
  overlay dhcp set blue --clear ntp --clear route

What is not named stays. Clients get what is new when they renew: addresses are the registry's, whatever a client asks
for. Endpoints with IPv6 addresses get router advertisements and DHCPv6.";

const LS_EXAMPLES: &str = "\
Examples:
  overlay dhcp ls
  overlay -o json dhcp ls | jq '.[].dns'";

const SHOW_EXAMPLES: &str = "\
Examples:
  overlay dhcp show blue
  overlay -o json dhcp show blue | jq .server";

const RM_EXAMPLES: &str = "\
Examples:
  overlay dhcp rm blue                            off, and forgotten; a second time is fine";

/// What to do with it.
#[derive(Debug, Subcommand)]
pub enum DhcpVerb {
    /// Say what a network tells its endpoints, and switch that on if it never was
    #[command(after_help = SET_EXAMPLES)]
    Set(SetArgs),
    /// List the networks that have something to tell
    #[command(after_help = LS_EXAMPLES, visible_alias = "list")]
    Ls(WatchArgs),
    /// Show what a network tells its endpoints
    #[command(
        after_help = SHOW_EXAMPLES,
        mut_arg("network", completions::of(completions::vnis))
    )]
    Show(ShowDhcp),
    /// Take it away; what is gone already is fine
    #[command(after_help = RM_EXAMPLES, visible_alias = "delete")]
    Rm {
        /// The networks, by name or VNI
        #[arg(
            required = true,
            value_name = "NETWORK",
            add = ArgValueCompleter::new(completions::vnis)
        )]
        networks: Vec<NetworkRef>,
    },
}

/// What a network is to tell.
#[derive(Debug, Args)]
pub struct SetArgs {
    /// The network, by name or VNI
    #[arg(add = ArgValueCompleter::new(completions::vnis))]
    network: NetworkRef,
    /// A name server, of either family; may be repeated. In place of all that there were
    #[arg(long, value_name = "A")]
    dns: Vec<IpAddr>,
    /// The domain of host names without one
    #[arg(long, value_name = "D")]
    domain: Option<String>,
    /// An NTP server, of either family; may be repeated. In place of all that there were
    #[arg(long, value_name = "A")]
    ntp: Vec<IpAddr>,
    /// For how long a client may go without asking again: it asks after half of it [default: 24h]
    #[arg(long, value_name = "TIME")]
    lease: Option<LeaseTime>,
    /// A route of IPv4 beside the default route; may be repeated. In place of all that there were
    #[arg(long = "route", value_name = "CIDR=A")]
    routes: Vec<DhcpRoute>,
    /// The TFTP server and the file that machines boot from
    #[arg(long, num_args = 2, value_names = ["SERVER", "FILE"])]
    pxe: Vec<String>,
    /// What to take away first; may be repeated
    #[arg(long, value_enum, value_name = "WHAT")]
    clear: Vec<DhcpOption>,
}

impl SetArgs {
    fn request(self) -> Result<SetDhcp, CommandError> {
        let pxe = match self.pxe.as_slice() {
            [server, file] => {
                let server: Ipv4Addr = server.parse().map_err(|_| {
                    CommandError::usage(format!("TFTP server {server:?} is no IPv4 address"))
                })?;
                Some(Pxe {
                    server,
                    file: file.clone(),
                })
            }
            _ => None,
        };
        let lease = self.lease.map(LeaseTime::get);
        Ok(SetDhcp {
            network: self.network,
            clear: self.clear,
            dns: Some(self.dns).filter(|it| !it.is_empty()),
            domain: self.domain,
            ntp: Some(self.ntp).filter(|it| !it.is_empty()),
            lease_s: lease.map(|lease| u32::try_from(lease.as_secs()).unwrap_or(u32::MAX)),
            routes: Some(self.routes).filter(|it| !it.is_empty()),
            pxe,
        })
    }
}

impl DhcpVerb {
    pub(super) async fn execute(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        let Context { client, output, .. } = context;
        match self {
            Self::Set(args) => {
                let request = args.request()?;
                let work = format!("changing what network {} tells", request.network);
                let set = output.during(work, client.call(&request)).await?;
                output.show(&set, |set, out| table(slice::from_ref(set)).write(out))?;
            }
            Self::Ls(watch) => return watch.repeat(context, list_all).await,
            Self::Show(request) => {
                let dhcp = client.call(&request).await?;
                output.show(&dhcp, |dhcp, out| details(dhcp).write(out))?;
            }
            Self::Rm { networks } => {
                let removal = removal::each(output, "DHCP of network", networks, async |network| {
                    let network = network.clone();
                    let view = client.call(&RemoveDhcp { network }).await?;
                    Ok(view.removed.then_some(()))
                })
                .await;
                removal.show(output, "DHCP of network")?;
                removal.conclude()?;
            }
        }
        Ok(())
    }
}

async fn list_all(context: &mut Context<'_>) -> Result<(), CommandError> {
    let all = context.client.call(&ListDhcp {}).await?;
    context
        .output
        .show(&all, |all, out| table(all).write(out))?;
    Ok(())
}

fn name(dhcp: &DhcpView) -> String {
    let name = dhcp.network.as_ref();
    name.map_or_else(|| dhcp.vni.to_string(), ToString::to_string)
}

const fn on_or_off(dhcp: &DhcpView) -> &'static str {
    if dhcp.on { "on" } else { "off" }
}

fn or_dash<T: ToString>(value: Option<T>) -> String {
    value.map_or_else(|| "-".to_owned(), |value| value.to_string())
}

fn table(all: &[DhcpView]) -> Table {
    let mut table = Table::new(["NETWORK", "VNI", "DHCP", "SERVER", "DNS", "DOMAIN", "LEASE"]);
    for dhcp in all {
        table.row([
            name(dhcp),
            dhcp.vni.to_string(),
            on_or_off(dhcp).to_owned(),
            or_dash(dhcp.server),
            list(&dhcp.dns),
            or_dash(dhcp.domain.as_ref()),
            lease(dhcp),
        ]);
    }
    table
}

fn details(dhcp: &DhcpView) -> Table {
    let pxe = dhcp.pxe.as_ref();
    Table::properties([
        ("Network", name(dhcp)),
        ("VNI", dhcp.vni.to_string()),
        ("DHCP", on_or_off(dhcp).to_owned()),
        ("Server", or_dash(dhcp.server)),
        ("DNS", list(&dhcp.dns)),
        ("Domain", or_dash(dhcp.domain.as_ref())),
        ("NTP", list(&dhcp.ntp)),
        ("Lease", lease(dhcp)),
        ("Routes", list(&dhcp.routes)),
        (
            "PXE",
            or_dash(pxe.map(|pxe| format!("{} {}", pxe.server, pxe.file))),
        ),
    ])
}

/// In the largest unit of which it is so many.
fn lease(dhcp: &DhcpView) -> String {
    let seconds = dhcp.lease_s;
    match seconds {
        _ if seconds.is_multiple_of(3600) => format!("{}h", seconds / 3600),
        _ if seconds.is_multiple_of(60) => format!("{}m", seconds / 60),
        _ => format!("{seconds}s"),
    }
}
