//! `overlay status`: the agent's state.

use std::collections::BTreeMap;

use super::{Failure, Session};
use crate::{
    agent::api::{AttachMode, PathState, StatusView},
    model::Vtep,
    observe::table::Table,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay status
  overlay -o json status | jq '.registry.stale_for_s, .datapath.maps.fdb'
  until overlay -o json status | jq -s -e '.[0].ready'; do sleep 1; done";

pub(super) async fn execute(session: &mut Session<'_>) -> Result<(), Failure> {
    let status = session.client.status().await?;
    session
        .output
        .show(&status, |status, out| table(status).write(out))?;
    Ok(())
}

fn table(status: &StatusView) -> Table {
    let ready = if status.ready { "ready" } else { "not ready" };
    let registry = &status.registry;
    let connected = if !registry.followed {
        "not followed".to_owned()
    } else if registry.connected {
        "connected".to_owned()
    } else {
        format!("out of reach for {} s", registry.stale_for_s)
    };
    let maps: Vec<_> = status
        .datapath
        .maps
        .iter()
        .map(|(name, usage)| format!("{name} {}/{}", usage.entries, usage.capacity))
        .collect();
    let attach = match status.datapath.attach {
        AttachMode::Tcx => "tcx",
        AttachMode::Clsact => "clsact",
    };
    let fast_path = if status.datapath.fast_path {
        "on"
    } else {
        "off"
    };
    let vtep = Vtep {
        ip: status.vtep,
        port: status.port,
    };
    let always = [
        ("Instance", format!("{} ({ready})", status.instance)),
        ("Node", status.node.to_string()),
        ("VTEP", format!("{vtep} on {}", status.iface)),
        (
            "Registry",
            format!(
                "{} ({connected}, revision {})",
                registry.url, registry.revision
            ),
        ),
        ("Networks", status.networks.to_string()),
        (
            "Endpoints",
            format!(
                "{} local, {} remote",
                status.endpoints.local, status.endpoints.remote
            ),
        ),
        ("Paths", paths_line(&status.paths)),
        (
            "Datapath",
            format!(
                "{attach}, ABI {}, fast path {fast_path}",
                status.datapath.abi
            ),
        ),
        ("Maps", maps.join(", ")),
    ];
    let stalled = status.stalled.iter().map(|stalled| {
        let doing = stalled.doing.as_ref();
        let doing = doing.map_or_else(String::new, |doing| format!(" (in a step for: {doing})"));
        let (part, seconds) = (&stalled.part, stalled.for_s);
        ("Stalled", format!("{part} for {seconds} s{doing}"))
    });
    let reasons = registry.error.iter().chain(&status.problems);
    let reasons = reasons.chain(&status.datapath.fast_path_error);
    let problems = reasons.map(|problem| ("Problem", problem.clone()));
    let rejected = registry.rejected.iter();
    let rejected = rejected.map(|it| ("Left out", format!("{}: {}", it.row, it.why)));
    Table::properties(
        always
            .into_iter()
            .chain(stalled)
            .chain(problems)
            .chain(rejected),
    )
}

/// How many ways to other hosts are in each state.
fn paths_line(paths: &BTreeMap<PathState, usize>) -> String {
    if paths.is_empty() {
        return "no other host".to_owned();
    }
    let states = paths
        .iter()
        .map(|(state, count)| format!("{count} {}", state.name()));
    states.collect::<Vec<_>>().join(", ")
}
