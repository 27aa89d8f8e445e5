//! `overlay monitor`: what happens, as it happens.

use tokio::signal::unix::{SignalKind, signal};

use super::{CommandError, Context};
use crate::agent::api::Monitor;

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay monitor                      until Ctrl-C, or until the agent ends (exit code 1)
  overlay -o json monitor | jq 'select(.event == \"unresolved\")'
  overlay -o json monitor | jq -r 'select(.event == \"drop\") | \"\\(.reason) \\(.packets)\"'
  overlay -o json monitor | jq 'select(.event == \"dropped\" and .endpoint == \"web\")'

Events: miss (an endpoint wants what an on-demand network's cache does not hold), resolved, unresolved,
evict, move, drop (by reason, once a second), dropped (some of these packets, noise apart), registry
(lost, restored, and every change), endpoint (it stands, or not), gone (from this host), repaired
(somebody changed what the agent made, and it was put back), mended, failed, lost (this reader is too
slow). JSON is an object a line.";

pub(super) async fn execute(context: &mut Context<'_>) -> Result<(), CommandError> {
    let Context { client, output, .. } = context;
    let mut interrupts = signal(SignalKind::interrupt()).map_err(CommandError::internal)?;
    let mut events = client.lines(&Monitor {}).await?;
    loop {
        tokio::select! {
            event = events.next() => output.line(&event?)?,
            _ = interrupts.recv() => return Ok(()),
        }
    }
}
