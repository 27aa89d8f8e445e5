//! `overlay explain`: what the programs do with a packet of an endpoint's, and which row decides.

use std::io::{self, Write};

use super::{CommandError, Context};
use crate::{
    agent::api::{Explain, Explained, Leg},
    observe::table::{Table, or_dash},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay explain web 7.7.7.3                            a ping within the network
  overlay explain web 8.8.8.3 --proto tcp --port 443     a SYN to another network of its router
  overlay explain web 198.51.100.9 --proto udp --port 53 --source-port 5353
  overlay -o json explain web 7.7.7.3 | jq -r '.legs[-1].fate'

The programs that run on the host are run once more, on its maps, with such a packet, and tell each row
that they look up: first for the question after the next hop's MAC, then for the packet, then on the
host that gets it in a tunnel. Nothing is sent. Counters count the packet, and one to the outside may
get an external port, as any other. Exit code 0: it gets there; 1: it does not, or the host that it\ngoes to could not be asked.";

pub(super) async fn execute(
    request: Explain,
    context: &mut Context<'_>,
) -> Result<(), CommandError> {
    let Context { client, output, .. } = context;
    let work = "running the packet through the programs".to_owned();
    let explained = output.during(work, client.call(&request)).await?;
    output.show(&explained, write)?;
    let Some(leg) = explained.legs.last() else {
        return Ok(());
    };
    let (packet, node, message) = (&explained.packet, &leg.node, &leg.message);
    match explained.passes {
        Some(true) => Ok(()),
        Some(false) => Err(CommandError::finding(format_args!(
            "{packet} does not get there: on node {node} it is {message}"
        ))),
        None => Err(CommandError::finding(format_args!(
            "it is not known whether {packet} gets there: node {node} could not be asked: {message}"
        ))),
    }
}

fn write(explained: &Explained, out: &mut dyn Write) -> io::Result<()> {
    let Explained {
        from, node, packet, ..
    } = explained;
    writeln!(out, "endpoint {from} on node {node} sends {packet}")?;
    for leg in &explained.legs {
        write_leg(leg, out)?;
    }
    Ok(())
}

fn write_leg(leg: &Leg, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "\non node {}: {}", leg.node, leg.frame)?;
    if !leg.steps.is_empty() {
        let mut table = Table::new(["PROGRAM", "TABLE", "KEY", "ROW"]);
        for step in &leg.steps {
            table.row([
                step.program.clone(),
                step.table.clone(),
                or_dash(Some(&step.key).filter(|key| !key.is_empty())),
                step.row.clone().unwrap_or_else(|| "none".to_owned()),
            ]);
        }
        table.write(out)?;
    }
    writeln!(out, "{}", leg.message)
}
