//! `overlay doctor`: what is wrong here and with the peers, and what to do.

use std::{
    io::{self, Write},
    iter,
};

use clap::Args;

use super::{CommandError, Context, vtep::round_trip};
use crate::{
    agent::{
        api::{
            ClusterHost, ClusterPath, ClusterView, DoctorView, Examine, ExamineCluster, Finding,
            NodeState, Severity, Way,
        },
        client::{ClientError, examine},
    },
    observe::table::{Table, or_dash},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay doctor                       exit code 0: no problem; 1: there is one
  overlay doctor --cluster             every pair of hosts as a matrix, each direction by itself
  overlay -o json doctor | jq -r '.findings[] | select(.severity == \"problem\") | .advice'

Looks at this host (kernel, underlay, offloads, VXLAN device, maps, registry, clock, endpoints) and at
the peers as the registry knows them (version, ABI, port, whether they live), and tries the ways there.
Works without an agent too, as far as that goes.";

/// Hosts at most whose pairs fit a matrix.
const MATRIX: usize = 12;

/// What to examine.
#[derive(Debug, Args)]
pub struct DoctorArgs {
    /// Every host, and every pair of them: each is asked, and tries the ways to the others
    #[arg(long)]
    cluster: bool,
}

impl DoctorArgs {
    pub(super) async fn execute(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        if self.cluster {
            examine_cluster(context).await
        } else {
            examine_host(context).await
        }
    }
}

async fn examine_host(context: &mut Context<'_>) -> Result<(), CommandError> {
    let Context { client, output, .. } = context;
    let work = "examining this host and its peers".to_owned();
    let examination = async {
        match client.call(&Examine {}).await {
            Err(error @ (ClientError::NoAgent { .. } | ClientError::Stopped { .. })) => {
                Ok(examine(&error).await)
            }
            outcome => outcome,
        }
    };
    let found = output.during(work, examination).await?;
    output.show(&found, write)?;
    conclude(found.healthy, &found.findings)
}

async fn examine_cluster(context: &mut Context<'_>) -> Result<(), CommandError> {
    let Context { client, output, .. } = context;
    let work = "asking every host how the ways to the others are".to_owned();
    let found = output.during(work, client.call(&ExamineCluster {})).await?;
    output.show(&found, write_cluster)?;
    conclude(found.healthy, &found.findings)
}

fn conclude(is_healthy: bool, findings: &[Finding]) -> Result<(), CommandError> {
    if is_healthy {
        return Ok(());
    }
    let problems = findings
        .iter()
        .filter(|finding| finding.severity == Severity::Problem)
        .count();
    Err(CommandError::finding(match problems {
        1 => "there is a problem: its line says what to do".to_owned(),
        count => format!("there are {count} problems: each line says what to do"),
    }))
}

fn write(found: &DoctorView, out: &mut dyn Write) -> io::Result<()> {
    write_findings(&found.findings, out)?;
    writeln!(out, "well: {}", found.passed.join(", "))
}

fn write_findings(findings: &[Finding], out: &mut dyn Write) -> io::Result<()> {
    for finding in findings {
        writeln!(
            out,
            "{}: {}: {}: {}",
            finding.severity, finding.subject, finding.message, finding.advice
        )?;
    }
    Ok(())
}

fn write_cluster(found: &ClusterView, out: &mut dyn Write) -> io::Result<()> {
    let mut hosts = Table::new(["HOST", "VTEP", "STATE", "VERSION", "ABI", "CLOCK"]);
    for host in &found.hosts {
        hosts.row([
            host.node.to_string(),
            host.vtep.to_string(),
            state(host).to_owned(),
            or_dash(host.version.as_ref()),
            or_dash(host.abi),
            or_dash(host.clock_ms.map(clock)),
        ]);
    }
    hosts.write(out)?;
    writeln!(out)?;
    if found.hosts.len() <= MATRIX {
        write_matrix(found, out)?;
    } else {
        let well = found.paths.iter().filter(|path| is_well(path)).count();
        writeln!(
            out,
            "{well} of {} paths are well; the others:",
            found.paths.len()
        )?;
    }
    write_findings(&found.findings, out)
}

/// A row for each sender, a column for each receiver.
fn write_matrix(found: &ClusterView, out: &mut dyn Write) -> io::Result<()> {
    let names = found.hosts.iter().map(|host| host.node.to_string());
    let mut matrix = Table::with_header(iter::once("FROM \\ TO".to_owned()).chain(names));
    for from in &found.hosts {
        let cells = found.hosts.iter().map(|to| {
            let mut paths = found.paths.iter();
            let path = paths.find(|path| path.from == from.node && path.to == to.node);
            path.map_or_else(
                || ("-".to_owned(), false),
                |path| (cell(path), !is_well(path)),
            )
        });
        matrix.marked(iter::once((from.node.to_string(), false)).chain(cells));
    }
    matrix.write(out)?;
    writeln!(out)
}

fn is_well(path: &ClusterPath) -> bool {
    path.way == Way::Ok && path.narrow().is_none() && path.loss.is_none_or(|loss| loss == 0)
}

/// The round trip, and what is not as it should be.
fn cell(path: &ClusterPath) -> String {
    let name = match path.way {
        Way::Lost => return "LOST".to_owned(),
        Way::Damaged => return "DAMAGED".to_owned(),
        Way::Unknown => return "?".to_owned(),
        Way::Ok => path.rtt_us.map_or_else(|| "ok".to_owned(), round_trip),
    };
    let loss = path.loss.filter(|loss| *loss > 0);
    let parts = [
        Some(name),
        loss.map(|loss| format!("{loss}% lost")),
        path.narrow()
            .map(|(largest, _)| format!("up to {largest} B")),
    ];
    parts.into_iter().flatten().collect::<Vec<_>>().join(", ")
}

fn state(host: &ClusterHost) -> &'static str {
    match host.state {
        NodeState::Alive if !host.answered => "no answer",
        NodeState::Alive => "alive",
        NodeState::Silent => "silent",
        NodeState::Down => "down",
        NodeState::NoAgent => "no agent",
    }
}

/// By how much a clock is ahead.
fn clock(ms: i64) -> String {
    match ms {
        0 => "same".to_owned(),
        ms => format!("{ms:+} ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn path(way: Way) -> ClusterPath {
        ClusterPath {
            from: "h1".parse().unwrap(),
            to: "h2".parse().unwrap(),
            way,
            rtt_us: Some(210),
            loss: Some(0),
            largest: Some(1450),
            expected: Some(1450),
        }
    }

    #[test]
    fn a_cell_says_the_round_trip_and_what_is_not_well() {
        assert_eq!(cell(&path(Way::Ok)), "0.21 ms");
        let poor = ClusterPath {
            loss: Some(6),
            largest: Some(1200),
            ..path(Way::Ok)
        };
        assert_eq!(cell(&poor), "0.21 ms, 6% lost, up to 1200 B");
        assert_eq!(cell(&path(Way::Lost)), "LOST");
        assert!(is_well(&path(Way::Ok)) && !is_well(&poor));
    }
}
