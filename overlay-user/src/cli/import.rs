//! `overlay import`: takes over what another tool kept.

use std::path::absolute;

use clap::{Args, Subcommand};
use clap_complete::ArgValueCompleter;

use super::{CommandError, Context, completions};
use crate::{agent::api::ImportArpd, model::NetworkRef};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay import arpd /var/lib/arpd --vni 42";

const ARPD_EXAMPLES: &str = "\
Examples:
  overlay import arpd /var/lib/arpd --vni 42

The folder has two kinds of files of one line each:
  arp/7.7.7.3               holds a MAC, for example 02:42:07:07:07:03
  fdb/02:42:07:07:07:03     holds the IP of the VTEP behind which that MAC is
The endpoints become known on every node. No agent of ours has to run at their VTEPs.";

/// What to take over.
#[derive(Debug, Subcommand)]
pub enum ImportVerb {
    /// A folder of arp/IP and fdb/MAC files: remote endpoints behind VTEPs without an agent
    #[command(after_help = ARPD_EXAMPLES)]
    Arpd(ArpdArgs),
}

/// The folder and its network.
#[derive(Debug, Args)]
pub struct ArpdArgs {
    /// The folder, on the agent's host
    dir: String,
    /// The network that its endpoints are on, by VNI or name
    #[arg(
        long,
        value_name = "N|NAME",
        add = ArgValueCompleter::new(completions::vnis)
    )]
    vni: NetworkRef,
}

impl ImportVerb {
    pub(super) async fn execute(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        let Self::Arpd(ArpdArgs { dir, vni }) = self;
        let request = ImportArpd {
            vni,
            dir: absolute(&dir)
                .map_err(|error| CommandError::usage(format_args!("<DIR>: {error}")))?,
        };
        let Context { client, output, .. } = context;
        let work = format!("importing {dir}");
        let taken = output.during(work, client.call(&request)).await?;
        output.show(&taken, |taken, out| {
            writeln!(
                out,
                "VNI {}: {} endpoints behind {} VTEPs taken over",
                taken.vni, taken.endpoints, taken.vteps
            )
        })?;
        Ok(())
    }
}
