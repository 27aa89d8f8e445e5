//! `overlay endpoint`: endpoints of every node.

use clap::{Args, Subcommand};
use serde_json::json;

use super::{Failure, Session};
use crate::{
    agent::api::{AddressRequest, EndpointFilter, EndpointRequest, EndpointView, MoveRequest},
    model::{EndpointState, IfName, Mac, Name, Vni},
    observe::table::{Table, list, or_dash},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay endpoint add web --vni 42 --ip 7.7.7.2/24
  overlay endpoint ls
  overlay endpoint show web
  overlay endpoint move web --node h2
  overlay endpoint rm web";

const ADD_EXAMPLES: &str = "\
Examples:
  overlay endpoint add web --vni 42
      a namespace `web`, and in it eth0 with the next free address of the network's subnet
  overlay endpoint add web --vni 42 --ip 7.7.7.2/24
      this address, and the MAC 02:42:07:07:07:02 that follows from it
  overlay endpoint add db --vni 42 --ip 7.7.7.3 --ip fd00::3/64 --mac 02:00:00:00:00:03
      an address without a length takes the subnet's
  overlay endpoint add web-lab --vni 43 --netns web --ifname eth1
      a second interface in the same namespace, on another network

The verb returns when the endpoint is ready: `ip netns exec web ping ...` works.";

const LS_EXAMPLES: &str = "\
Examples:
  overlay endpoint ls
  overlay endpoint ls --vni 42 --node h2
  overlay -o json endpoint ls | jq -r '.[] | select(.state == \"failed\") | .name'

States: ready, pending and failed are this host's; remote is elsewhere; down is on a node that has not
been heard of for longer than --node-grace. Listed by name, a thousand at a time.";

const SHOW_EXAMPLES: &str = "\
Examples:
  overlay endpoint show web
  overlay -o json endpoint show web | jq -r '.ips[0]'";

const MOVE_EXAMPLES: &str = "\
Examples:
  overlay endpoint move web            from wherever it lives to this host
  overlay endpoint move web --node h2
  overlay endpoint move web --node h2 --netns web-2 --ifname eth1

Name, MAC and addresses stay, in one commit: every host sends to the new node from then on, and the
old one takes its interface away. From a node that is down too.";

const RM_EXAMPLES: &str = "\
Examples:
  overlay endpoint rm web              a second time is fine too";

/// What to do with endpoints.
#[derive(Debug, Subcommand)]
pub enum EndpointVerb {
    /// Make an endpoint on this host: namespace, veth, addresses, registry record
    #[command(after_help = ADD_EXAMPLES)]
    Add(AddArgs),
    /// List the endpoints of every node
    #[command(after_help = LS_EXAMPLES)]
    Ls(LsArgs),
    /// Show one endpoint
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        /// The endpoint
        name: Name,
    },
    /// Put an endpoint onto another node, with its MAC and addresses
    #[command(after_help = MOVE_EXAMPLES)]
    Move(MoveArgs),
    /// Remove an endpoint; one that is gone already is fine
    #[command(after_help = RM_EXAMPLES)]
    Rm {
        /// The endpoint
        name: Name,
    },
}

/// The endpoint that is asked for.
#[derive(Debug, Args)]
pub struct AddArgs {
    /// Its name, unique among all nodes
    name: Name,
    /// Its network's VNI
    #[arg(long, value_name = "N")]
    vni: Vni,
    /// Its address; may be repeated. Without: one from the network's subnet
    #[arg(long = "ip", value_name = "A/len")]
    addresses: Vec<AddressRequest>,
    /// Its MAC [default: 02:42 and the four bytes of the IPv4 address]
    #[arg(long)]
    mac: Option<Mac>,
    /// Its namespace, made if it is missing [default: NAME]
    #[arg(long, value_name = "NS")]
    netns: Option<Name>,
    /// Its interface's name in the namespace [default: eth0]
    #[arg(long, value_name = "IF")]
    ifname: Option<IfName>,
}

impl From<AddArgs> for EndpointRequest {
    fn from(args: AddArgs) -> Self {
        Self {
            name: args.name,
            vni: args.vni,
            addresses: args.addresses,
            mac: args.mac,
            netns: args.netns,
            ifname: args.ifname,
        }
    }
}

/// Which endpoints to list.
#[derive(Debug, Args)]
pub struct LsArgs {
    /// Only those of this network
    #[arg(long, value_name = "N")]
    vni: Option<Vni>,
    /// Only those that live on this node
    #[arg(long, value_name = "NODE")]
    node: Option<Name>,
}

/// What is to live where.
#[derive(Debug, Args)]
pub struct MoveArgs {
    /// The endpoint
    name: Name,
    /// The node that it is to live on [default: this one]
    #[arg(long, value_name = "NODE")]
    node: Option<Name>,
    /// Its namespace there, made if it is missing [default: as it was]
    #[arg(long, value_name = "NS")]
    netns: Option<Name>,
    /// Its interface there [default: as it was]
    #[arg(long, value_name = "IF")]
    ifname: Option<IfName>,
}

impl EndpointVerb {
    pub(super) async fn execute(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let Session { client, output } = session;
        match self {
            Self::Add(args) => {
                let work = format!("adding endpoint {}", args.name);
                let request = args.into();
                let made = output.during(work, client.endpoint_add(&request)).await?;
                output.show(&made, |made, out| {
                    writeln!(
                        out,
                        "endpoint {} is {}: {} {} on {} in namespace {}",
                        made.name,
                        state(made.state),
                        list(&made.addresses),
                        made.mac,
                        or_dash(made.ifname.as_ref()),
                        or_dash(made.netns.as_ref()),
                    )
                })?;
            }
            Self::Ls(LsArgs { vni, node }) => {
                let mut endpoints = client.endpoint_ls(&EndpointFilter { vni, node }).await?;
                let mut list = output.list();
                while let Some(page) = endpoints.page().await? {
                    list.page(&page, table)?;
                }
                list.end(|| table(&[]))?;
            }
            Self::Show { name } => {
                let endpoint = client.endpoint_show(&name).await?;
                output.show(&endpoint, |endpoint, out| details(endpoint).write(out))?;
            }
            Self::Move(MoveArgs {
                name,
                node,
                netns,
                ifname,
            }) => {
                let to = MoveRequest {
                    node,
                    netns,
                    ifname,
                };
                let work = format!("moving endpoint {name}");
                let moved = output
                    .during(work, client.endpoint_move(&name, &to))
                    .await?;
                output.show(&moved, |moved, out| {
                    writeln!(
                        out,
                        "endpoint {} lives on {} now, generation {}",
                        moved.name, moved.node, moved.generation
                    )
                })?;
            }
            Self::Rm { name } => {
                let work = format!("removing endpoint {name}");
                output.during(work, client.endpoint_rm(&name)).await?;
                output.show(&json!({}), |_, out| {
                    writeln!(out, "endpoint {name} removed")
                })?;
            }
        }
        Ok(())
    }
}

fn state(state: EndpointState) -> &'static str {
    match state {
        EndpointState::Remote => "remote",
        EndpointState::Down => "down",
        EndpointState::Ready => "ready",
        EndpointState::Pending => "pending",
        EndpointState::Failed => "failed",
    }
}

fn table(endpoints: &[EndpointView]) -> Table {
    let mut table = Table::new([
        "NAME", "VNI", "MAC", "IPS", "NODE", "VTEP", "NETNS", "IFNAME", "STATE",
    ]);
    for endpoint in endpoints {
        table.row([
            endpoint.name.to_string(),
            endpoint.vni.to_string(),
            endpoint.mac.to_string(),
            list(&endpoint.ips),
            endpoint.node.to_string(),
            endpoint.vtep.to_string(),
            or_dash(endpoint.netns.as_ref()),
            or_dash(endpoint.ifname.as_ref()),
            state(endpoint.state).to_owned(),
        ]);
    }
    table
}

fn details(endpoint: &EndpointView) -> Table {
    Table::properties([
        ("Name", endpoint.name.to_string()),
        ("VNI", endpoint.vni.to_string()),
        ("MAC", endpoint.mac.to_string()),
        ("Addresses", list(&endpoint.addresses)),
        ("Node", endpoint.node.to_string()),
        ("VTEP", endpoint.vtep.to_string()),
        ("Namespace", or_dash(endpoint.netns.as_ref())),
        ("Interface", or_dash(endpoint.ifname.as_ref())),
        ("Generation", endpoint.generation.to_string()),
        ("State", state(endpoint.state).to_owned()),
        ("Error", or_dash(endpoint.error.as_ref())),
    ])
}
