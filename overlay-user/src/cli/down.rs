//! `overlay down`: removes all that an instance made.

use std::{
    collections::BTreeSet,
    fmt::Display,
    io::{self, Write},
    time::Duration,
};

use clap::Args;

use super::{ASKING, CommandError, Context, output};
use crate::agent::{
    api::{Down, DownView},
    client::{ClientError, Doomed, take_down},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay down                         the agent ends too
  overlay down --yes                   at a terminal, without being asked
  overlay --instance h1 down

It works without an agent as well, for example after kill -9. A person at a terminal sees what goes, and is
asked; a script is not.";

/// For how long it may go on where no agent does it.
const TAKING_DOWN: Duration = Duration::from_mins(2);
/// Names that are listed of each kind.
const NAMES: usize = 10;

/// Whether to ask.
#[derive(Debug, Args)]
pub struct DownArgs {
    /// Do it without asking
    #[arg(long)]
    yes: bool,
}

impl DownArgs {
    pub(super) async fn execute(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        let is_asked = !self.yes && context.output.is_redrawn();
        if is_asked && !is_confirmed(context).await? {
            return Ok(());
        }
        let instance = context.client.instance().clone();
        let work = format!("taking instance {instance} down");
        let outcome = {
            let down = context.client.call(&Down {});
            context.output.during(work.clone(), down).await
        };
        match outcome {
            Err(ClientError::NoAgent { .. }) => {
                context
                    .in_time(&work, TAKING_DOWN, take_down(&instance))
                    .await?;
            }
            outcome => drop(outcome?),
        }
        context.output.show(&DownView {}, |_, out| {
            writeln!(out, "instance {instance} is down")
        })?;
        Ok(())
    }
}

/// Shows what goes, and asks. Where nothing is left there is nothing to be asked.
async fn is_confirmed(context: &mut Context<'_>) -> Result<bool, CommandError> {
    let instance = context.client.instance().clone();
    let looking = Doomed::find(&instance);
    let work = "looking at what there is";
    let Some(doomed) = context.in_time(work, ASKING, looking).await? else {
        return Ok(true);
    };
    let mut text = Vec::new();
    write(&doomed, &mut text)?;
    context.output.text(&text)?;
    let question = format!("Take instance {instance} down?");
    Ok(output::is_confirmed(&question)?.unwrap_or(true))
}

fn write(doomed: &Doomed, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "this goes:")?;
    let host = &doomed.host;
    write_names("endpoints", &host.endpoints, out)?;
    write_names("namespaces", &host.namespaces, out)?;
    write_names("devices", &host.devices, out)?;
    if let Some(pins) = &doomed.pins {
        writeln!(out, "  maps, programs and links under {}", pins.display())?;
    }
    let (node, registry) = (&doomed.node, &doomed.registry);
    writeln!(
        out,
        "  node {node} and the rows of its endpoints in registry {registry}"
    )
}

fn write_names(kind: &str, names: &BTreeSet<impl Display>, out: &mut dyn Write) -> io::Result<()> {
    if names.is_empty() {
        return Ok(());
    }
    let told: Vec<_> = names.iter().take(NAMES).map(ToString::to_string).collect();
    write!(out, "  {} {kind}: {}", names.len(), told.join(", "))?;
    writeln!(out, "{}", if names.len() > NAMES { ", ..." } else { "" })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::client::Inventory;

    #[test]
    fn what_goes_is_listed_by_kind_and_only_the_first_of_many() {
        let names = |count: usize| (0..count).map(|it| format!("e{it:02}"));
        let doomed = Doomed {
            host: Inventory {
                endpoints: names(12).map(|name| name.parse().unwrap()).collect(),
                namespaces: BTreeSet::new(),
                devices: names(2).collect(),
            },
            pins: Some("/sys/fs/bpf/overlay/h1".into()),
            node: "h1".parse().unwrap(),
            registry: "sqlite:///x.db".to_owned(),
        };
        let mut text = Vec::new();
        write(&doomed, &mut text).unwrap();
        assert_eq!(
            String::from_utf8(text).unwrap(),
            "this goes:\n  \
             12 endpoints: e00, e01, e02, e03, e04, e05, e06, e07, e08, e09, ...\n  \
             2 devices: e00, e01\n  \
             maps, programs and links under /sys/fs/bpf/overlay/h1\n  \
             node h1 and the rows of its endpoints in registry sqlite:///x.db\n"
        );
    }
}
