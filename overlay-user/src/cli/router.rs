//! `overlay router`: routers, their networks and their routes.

#![expect(clippy::similar_names, reason = "a router has routes")]

use std::slice;

use clap::Subcommand;
use clap_complete::ArgValueCompleter;
use ipnet::IpNet;

use super::{CommandError, Context, completions, removal, watch::WatchArgs};
use crate::{
    agent::api::{
        AddRoute, AttachRouter, CreateRouter, DetachRouter, ListRouters, RemoveRoute, RemoveRouter,
        RouteView, RouterPortView, RouterView, SetRouter, ShowRouter,
    },
    model::{Name, RouteTarget},
    observe::table::{Table, list},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay router create r1
  overlay router attach r1 blue              the gateway is the first address of each subnet
  overlay router attach r1 green --ip 10.2.0.254
  overlay router ls";

const CREATE_EXAMPLES: &str = "\
Examples:
  overlay router create r1
  overlay router create r1 --mac 02:00:00:00:00:01";

const SET_EXAMPLES: &str = "\
Examples:
  overlay router set r1 --outside host       a default route out of each host's uplink
  overlay router set r1 --outside none

Who may leave says the network (`overlay network set N --snat host`) or a float (`overlay float add`). IPv6 addresses of
global scope leave as they are.";

const ATTACH_EXAMPLES: &str = "\
Examples:
  overlay router attach r1 blue
  overlay router attach r1 blue --ip 7.7.7.254 --ip fd00::1

The network's endpoints reach the router's other networks by the gateway. Namespaces that this program made get
it as their default route.";

const DETACH_EXAMPLES: &str = "\
Examples:
  overlay router detach r1 blue        routes through it must be gone";

const SHOW_EXAMPLES: &str = "\
Examples:
  overlay router show r1
  overlay -o json router show r1 | jq .routes";

const LS_EXAMPLES: &str = "\
Examples:
  overlay router ls
  overlay -o json router ls | jq '.[].ports'";

const RM_EXAMPLES: &str = "\
Examples:
  overlay router rm r1                 its networks must be detached; a second time is fine";

const ROUTE_EXAMPLES: &str = "\
Examples:
  overlay router route add r1 10.9.0.0/16 via 7.7.7.9      an endpoint that routes on
  overlay router route add r1 10.66.0.0/16 blackhole
  overlay router route add r1 192.0.2.0/24 outside
  overlay router route ls r1
  overlay router route rm r1 10.9.0.0/16";

/// What to do with routers.
#[derive(Debug, Subcommand)]
pub enum RouterVerb {
    /// Make a router, which joins no network yet
    #[command(after_help = CREATE_EXAMPLES)]
    Create(CreateRouter),
    /// Change a router while traffic runs
    #[command(
        after_help = SET_EXAMPLES,
        mut_arg("name", completions::of(completions::routers))
    )]
    Set(SetRouter),
    /// Join a network to a router
    #[command(
        after_help = ATTACH_EXAMPLES,
        mut_arg("router", completions::of(completions::routers)),
        mut_arg("network", completions::of(completions::vnis))
    )]
    Attach(AttachRouter),
    /// Take a network off a router; one that is off already is fine
    #[command(
        after_help = DETACH_EXAMPLES,
        mut_arg("router", completions::of(completions::routers)),
        mut_arg("network", completions::of(completions::vnis))
    )]
    Detach(DetachRouter),
    /// Routes of a router beside those to its networks
    #[command(subcommand, after_help = ROUTE_EXAMPLES)]
    Route(RouteVerb),
    /// List the routers
    #[command(after_help = LS_EXAMPLES, visible_alias = "list")]
    Ls(WatchArgs),
    /// Show a router, its networks and its routes
    #[command(
        after_help = SHOW_EXAMPLES,
        mut_arg("name", completions::of(completions::routers))
    )]
    Show(ShowRouter),
    /// Remove routers that join no network; one that is gone already is fine
    #[command(after_help = RM_EXAMPLES, visible_alias = "delete")]
    Rm {
        /// The routers
        #[arg(
            required = true,
            value_name = "NAME",
            add = ArgValueCompleter::new(completions::routers)
        )]
        names: Vec<Name>,
    },
}

/// What to do with a router's routes.
#[derive(Debug, Subcommand)]
pub enum RouteVerb {
    /// Add a route
    #[command(after_help = ROUTE_EXAMPLES)]
    Add {
        /// The router
        #[arg(add = ArgValueCompleter::new(completions::routers))]
        router: Name,
        /// Where to
        #[arg(value_name = "CIDR")]
        prefix: IpNet,
        /// Which way: via A, A an endpoint's address; outside; or blackhole
        #[arg(required = true, num_args = 1..=2, value_name = "via A|outside|blackhole")]
        target: Vec<String>,
    },
    /// List a router's routes
    #[command(after_help = ROUTE_EXAMPLES, visible_alias = "list")]
    Ls {
        /// The router
        #[arg(add = ArgValueCompleter::new(completions::routers))]
        router: Name,
    },
    /// Remove a route; one that is gone already is fine
    #[command(after_help = ROUTE_EXAMPLES, visible_alias = "delete")]
    Rm {
        /// The router
        #[arg(add = ArgValueCompleter::new(completions::routers))]
        router: Name,
        /// Where to
        #[arg(value_name = "CIDR")]
        prefix: IpNet,
    },
}

impl RouterVerb {
    pub(super) async fn execute(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        let Context { client, output, .. } = context;
        match self {
            Self::Create(request) => {
                let work = format!("creating router {}", request.name);
                let made = output.during(work, client.call(&request)).await?;
                output.show(&made, |made, out| {
                    writeln!(out, "router {} created", made.name)
                })?;
            }
            Self::Set(request) => {
                let work = format!("changing router {}", request.name);
                let router = output.during(work, client.call(&request)).await?;
                output.show(&router, |router, out| details(router).write(out))?;
            }
            Self::Attach(request) => {
                let work = format!("attaching network {}", request.network);
                let router = output.during(work, client.call(&request)).await?;
                output.show(&router, |router, out| {
                    table(slice::from_ref(router)).write(out)
                })?;
            }
            Self::Detach(request) => {
                let work = format!("detaching network {}", request.network);
                let view = output.during(work, client.call(&request)).await?;
                output.show(&view, |view, out| {
                    let DetachRouter { router, network } = &request;
                    let done = if view.removed {
                        "detached"
                    } else {
                        "was not attached"
                    };
                    writeln!(out, "network {network} {done} (router {router})")
                })?;
            }
            Self::Route(verb) => return verb.execute(context).await,
            Self::Ls(watch) => return watch.repeat(context, list_all).await,
            Self::Show(request) => {
                let router = client.call(&request).await?;
                output.show(&router, |router, out| details(router).write(out))?;
            }
            Self::Rm { names } => {
                let removal = removal::each(output, "router", names, async |name| {
                    let name = name.clone();
                    let view = client.call(&RemoveRouter { name }).await?;
                    Ok(view.removed.then_some(()))
                })
                .await;
                removal.show(output, "router")?;
                removal.conclude()?;
            }
        }
        Ok(())
    }
}

impl RouteVerb {
    async fn execute(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        let Context { client, output, .. } = context;
        match self {
            Self::Add {
                router,
                prefix,
                target,
            } => {
                let target: RouteTarget = target.join(" ").parse().map_err(CommandError::usage)?;
                let work = format!("adding route {prefix}");
                let request = AddRoute {
                    router,
                    prefix,
                    target,
                };
                let added = output.during(work, client.call(&request)).await?;
                output.show(&added, |route, out| {
                    writeln!(out, "route {} {} added", route.prefix, route.target)
                })?;
            }
            Self::Ls { router } => {
                let router = client.call(&ShowRouter { name: router }).await?;
                output.show(&router.routes, |routes, out| {
                    routes_table(routes).write(out)
                })?;
            }
            Self::Rm { router, prefix } => {
                let work = format!("removing route {prefix}");
                let request = RemoveRoute { router, prefix };
                let view = output.during(work, client.call(&request)).await?;
                output.show(&view, |view, out| {
                    let done = if view.removed {
                        "removed"
                    } else {
                        "was not there"
                    };
                    writeln!(out, "route {prefix} {done}")
                })?;
            }
        }
        Ok(())
    }
}

async fn list_all(context: &mut Context<'_>) -> Result<(), CommandError> {
    let routers = context.client.call(&ListRouters {}).await?;
    context
        .output
        .show(&routers, |routers, out| table(routers).write(out))?;
    Ok(())
}

fn table(routers: &[RouterView]) -> Table {
    let mut table = Table::new(["NAME", "MAC", "NETWORKS", "GATEWAYS", "ROUTES"]);
    for router in routers {
        let networks: Vec<String> = router.ports.iter().map(network).collect();
        let gateways: Vec<IpNet> = router
            .ports
            .iter()
            .flat_map(|port| port.addresses.iter().copied())
            .collect();
        table.row([
            router.name.to_string(),
            router.mac.to_string(),
            list(&networks),
            list(&gateways),
            router.routes.len().to_string(),
        ]);
    }
    table
}

fn network(port: &RouterPortView) -> String {
    let name = port.network.as_ref();
    name.map_or_else(|| port.vni.to_string(), ToString::to_string)
}

fn details(router: &RouterView) -> Table {
    let networks: Vec<String> = router
        .ports
        .iter()
        .map(|port| format!("{} ({})", network(port), list(&port.addresses)))
        .collect();
    let routes: Vec<String> = router
        .routes
        .iter()
        .map(|route| format!("{} {}", route.prefix, route.target))
        .collect();
    Table::properties([
        ("Name", router.name.to_string()),
        ("Number", router.id.to_string()),
        ("MAC", router.mac.to_string()),
        ("Outside", router.outside.to_string()),
        ("Networks", list(&networks)),
        ("Routes", list(&routes)),
    ])
}

fn routes_table(routes: &[RouteView]) -> Table {
    let mut table = Table::new(["PREFIX", "TARGET"]);
    for route in routes {
        table.row([route.prefix.to_string(), route.target.to_string()]);
    }
    table
}
