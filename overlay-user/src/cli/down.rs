//! `overlay down`: removes all that an instance made.

use serde_json::json;

use super::{Failure, Session};
use crate::agent::client::{ClientError, take_down};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay down                         the agent ends too
  overlay --instance h1 down

It works without an agent as well, for example after kill -9.";

pub(super) async fn execute(session: &mut Session<'_>) -> Result<(), Failure> {
    let Session { client, output } = session;
    let instance = client.instance();
    let work = async {
        match client.down().await {
            Err(ClientError::NoAgent { .. }) => take_down(instance)
                .await
                .map_err(|error| Failure::from(&error)),
            outcome => outcome.map_err(Failure::from),
        }
    };
    output
        .during(format!("taking instance {instance} down"), work)
        .await?;
    output.show(&json!({}), |_, out| {
        writeln!(out, "instance {instance} is down")
    })?;
    Ok(())
}
