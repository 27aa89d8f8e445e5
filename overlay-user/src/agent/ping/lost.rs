//! Where an echo was lost: what the programs of both hosts saw of it, put together.

use std::time::Duration;

use overlay_ebpf::abi::DropReason;

use super::Route;
use crate::{
    agent::{
        doctor::{CHANGED, let_through},
        service::Agent,
    },
    model::{Answer, Inquiry, LostAt, Name, PathState, Pinged, Sighting, Vtep},
};

/// How long the other host may take to say what it saw.
const ASKING: Duration = Duration::from_secs(3);

/// What can be known of an echo that did not come back.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Facts {
    /// What this host's programs saw of it.
    here: Vec<Sighting>,
    /// What the other's did. `None`: it was not asked, or does not answer.
    there: Option<Vec<Sighting>>,
    /// Whether the other host's agent lives.
    is_alive: bool,
    /// How the way between the hosts is.
    path: PathState,
    /// This host's tunnel end, and the other's.
    own: Vtep,
    other: Vtep,
}

impl Agent {
    /// Asks the other host what it saw, unless this one knows the answer.
    pub(super) async fn where_lost(&self, route: &Route, id: u64, size: u32) -> LostAt {
        let here = self.seen(id);
        let mut pinged = route.pinged.clone();
        pinged.size = size;
        let node = route.to_node.name.clone();
        let is_ours =
            pinged.via.is_none() || drop_of(&here).is_some() || !here.contains(&Sighting::Left);
        let there = if is_ours || !route.to_node.alive {
            None
        } else {
            let inquiry = Inquiry::Seen {
                node: node.clone(),
                id,
            };
            match self.inquire_of(&node, inquiry, ASKING).await {
                Ok(Some(Answer::Seen(seen))) => Some(seen),
                _ => None,
            }
        };
        let path = self.path_to(route.to_node.vtep.ip).map(|path| path.state);
        let facts = Facts {
            here,
            there,
            is_alive: route.to_node.alive,
            path: path.unwrap_or(PathState::Unknown),
            own: self.vtep(),
            other: route.to_node.vtep,
        };
        judge(&pinged, &facts)
    }
}

/// The last place that saw the echo, and what to do.
fn judge(pinged: &Pinged, facts: &Facts) -> LostAt {
    let Pinged {
        from_node, to_node, ..
    } = pinged;
    let has_left = facts.here.contains(&Sighting::Left);
    if let Some(reason) = drop_of(&facts.here) {
        return if has_left {
            dropped(
                from_node,
                "the answer, which had come back,",
                &reason,
                pinged,
            )
        } else {
            dropped(from_node, "it, on its way out,", &reason, pinged)
        };
    }
    if !has_left {
        return LostAt {
            last_seen: None,
            reason: None,
            message: format!("no program of {from_node} saw it"),
            advice: format!("see `overlay doctor` on {from_node}: an interface lacks its program"),
        };
    }
    let (own, other) = (&facts.own, &facts.other);
    match &facts.there {
        Some(seen) => match drop_of(seen) {
            Some(reason) => dropped(to_node, "it", &reason, pinged),
            None if seen.contains(&Sighting::Answered) => LostAt {
                last_seen: Some(to_node.clone()),
                reason: None,
                message: format!(
                    "{to_node} answered, and the answer did not get back to {from_node}"
                ),
                advice: let_through(other.ip.into(), *own, from_node),
            },
            None => LostAt {
                last_seen: Some(from_node.clone()),
                reason: None,
                message: format!("it left {from_node}, and did not get to {to_node}"),
                advice: let_through(own.ip.into(), *other, to_node),
            },
        },
        None => LostAt {
            last_seen: Some(from_node.clone()),
            reason: None,
            message: unheard(pinged, facts),
            advice: if facts.path == PathState::Ok {
                format!(
                    "start the agent on {to_node}: packets get there, and its maps are as old as its agent's end"
                )
            } else if facts.is_alive {
                format!("see `overlay status` on {to_node}, or run `overlay ping` there")
            } else {
                format!("see whether {to_node} is up, and start its agent")
            },
        },
    }
}

/// The other host says nothing.
fn unheard(pinged: &Pinged, facts: &Facts) -> String {
    let Pinged {
        from_node, to_node, ..
    } = pinged;
    let agent = if facts.is_alive {
        "whose agent does not say what it saw"
    } else {
        "whose agent does not run"
    };
    match facts.path {
        PathState::Ok => format!(
            "it left {from_node} for {to_node}, {agent}; that host answers others, so it dropped this one"
        ),
        _ => format!("it left {from_node} for {to_node}, {agent}"),
    }
}

fn drop_of(seen: &[Sighting]) -> Option<String> {
    seen.iter().find_map(|seen| match seen {
        Sighting::Dropped(reason) => Some(reason.clone()),
        _ => None,
    })
}

/// What a drop reason means, by its name.
fn meaning_of(reason: &str) -> Option<&'static str> {
    let found = DropReason::of_name(reason)?;
    Some(found.describe().trim_end_matches('.'))
}

fn dropped(node: &Name, what: &str, reason: &str, pinged: &Pinged) -> LostAt {
    let meaning = meaning_of(reason).map_or(String::new(), |meaning| format!(" ({meaning})"));
    let network = pinged
        .vni
        .map_or_else(|| "the network".to_owned(), |vni| format!("VNI {vni}"));
    LostAt {
        last_seen: Some(node.clone()),
        reason: Some(reason.to_owned()),
        message: format!("{node} dropped {what} as {reason}{meaning}"),
        advice: match reason {
            "vni_unknown"
            | "destination_unknown"
            | "not_local"
            | "source_vtep"
            | "vtep_unknown" => format!(
                "{node} does not have {network} as the registry has it: see `overlay status` there, and \
                 `overlay verify`"
            ),
            "too_big" => format!(
                "send {} bytes or fewer, or find the longest with --size auto",
                pinged.expected
            ),
            "echo_damaged" => format!("{CHANGED}, {node} has seen it arrive changed"),
            "resolving" => "it was looked up: try again".to_owned(),
            _ => format!("see `overlay drops` on {node}"),
        },
    }
}

#[cfg(test)]
mod tests;
