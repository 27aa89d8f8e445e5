//! `overlay verify`: compares every host's maps with the registry.

use std::io::{self, Write};

use super::{CommandError, Context};
use crate::{
    agent::api::{Verdict, Verify, VerifyView},
    observe::table::{Table, or_dash},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay verify                       exit code 0: all hosts agree; 1: they do not, and where
  overlay verify --vni 42
  overlay -o json verify | jq -r '.differences[] | \"\\(.node) \\(.entry)\"'

Every host is asked what its maps hold, and the answers are compared with the registry. What changes
while they are asked is asked for again. Of on-demand networks a host holds what it talks to: that
has to be right, and need not be all.";

pub(super) async fn execute(
    request: Verify,
    context: &mut Context<'_>,
) -> Result<(), CommandError> {
    let Context { client, output, .. } = context;
    let work = "asking every host what it has installed".to_owned();
    let found = output.during(work, client.call(&request)).await?;
    output.show(&found, write)?;
    if found.agree {
        Ok(())
    } else {
        Err(CommandError::finding(summary(&found)))
    }
}

fn write(found: &VerifyView, out: &mut dyn Write) -> io::Result<()> {
    let mut table = Table::new(["NODE", "VERDICT", "REVISION", "ENTRIES"]);
    for host in &found.hosts {
        table.row([
            host.node.to_string(),
            host.verdict.to_string(),
            or_dash(host.revision),
            or_dash(host.rows),
        ]);
    }
    table.write(out)?;
    for difference in &found.differences {
        writeln!(out, "{difference}")?;
    }
    if found.more > 0 {
        writeln!(out, "... and {} more", found.more)?;
    }
    Ok(())
}

/// One line for stderr: who is not as it should be, and what to do about it.
fn summary(found: &VerifyView) -> String {
    let of = |verdict| {
        let names: Vec<_> = found
            .hosts
            .iter()
            .filter(|host| host.verdict == verdict)
            .map(|host| host.node.as_str())
            .collect();
        names.join(", ")
    };
    let parts = [
        (
            Verdict::Differs,
            "not what the registry wants: ",
            " (mended within half a minute if their agents are ready, see `overlay status` there)",
        ),
        (Verdict::Silent, "no answer from: ", " (see the log there)"),
        (
            Verdict::Down,
            "agent not running: ",
            " (start it, or `overlay vtep rm` it if the host is gone for good)",
        ),
    ];
    let told: Vec<_> = parts
        .into_iter()
        .map(|(verdict, what, advice)| (of(verdict), what, advice))
        .filter(|(names, ..)| !names.is_empty())
        .map(|(names, what, advice)| format!("{what}{names}{advice}"))
        .collect();
    if told.is_empty() {
        return "the hosts do not agree".to_owned();
    }
    told.join("; ")
}
