//! `overlay registry`: the whole of it, without an agent.

use std::{
    io::{self, Write},
    path::PathBuf,
};

use clap::{Args, Subcommand};

use super::{CommandError, Context, WHOLE, output};
use crate::{
    agent::{
        api::{AdoptRegistry, AdoptView, Counts, Findings, Imported, Repair, ShowStatus},
        client::offline_registry,
    },
    config::RegistryFlags,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay registry export /var/backups/overlay.jsonl
  overlay registry check
  overlay registry import /var/backups/overlay.jsonl --registry etcd://10.0.0.1:2379

No agent has to run. Without --registry it is the registry of the instance's last agent on this host.";

const EXPORT_EXAMPLES: &str = "\
Examples:
  overlay registry export /var/backups/overlay.jsonl
  overlay registry export /dev/stdout --registry sqlite:///var/lib/overlay/registry.db | gzip > x.gz

All of it as of one revision, a JSON object a line; the last line counts them. The file is replaced
only once it is whole.";

const IMPORT_EXAMPLES: &str = "\
Examples:
  overlay registry import /var/backups/overlay.jsonl
  overlay registry import overlay.jsonl --registry etcd://10.0.0.1:2379 --etcd-ca /etc/overlay/ca.pem

What is there already just so is left alone, and so is what is there in another way: that is told, with
exit code 1. An import may be repeated, and goes into a registry that is in use.";

const CHECK_EXAMPLES: &str = "\
Examples:
  overlay registry check               exit code 0: it agrees with itself; 1: it does not
  overlay registry check --repair
  overlay -o json registry check | jq -r '.findings[].what'

Looks for duplicates, for orphans (of a network, a node or an object that does not exist), for rows that
can't be read, and for claims and indexes that disagree with the rows.";

const ADOPT_EXAMPLES: &str = "\
Examples:
  overlay registry adopt               prints what it would remove on this host, and asks
  overlay registry adopt --yes
  overlay -o json registry adopt | jq '.endpoints'

An agent holds what it has while the registry is another one than before, was emptied, or has lost more
than half of what the host knows. Put a backup back if there is one: that ends it too. Otherwise this
makes the registry's word count again, on this host.";

/// What to do with the registry as a whole.
#[derive(Debug, Subcommand)]
pub enum RegistryVerb {
    /// Write all of it into a file
    #[command(after_help = EXPORT_EXAMPLES)]
    Export(FileArgs),
    /// Make what a file holds and the registry does not have
    #[command(after_help = IMPORT_EXAMPLES)]
    Import(FileArgs),
    /// Look for duplicates, orphans and rows that disagree
    #[command(after_help = CHECK_EXAMPLES)]
    Check(CheckArgs),
    /// Follow the registry that is there, which may be another one or have lost rows
    #[command(after_help = ADOPT_EXAMPLES)]
    Adopt(AdoptArgs),
}

/// A file and a registry.
#[derive(Debug, Args)]
pub struct FileArgs {
    /// The file
    file: PathBuf,
    #[command(flatten)]
    registry: RegistryFlags,
}

/// Whether to ask.
#[derive(Debug, Args)]
pub struct AdoptArgs {
    /// Do it without asking
    #[arg(long)]
    yes: bool,
}

/// What to check.
#[derive(Debug, Args)]
pub struct CheckArgs {
    /// Mend what needs no decision: claims and indexes that belong to nothing
    #[arg(long)]
    repair: bool,
    #[command(flatten)]
    registry: RegistryFlags,
}

impl RegistryVerb {
    pub(super) async fn execute(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        match self {
            Self::Export(args) => args.export(context).await,
            Self::Import(args) => args.import(context).await,
            Self::Check(args) => args.check(context).await,
            Self::Adopt(args) => args.adopt(context).await,
        }
    }
}

impl FileArgs {
    async fn export(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        let (named, file) = (self.registry.named()?, self.file);
        let instance = context.client.instance().clone();
        let work = format!("writing {}", file.display());
        let writing = offline_registry::export(named, &instance, &file);
        let counts = context.in_time(&work, WHOLE, writing).await?;
        // What goes to a pipe is the export itself.
        if file.starts_with("/dev") {
            return Ok(());
        }
        context.output.show(&counts, |counts, out| {
            writeln!(out, "{}: {}", file.display(), told(counts))
        })?;
        Ok(())
    }

    async fn import(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        let (named, file) = (self.registry.named()?, self.file);
        let instance = context.client.instance().clone();
        let work = format!("importing {}", file.display());
        let importing = offline_registry::import(named, &instance, &file);
        let imported = context.in_time(&work, WHOLE, importing).await?;
        context.output.show(&imported, write_imported)?;
        match imported.refused {
            0 => Ok(()),
            refused => Err(CommandError::finding(format_args!(
                "{refused} of the file's entries were not imported: the registry has others in their \
                 place; remove those there, or those in the file, and import it again"
            ))),
        }
    }
}

impl AdoptArgs {
    async fn adopt(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        let client = context.client.clone();
        let found = client.call(&AdoptRegistry::default()).await?;
        // What is held may be there all the same, as it once was.
        let is_followed = async || {
            let status = client.call(&ShowStatus {}).await;
            status.is_ok_and(|status| status.ready && status.registry.followed)
        };
        if found.is_needless() && is_followed().await {
            context.output.show(&found, |_, out| {
                writeln!(
                    out,
                    "there is nothing to adopt: the registry is the one that is followed, and it lacks nothing \
                     that this host has"
                )
            })?;
            return Ok(());
        }
        if !self.yes {
            context.output.show(&found, write_adoption)?;
            if output::is_confirmed("Follow it?")? != Some(true) {
                return Ok(());
            }
        }
        let request = AdoptRegistry {
            confirmed: true,
            identity: found.identity,
        };
        let adopted = client.call(&request).await?;
        context.output.show(&adopted, write_adoption)?;
        Ok(())
    }
}

impl CheckArgs {
    async fn check(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        let named = self.registry.named()?;
        let instance = context.client.instance().clone();
        let checking = offline_registry::check(named, &instance, self.repair);
        let work = "checking the registry";
        let found = context.in_time(work, WHOLE, checking).await?;
        context.output.show(&found, write_findings)?;
        let done = found
            .findings
            .iter()
            .filter(|finding| finding.repair == Repair::Done)
            .count() as u64;
        match found.count.saturating_sub(done) {
            0 => Ok(()),
            left => Err(CommandError::finding(format_args!(
                "the registry disagrees with itself in {left} places: run `overlay registry check \
                 --repair` for what needs no decision, and remove the rest with the verbs for it"
            ))),
        }
    }
}

fn told(counts: &Counts) -> String {
    let Counts {
        networks,
        nodes,
        endpoints,
        objects,
    } = counts;
    let objects = match objects {
        0 => String::new(),
        _ => format!(", {objects} objects"),
    };
    format!("{networks} networks, {nodes} nodes, {endpoints} endpoints{objects}")
}

fn write_adoption(adoption: &AdoptView, out: &mut dyn Write) -> io::Result<()> {
    match (adoption.adopted, adoption.identity) {
        (true, _) => writeln!(
            out,
            "the registry is followed as it is; removed on this host:"
        )?,
        (false, Some(identity)) => writeln!(
            out,
            "the registry that is there has identity {identity}; following it removes on this host:"
        )?,
        (false, None) => writeln!(
            out,
            "the registry that is there has no identity; following it removes on this host:"
        )?,
    }
    for endpoint in &adoption.endpoints {
        writeln!(
            out,
            "  endpoint {endpoint} with its interface and its namespace"
        )?;
    }
    match adoption.remote_endpoints {
        Some(count) => writeln!(
            out,
            "  entries for {count} endpoints of other hosts, {} networks, {} nodes",
            adoption.networks.len(),
            adoption.nodes.len()
        )?,
        None => writeln!(
            out,
            "  entries for what else it does not have: the agent waits at its start, and can't tell"
        )?,
    }
    if !adoption.adopted {
        writeln!(out, "with --yes, `overlay registry adopt` follows it")?;
    }
    Ok(())
}

fn write_imported(imported: &Imported, out: &mut dyn Write) -> io::Result<()> {
    writeln!(out, "made: {}", told(&imported.made))?;
    writeln!(out, "there already: {}", told(&imported.unchanged))?;
    for refusal in &imported.refusals {
        writeln!(out, "refused: {refusal}")?;
    }
    let untold = imported
        .refused
        .saturating_sub(imported.refusals.len() as u64);
    if untold > 0 {
        writeln!(out, "refused: {untold} more")?;
    }
    Ok(())
}

fn write_findings(found: &Findings, out: &mut dyn Write) -> io::Result<()> {
    for finding in &found.findings {
        let repair = match finding.repair {
            Repair::ByHand => "by hand",
            Repair::Possible => "can be repaired",
            Repair::Done => "repaired",
        };
        writeln!(out, "{repair}: {}", finding.what)?;
    }
    let untold = found.count.saturating_sub(found.findings.len() as u64);
    if untold > 0 {
        writeln!(out, "... and {untold} more")?;
    }
    if found.count == 0 {
        writeln!(out, "the registry agrees with itself")?;
    }
    Ok(())
}
