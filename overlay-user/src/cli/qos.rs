//! `overlay qos`: limits of what endpoints send and receive.

use std::slice;

use clap::Subcommand;
use clap_complete::ArgValueCompleter;

use super::{CommandError, Context, completions, removal, watch::WatchArgs};
use crate::{
    agent::api::{CreateQos, ListQos, QosView, RemoveQos, SetQos, ShowQos},
    model::Name,
    observe::table::{Table, list, or_dash},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay qos create gold --egress 1gbit --ingress 1gbit
  overlay endpoint set web --qos gold        wherever it lives
  overlay network set blue --qos gold        each endpoint of the network, unless it has its own
  overlay qos set gold --egress 2gbit        while traffic runs
  overlay qos ls";

const CREATE_EXAMPLES: &str = "\
Examples:
  overlay qos create gold --egress 1gbit --ingress 1gbit
  overlay qos create slow --egress 10mbit --burst 64kb --pps 5000
  overlay qos create voice --dscp ef --priority 6

Each endpoint that has it, itself or by its network, gets these limits for itself. Units are those of tc: 1gbit is
a thousand million bits in a second, 1gbps eight times that. What would be 5 ms late is marked for congestion (ECN),
what would be 50 ms late is dropped: nothing waits in a queue.";

const SET_EXAMPLES: &str = "\
Examples:
  overlay qos set gold --egress 2gbit
  overlay qos set gold --pps none --dscp af21

What is not named stays. Endpoints follow at once, and no packet is lost by the change.";

const LS_EXAMPLES: &str = "\
Examples:
  overlay qos ls
  overlay -o json qos ls | jq '.[] | {name, egress}'";

const SHOW_EXAMPLES: &str = "\
Examples:
  overlay qos show gold                who has it
  overlay endpoint show web            what came of it";

const RM_EXAMPLES: &str = "\
Examples:
  overlay qos rm gold                  nobody may have it; a second time is fine";

/// What to do with limits.
#[derive(Debug, Subcommand)]
pub enum QosVerb {
    /// Make a set of limits for endpoints
    #[command(after_help = CREATE_EXAMPLES)]
    Create(CreateQos),
    /// Change a set of limits while traffic runs
    #[command(
        after_help = SET_EXAMPLES,
        mut_arg("name", completions::of(completions::qos))
    )]
    Set(SetQos),
    /// List the sets of limits
    #[command(after_help = LS_EXAMPLES, visible_alias = "list")]
    Ls(WatchArgs),
    /// Show a set of limits, and who has it
    #[command(
        after_help = SHOW_EXAMPLES,
        mut_arg("name", completions::of(completions::qos))
    )]
    Show(ShowQos),
    /// Remove sets of limits that nobody has; one that is gone already is fine
    #[command(after_help = RM_EXAMPLES, visible_alias = "delete")]
    Rm {
        /// The sets of limits
        #[arg(
            required = true,
            value_name = "NAME",
            add = ArgValueCompleter::new(completions::qos)
        )]
        names: Vec<Name>,
    },
}

impl QosVerb {
    pub(super) async fn execute(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        let Context { client, output, .. } = context;
        match self {
            Self::Create(request) => {
                let work = format!("creating qos {}", request.name);
                let made = output.during(work, client.call(&request)).await?;
                output.show(&made, |made, out| {
                    writeln!(out, "qos {} created", made.name)
                })?;
            }
            Self::Set(request) => {
                if request.is_empty() {
                    return Err(CommandError::usage(
                        "nothing to change: give --egress, --ingress, --burst, --pps, --dscp or --priority",
                    ));
                }
                let work = format!("changing qos {}", request.name);
                let set = output.during(work, client.call(&request)).await?;
                output.show(&set, |set, out| table(slice::from_ref(set)).write(out))?;
            }
            Self::Ls(watch) => return watch.repeat(context, list_all).await,
            Self::Show(request) => {
                let qos = client.call(&request).await?;
                output.show(&qos, |qos, out| details(qos).write(out))?;
            }
            Self::Rm { names } => {
                let removal = removal::each(output, "qos", names, async |name| {
                    let name = name.clone();
                    let view = client.call(&RemoveQos { name }).await?;
                    Ok(view.removed.then_some(()))
                })
                .await;
                removal.show(output, "qos")?;
                removal.conclude()?;
            }
        }
        Ok(())
    }
}

async fn list_all(context: &mut Context<'_>) -> Result<(), CommandError> {
    let all = context.client.call(&ListQos {}).await?;
    context
        .output
        .show(&all, |all, out| table(all).write(out))?;
    Ok(())
}

fn table(all: &[QosView]) -> Table {
    let mut table = Table::new([
        "NAME", "EGRESS", "INGRESS", "BURST", "PPS", "DSCP", "PRIORITY", "USERS",
    ]);
    for qos in all {
        let users = qos.endpoints.len() + qos.networks.len();
        table.row([
            qos.name.to_string(),
            or_dash(qos.egress.as_ref()),
            or_dash(qos.ingress.as_ref()),
            or_dash(qos.burst.as_ref()),
            or_dash(qos.pps.as_ref()),
            or_dash(qos.dscp.as_ref()),
            or_dash(qos.priority.as_ref()),
            users.to_string(),
        ]);
    }
    table
}

fn details(qos: &QosView) -> Table {
    Table::properties([
        ("Name", qos.name.to_string()),
        ("Egress", or_dash(qos.egress.as_ref())),
        ("Ingress", or_dash(qos.ingress.as_ref())),
        ("Burst", or_dash(qos.burst.as_ref())),
        ("Packets/s", or_dash(qos.pps.as_ref())),
        ("DSCP", or_dash(qos.dscp.as_ref())),
        ("Priority", or_dash(qos.priority.as_ref())),
        ("Endpoints", list(&qos.endpoints)),
        ("Networks", list(&qos.networks)),
    ])
}
