//! `overlay endpoint`: endpoints of every node.

use super::{ASKING, CommandError, Context, completions, removal, watch::WatchArgs};
use crate::{
    agent::api::{
        AddEndpoint, EndpointTrafficView, EndpointView, ListEndpoints, MoveEndpoint,
        RemoveEndpoint, SetEndpoint, ShowEndpoint,
    },
    model::{EndpointState, Name, NetnsRef},
    observe::table::{Table, list, or_dash},
};
use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;

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
      a namespace `web`, and in it eth0 with the next free address of the network's subnet, of IPv4 and
      of IPv6 if it has both
  overlay endpoint add web --vni 42 --ip 7.7.7.2/24
      this address, and the MAC 02:42:07:07:07:02 that follows from it
  overlay endpoint add db --vni 42 --ip 7.7.7.3 --ip fd00::3/64 --mac 02:00:00:00:00:03
      an address without a length takes the subnet's
  overlay endpoint add web-lab --vni 43 --netns web --ifname eth1
      a second interface in the same namespace, on another network
  overlay endpoint add c1 --vni 42 --netns 13332
      an interface for the container that has this process; when it ends, the endpoint waits
  overlay endpoint add c2 --vni 42 --netns /run/docker/netns/3e1fd9b5b8a2
  overlay endpoint add db2 --vni 42 --qos gold

The verb returns when the endpoint is ready: `ip netns exec web ping ...` works.";

const LS_EXAMPLES: &str = "\
Examples:
  overlay endpoint ls
  overlay endpoint ls --vni 42 --node h2
  overlay endpoint ls --wide           with packets and bytes of this host's endpoints
  overlay endpoint ls --vni blue       a network's name is as good as its VNI
  overlay -o json endpoint ls | jq -r '.[] | select(.state == \"failed\") | .name'

States: ready, pending and failed are this host's, and unknown where no agent runs; remote is elsewhere;
down is on a node that has not been heard of for longer than --node-grace. Listed by VNI and name, up to
100,000; more come in the registry's order. Without an agent, and while the registry is away, a note on stderr
says where the list is from.";

const SHOW_EXAMPLES: &str = "\
Examples:
  overlay endpoint show web
  overlay -o json endpoint show web | jq -r '.ips[0]'";

const MOVE_EXAMPLES: &str = "\
Examples:
  overlay endpoint move web            from wherever it lives to this host
  overlay endpoint move web --node h2
  overlay endpoint move web --node h2 --netns web-2 --ifname eth1
  overlay endpoint move c1 --netns 14441            its container was started again

Name, MAC and addresses stay, in one commit: every host sends to the new node from then on, and the
old one takes its interface away. From a node that is down too.";

const SET_EXAMPLES: &str = "\
Examples:
  overlay endpoint set web --ip 7.7.7.9
  overlay endpoint set web --ip 7.7.7.9/24 --ip fd00::9/64 --mac 02:00:00:00:00:09
  overlay endpoint set web --qos gold        its limits from now on: see overlay qos
  overlay endpoint set web --qos none        its network's again, if that has any

The addresses that are named replace all that it had; without --ip they stay, without --mac the MAC does.
Its interface and every host follow at once. What it gives up is kept free for --quarantine. Refused if
somebody else changed it at the same moment.";

const RM_EXAMPLES: &str = "\
Examples:
  overlay endpoint rm web              a second time is fine too, and says that there is none
  overlay endpoint rm web db cache     one that can't be removed keeps none of the others";

/// What to do with endpoints.
#[derive(Debug, Subcommand)]
pub enum EndpointVerb {
    /// Make an endpoint on this host: namespace, veth, addresses, registry record
    #[command(
        after_help = ADD_EXAMPLES,
        mut_arg("vni", completions::of(completions::vnis)),
        mut_arg("qos", completions::of(completions::qos))
    )]
    Add(AddEndpoint),
    /// List the endpoints of every node
    #[command(after_help = LS_EXAMPLES, visible_alias = "list")]
    Ls(LsArgs),
    /// Show one endpoint
    #[command(after_help = SHOW_EXAMPLES)]
    Show {
        /// The endpoint
        #[arg(add = ArgValueCompleter::new(completions::endpoints))]
        name: Name,
    },
    /// Put an endpoint onto another node, with its MAC and addresses
    #[command(
        after_help = MOVE_EXAMPLES,
        mut_arg("name", completions::of(completions::endpoints)),
        mut_arg("node", completions::of(completions::nodes))
    )]
    Move(MoveEndpoint),
    /// Change an endpoint's addresses, MAC or limits while traffic runs
    #[command(
        after_help = SET_EXAMPLES,
        mut_arg("name", completions::of(completions::endpoints)),
        mut_arg("qos", completions::of(completions::qos))
    )]
    Set(SetEndpoint),
    /// Remove endpoints; one that is gone already is fine
    #[command(after_help = RM_EXAMPLES, visible_alias = "delete")]
    Rm {
        /// The endpoints
        #[arg(
            required = true,
            value_name = "NAME",
            add = ArgValueCompleter::new(completions::endpoints)
        )]
        names: Vec<Name>,
    },
}

/// The same for an agent, whose folder is another. What can't be made out is left to it to refuse.
fn anchored(netns: NetnsRef) -> NetnsRef {
    match netns {
        NetnsRef::Path(path) => NetnsRef::Path(std::path::absolute(&path).unwrap_or(path)),
        other => other,
    }
}

/// Which endpoints to list.
#[derive(Debug, Args)]
#[command(
    mut_arg("vni", completions::of(completions::vnis)),
    mut_arg("node", completions::of(completions::nodes))
)]
pub struct LsArgs {
    #[command(flatten)]
    filter: ListEndpoints,
    /// Show too how much each endpoint of this host sent and received
    #[arg(long)]
    wide: bool,
    #[command(flatten)]
    watch: WatchArgs,
}

impl LsArgs {
    async fn list(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        let show =
            async |context: &mut Context<'_>| list_all(context, &self.filter, self.wide).await;
        self.watch.repeat(context, show).await
    }
}

async fn list_all(
    context: &mut Context<'_>,
    filter: &ListEndpoints,
    is_wide: bool,
) -> Result<(), CommandError> {
    let table = if is_wide { wide_table } else { table };
    let mut endpoints = match context.client.pages(filter).await {
        Ok(endpoints) => endpoints,
        Err(error) => {
            let left = context.left_in_registry(error)?;
            let reading = left.endpoints(filter.clone());
            let pages = context.in_time("reading the registry", ASKING, reading);
            let mut pages = pages.await?;
            let mut list = context.output.list();
            while let Some(page) = pages.recv().await {
                list.page(&page?, table)?;
            }
            return Ok(list.end(|| table(&[]))?);
        }
    };
    if let Some(note) = endpoints.note() {
        context.output.note(note)?;
    }
    let mut list = context.output.list();
    while let Some(page) = endpoints.page().await? {
        list.page(&page, table)?;
    }
    list.end(|| table(&[]))?;
    Ok(())
}

impl EndpointVerb {
    pub(super) async fn execute(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        let Context { client, output, .. } = context;
        match self {
            Self::Add(mut request) => {
                request.netns = request.netns.map(anchored);
                let work = format!("adding endpoint {}", request.name);
                let made = output.during(work, client.call(&request)).await?;
                output.show(&made, |made, out| {
                    writeln!(
                        out,
                        "endpoint {} {} {}: {} {} on {} in namespace {}",
                        made.name,
                        if made.existed {
                            "was there already and is"
                        } else {
                            "is"
                        },
                        state(made.state),
                        list(&made.addresses),
                        made.mac,
                        or_dash(made.ifname.as_ref()),
                        or_dash(made.netns.as_ref()),
                    )
                })?;
            }
            Self::Ls(args) => return args.list(context).await,
            Self::Show { name } => {
                let endpoint = client.call(&ShowEndpoint { name }).await?;
                output.show(&endpoint, |endpoint, out| details(endpoint).write(out))?;
            }
            Self::Move(mut request) => {
                request.netns = request.netns.map(anchored);
                let work = format!("moving endpoint {}", request.name);
                let moved = output.during(work, client.call(&request)).await?;
                output.show(&moved, |moved, out| {
                    writeln!(
                        out,
                        "endpoint {} lives on {} now, generation {}",
                        moved.name, moved.node, moved.generation
                    )
                })?;
            }
            Self::Set(request) => {
                if request.is_empty() {
                    return Err(CommandError::usage(
                        "nothing to change: give --ip, --mac or --qos",
                    ));
                }
                let work = format!("changing endpoint {}", request.name);
                let set = output.during(work, client.call(&request)).await?;
                output.show(&set, |set, out| {
                    writeln!(
                        out,
                        "endpoint {} is {}: {} {}, generation {}",
                        set.name,
                        state(set.state),
                        list(&set.addresses),
                        set.mac,
                        set.generation
                    )
                })?;
            }
            Self::Rm { names } => {
                let removal = removal::each(output, "endpoint", names, async |name| {
                    let name = name.clone();
                    let view = client.call(&RemoveEndpoint { name }).await?;
                    Ok(view.removed.then_some(()))
                })
                .await;
                removal.show(output, "endpoint")?;
                removal.conclude()?;
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
        EndpointState::Unknown => "unknown",
    }
}

const COLUMNS: [&str; 9] = [
    "NAME", "VNI", "MAC", "IPS", "NODE", "VTEP", "NETNS", "IFNAME", "STATE",
];
const WIDE_COLUMNS: [&str; 4] = ["SENT", "SENT BYTES", "RECEIVED", "RECEIVED BYTES"];

fn table(endpoints: &[EndpointView]) -> Table {
    let mut table = Table::new(COLUMNS);
    for endpoint in endpoints {
        table.row(cells(endpoint));
    }
    table
}

fn cells(endpoint: &EndpointView) -> [String; 9] {
    [
        endpoint.name.to_string(),
        endpoint.vni.to_string(),
        endpoint.mac.to_string(),
        list(&endpoint.ips),
        endpoint.node.to_string(),
        endpoint.vtep.to_string(),
        or_dash(endpoint.netns.as_ref()),
        or_dash(endpoint.ifname.as_ref()),
        state(endpoint.state).to_owned(),
    ]
}

/// The table with what each endpoint sent and received, where that is known.
fn wide_table(endpoints: &[EndpointView]) -> Table {
    let columns = COLUMNS.iter().chain(&WIDE_COLUMNS);
    let mut table = Table::with_header(columns.map(|column| (*column).to_owned()));
    for endpoint in endpoints {
        let traffic = endpoint.traffic.as_ref();
        let of = |count: fn(&EndpointTrafficView) -> u64| or_dash(traffic.map(count).as_ref());
        let volumes = [
            of(|traffic| traffic.sent.packets),
            of(|traffic| traffic.sent.bytes),
            of(|traffic| traffic.received.packets),
            of(|traffic| traffic.received.bytes),
        ];
        let cells = cells(endpoint).into_iter().chain(volumes);
        table.marked(cells.map(|cell| (cell, false)));
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
        ("Traffic", or_dash(endpoint.traffic.as_ref())),
        ("Dropped", or_dash(endpoint.drops.as_ref())),
        ("QoS", or_dash(endpoint.qos.as_ref())),
        ("Error", or_dash(endpoint.error.as_ref())),
    ])
}
