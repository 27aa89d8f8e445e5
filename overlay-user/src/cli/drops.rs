//! `overlay drops`: dropped packets by reason.

use clap::Args;

use super::{Failure, Session};
use crate::observe;

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay drops                        the reasons that occurred, the most frequent first
  overlay drops --all
  overlay -o json drops | jq .vni_unknown";

/// What to show.
#[derive(Debug, Args)]
pub struct DropsArgs {
    /// Show the reasons that never occurred too; JSON has them always
    #[arg(long)]
    all: bool,
}

impl DropsArgs {
    pub(super) async fn execute(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let drops = session.client.drops().await?;
        session.output.show(&drops, |drops, out| {
            observe::drops::write_table(drops, self.all, out)
        })?;
        Ok(())
    }
}
