//! `overlay status`: the agent's state.

use std::collections::BTreeMap;

use clap::Args;

use super::{ASKING, CommandError, Context, watch::WatchArgs};
use crate::{
    agent::api::{AttachMode, DropTotals, EndpointCounts, PathState, ShowStatus, StatusView},
    model::Vtep,
    observe::table::Table,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay status
  overlay -o json status | jq '.registry.stale_for_s, .datapath.maps.fdb'
  overlay status --watch
  until overlay -o json status | jq -s -e '.[0].ready'; do sleep 1; done

Where no agent runs it says so, and shows what the last one left: the datapath goes on.";

/// How to show it.
#[derive(Debug, Args)]
pub struct StatusArgs {
    #[command(flatten)]
    watch: WatchArgs,
}

impl StatusArgs {
    pub(super) async fn execute(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        self.watch.repeat(context, show).await
    }
}

async fn show(context: &mut Context<'_>) -> Result<(), CommandError> {
    let status = match context.client.call(&ShowStatus {}).await {
        Ok(status) => status,
        Err(error) => {
            let why = error.to_string();
            let left = context.left(error)?;
            context
                .in_time("reading the datapath's state", ASKING, left.status(&why))
                .await?
        }
    };
    context
        .output
        .show(&status, |status, out| table(status).write(out))?;
    Ok(())
}

fn table(status: &StatusView) -> Table {
    let is_up = !status.datapath.maps.is_empty();
    let ready = match (status.agent, status.ready) {
        (true, true) => "ready",
        (true, false) => "not ready",
        (false, _) if is_up => "no agent; the datapath is up",
        (false, _) => "no agent and no datapath",
    };
    let registry = &status.registry;
    let connected = if !status.agent {
        "nobody follows it".to_owned()
    } else if !registry.followed {
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
        .map(|(name, usage)| match usage.capacity {
            0 => format!("{name} {}", usage.entries),
            capacity => format!("{name} {}/{capacity}", usage.entries),
        })
        .collect();
    let attach = match status.datapath.attach {
        AttachMode::Tcx => "tcx",
        AttachMode::Clsact => "clsact",
    };
    let fast_path = match (status.agent, status.datapath.fast_path) {
        (true, true) => ", fast path on",
        (true, false) => ", fast path off",
        (false, _) => "",
    };
    let vtep = Vtep {
        ip: status.vtep.into(),
        port: status.port,
    };
    let paths = if status.agent {
        paths_line(&status.paths)
    } else {
        "nobody tries them".to_owned()
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
        ("Endpoints", endpoints(status.endpoints)),
        ("Paths", paths),
        (
            "Datapath",
            if is_up {
                format!("{attach}, ABI {}{fast_path}", status.datapath.abi)
            } else {
                "-".to_owned()
            },
        ),
        ("Dropped", dropped(status.datapath.drops)),
        ("Maps", maps.join(", ")),
    ];
    let answers = dhcp_line(status).map(|line| ("DHCP", line));
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
            .chain(answers)
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

/// What became of questions to DHCP servers and routers; `None`: there were none.
fn dhcp_line(status: &StatusView) -> Option<String> {
    let answers = status.dhcp.iter().filter(|(_, count)| **count > 0);
    let answers = answers.map(|(kind, count)| format!("{count} {kind}"));
    let counters = &status.datapath.counters;
    let unheard = ["lost", "limited"].into_iter().filter_map(|outcome| {
        let count = counters.get(&format!("punts_{outcome}")).copied()?;
        (count > 0).then(|| format!("{count} {outcome}"))
    });
    let line: Vec<_> = answers.chain(unheard).collect();
    (!line.is_empty()).then(|| line.join(", "))
}

fn dropped(drops: DropTotals) -> String {
    format!("{} packets, and {} of noise", drops.loss, drops.noise)
}

fn endpoints(counts: EndpointCounts) -> String {
    let EndpointCounts {
        local,
        remote,
        failed,
        waiting,
    } = counts;
    let unwell: Vec<_> = [(failed, "failed"), (waiting, "waiting")]
        .into_iter()
        .filter(|(count, _)| *count > 0)
        .map(|(count, state)| format!("{count} {state}"))
        .collect();
    if unwell.is_empty() {
        format!("{local} local, {remote} remote")
    } else {
        format!("{local} local ({}), {remote} remote", unwell.join(", "))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::agent::fake;

    fn text(status: &StatusView) -> String {
        let mut text = Vec::new();
        table(status).write(&mut text).unwrap();
        String::from_utf8(text).unwrap()
    }

    #[test]
    fn endpoints_that_failed_or_wait_are_counted_where_there_are_any() {
        let mut status = fake::status();
        assert!(text(&status).contains("3 local, 4 remote"));
        (status.endpoints.failed, status.endpoints.waiting) = (1, 2);
        assert!(text(&status).contains("3 local (1 failed, 2 waiting), 4 remote"));
    }

    #[test]
    fn where_no_agent_runs_it_says_so_and_whether_the_datapath_is_up() {
        let mut status = StatusView {
            agent: false,
            ready: false,
            ..fake::status()
        };
        let told = text(&status);
        assert!(told.contains("default (no agent; the datapath is up)"));
        assert!(told.contains("nobody tries them"), "{told}");
        status.datapath.maps.clear();
        assert!(text(&status).contains("default (no agent and no datapath)"));
    }
}
