//! `overlay doctor`: what is wrong here and with the peers, and what to do.

use std::io::{self, Write};

use super::{Failure, Session};
use crate::agent::{
    api::{DoctorView, Severity},
    client::{ClientError, examine},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay doctor                       exit code 0: no problem; 1: there is one
  overlay -o json doctor | jq -r '.findings[] | select(.severity == \"problem\") | .advice'

Looks at this host (kernel, underlay, offloads, VXLAN device, maps, registry, clock, endpoints) and at
the peers as the registry knows them (version, ABI, port, whether they live). Works without an agent
too, as far as that goes.";

pub(super) async fn execute(session: &mut Session<'_>) -> Result<(), Failure> {
    let Session { client, output, .. } = session;
    let work = "examining this host and its peers".to_owned();
    let examination = async {
        match client.doctor().await {
            Err(error @ (ClientError::NoAgent { .. } | ClientError::Stopped { .. })) => {
                Ok(examine(&error).await)
            }
            outcome => outcome,
        }
    };
    let found = output.during(work, examination).await?;
    output.show(&found, write)?;
    if found.healthy {
        return Ok(());
    }
    let problems = found
        .findings
        .iter()
        .filter(|finding| finding.severity == Severity::Problem)
        .count();
    Err(Failure::finding(match problems {
        1 => "there is a problem: its line says what to do".to_owned(),
        count => format!("there are {count} problems: each line says what to do"),
    }))
}

fn write(found: &DoctorView, out: &mut dyn Write) -> io::Result<()> {
    for finding in &found.findings {
        writeln!(
            out,
            "{}: {}: {}: {}",
            finding.severity, finding.subject, finding.message, finding.advice
        )?;
    }
    writeln!(out, "well: {}", found.passed.join(", "))
}
