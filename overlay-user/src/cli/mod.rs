//! The command line: one file per verb, and what they share.
//!
//! Verbs, flags, JSON keys and exit codes are a contract that scripts rely on. Every value is
//! parsed into the model's types here, so that a malformed one is a usage error (exit 2) before
//! anything happens; what the agent refuses is a failure (exit 1).

use std::{ffi::OsString, time::Duration};

use clap::{CommandFactory, FromArgMatches, Parser, Subcommand};
use clap_complete::ArgValueCompleter;
use tokio::time::timeout;

use crate::{
    agent::{
        api::{ErrorKind, Explain, OperationError, Verify},
        client::{Client, ClientError, Left},
    },
    config::{self, LogSetting, Patience},
    model::Name,
};

mod completions;
mod dhcp;
mod doctor;
mod down;
mod drops;
mod endpoint;
mod error;
mod explain;
mod float;
mod import;
mod manual;
mod monitor;
mod nat;
mod network;
mod output;
mod ping;
mod pool;
mod qos;
mod registry;
mod removal;
mod router;
mod run;
mod status;
mod verify;
mod vtep;
mod watch;

pub use completions::answer as answer_completion;
pub use error::{CommandError, ParseExit};
pub use output::{Format, Output};
pub use run::RunArgs;

const EXAMPLES: &str = "\
Examples:
  overlay run --iface eth0 --vni 42            the agent, in the foreground
  overlay network create blue --vni 42 --subnet 7.7.7.0/24
  overlay endpoint add web --vni 42            a namespace `web` on that network
  ip netns exec web ping 7.7.7.3
  overlay -o json endpoint ls | jq .

`overlay VERB --help` has more.
Exit codes: 0 done, 1 failed (one line on stderr says why), 2 usage.";

const GLOBAL: &str = "Options of every verb";

/// Where a verb's help says that these are.
const ELSEWHERE: &str =
    "Options of every verb (--instance, --output, --log, --timeout): see `overlay --help`.";

/// One layer-2/3 network for containers, namespaces and virtual machines on many hosts
#[derive(Debug, Parser)]
#[command(
    name = "overlay",
    version,
    after_help = EXAMPLES,
    max_term_width = 100,
    subcommand_value_name = "VERB",
    subcommand_help_heading = "Verbs"
)]
pub struct Cli {
    /// Which agent of this host: its socket is /run/overlay/NAME.sock [default: default]
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL,
        value_name = "NAME",
        env = "OVERLAY_INSTANCE",
        add = ArgValueCompleter::new(completions::instances)
    )]
    pub instance: Option<Name>,
    /// For whom to print: table for people, json for programs
    #[arg(
        short,
        long,
        global = true,
        help_heading = GLOBAL,
        value_enum,
        value_name = "FORMAT",
        default_value = "table",
        hide_possible_values = true
    )]
    pub output: Format,
    /// What to log to stderr: error, warn, info, debug, trace or a filter of these by target; json
    /// before it, or alone, makes each line an object [default: info for run, off otherwise]
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL,
        value_name = "[json,]FILTER",
        env = "OVERLAY_LOG"
    )]
    pub log: Option<LogSetting>,
    /// How long to wait for each answer of the agent, and for a registry that is asked without one: 30s,
    /// 5m [default: 2m, for the registry as a whole 1h]
    #[arg(
        long,
        global = true,
        help_heading = GLOBAL,
        value_name = "TIME",
        env = "OVERLAY_TIMEOUT"
    )]
    pub timeout: Option<Patience>,
    /// What to do.
    #[command(subcommand)]
    pub verb: Verb,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Verb {
    /// Run the agent, in the foreground
    #[command(after_help = run::EXAMPLES)]
    Run(Box<RunArgs>),
    /// All that ends when it is done.
    #[command(flatten)]
    Command(Command),
}

/// A verb that asks an agent, prints the answer and ends.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Networks: one VNI each
    #[command(subcommand, after_help = network::EXAMPLES)]
    Network(network::NetworkVerb),
    /// Endpoints: a namespace's interface on a network
    #[command(subcommand, after_help = endpoint::EXAMPLES)]
    Endpoint(endpoint::EndpointVerb),
    /// Limits of what endpoints send and receive
    #[command(subcommand, after_help = qos::EXAMPLES)]
    Qos(qos::QosVerb),
    /// Routers: what joins networks
    #[command(subcommand, after_help = router::EXAMPLES)]
    Router(router::RouterVerb),
    /// Floats: external addresses of one endpoint each
    #[command(subcommand, after_help = float::EXAMPLES)]
    Float(float::FloatVerb),
    /// Pools: external addresses that endpoints share
    #[command(subcommand, after_help = pool::EXAMPLES)]
    Pool(pool::PoolVerb),
    /// Address translation: what is in use, and whose it was
    #[command(subcommand, after_help = nat::EXAMPLES)]
    Nat(nat::NatVerb),
    /// Flows between this host's endpoints and the outside
    #[command(subcommand, after_help = nat::FLOW_EXAMPLES)]
    Flow(nat::FlowVerb),
    /// DHCP and router advertisements: what networks tell their endpoints
    #[command(subcommand, after_help = dhcp::EXAMPLES)]
    Dhcp(dhcp::DhcpVerb),
    /// The nodes' tunnel ends
    #[command(subcommand, after_help = vtep::EXAMPLES)]
    Vtep(vtep::VtepVerb),
    /// Show the agent's state
    #[command(after_help = status::EXAMPLES)]
    Status(status::StatusArgs),
    /// Show dropped packets by reason
    #[command(after_help = drops::EXAMPLES)]
    Drops(drops::DropsArgs),
    /// Print misses, moves, drops and registry events as they happen
    #[command(after_help = monitor::EXAMPLES)]
    Monitor,
    /// Ask every host whether it has what the registry wants
    #[command(
        after_help = verify::EXAMPLES,
        mut_arg("vni", completions::of(completions::vnis))
    )]
    Verify(Verify),
    /// Say what is wrong with this host and its peers, and what to do
    #[command(after_help = doctor::EXAMPLES)]
    Doctor(doctor::DoctorArgs),
    /// Try the way from one endpoint or host to another, and say where packets are lost
    #[command(after_help = ping::EXAMPLES)]
    Ping(ping::PingArgs),
    /// Say what the programs do with a packet, and which row decides
    #[command(
        after_help = explain::EXAMPLES,
        mut_arg("endpoint", completions::of(completions::endpoints))
    )]
    Explain(Explain),
    /// Take over what another tool kept
    #[command(subcommand, after_help = import::EXAMPLES)]
    Import(import::ImportVerb),
    /// The registry as a whole: export, import, check, adopt
    #[command(subcommand, after_help = registry::EXAMPLES)]
    Registry(registry::RegistryVerb),
    /// Remove all that this instance made: datapath, veths, namespaces, registry rows
    #[command(after_help = down::EXAMPLES)]
    Down(down::DownArgs),
    /// Print the completions for a shell
    #[command(after_help = completions::EXAMPLES)]
    Completions(completions::CompletionsArgs),
    /// Write the manual pages into a folder
    #[command(after_help = manual::EXAMPLES)]
    Manual(manual::ManualArgs),
}

impl Cli {
    /// Parses what the shell hands over, the program's name first.
    pub fn from_args(args: impl IntoIterator<Item = OsString>) -> Result<Self, ParseExit> {
        let args: Vec<OsString> = args.into_iter().collect();
        for_people()
            .try_get_matches_from(&args)
            .and_then(|matches| Self::from_arg_matches(&matches))
            .map_err(|error| ParseExit::new(error, Format::from_args(&args)))
    }
}

/// The definition of the command line, in which a verb's help shows its own options.
fn for_people() -> clap::Command {
    let mut command = Cli::command();
    // From here on each verb has the options of every verb too.
    command.build();
    without_global(command)
}

fn without_global(mut command: clap::Command) -> clap::Command {
    let verbs = command
        .get_subcommands()
        .map(|verb| verb.get_name().to_owned());
    for verb in verbs.collect::<Vec<_>>() {
        command = command.mut_subcommand(verb, |verb| {
            let hidden = verb.mut_args(|arg| {
                let is_global = arg.is_global_set();
                let is_hidden = is_global || arg.is_hide_set();
                arg.hide(is_hidden)
            });
            let examples = hidden.get_after_help().map(ToString::to_string);
            let told = format!("{}\n\n{ELSEWHERE}", examples.unwrap_or_default());
            without_global(hidden.after_help(told.trim_start().to_owned()))
        });
    }
    command
}

/// What a verb needs: the way to the agent and the way to the user.
pub struct Context<'a> {
    client: Client,
    output: Output<'a>,
    patience: Option<Duration>,
}

impl<'a> Context<'a> {
    /// A context with the agent of `instance`.
    #[must_use]
    pub fn new(instance: Option<Name>, output: Output<'a>) -> Self {
        let instance = instance.unwrap_or_else(config::default_instance);
        Self::with_client(Client::new(instance), output)
    }

    /// A context through `client`.
    #[must_use]
    pub fn with_client(client: Client, output: Output<'a>) -> Self {
        Self {
            client,
            output,
            patience: None,
        }
    }

    /// The same, with so long for each answer that is waited for.
    #[must_use]
    pub fn with_patience(self, patience: Option<Patience>) -> Self {
        let patience = patience.map(Patience::get);
        let client = match patience {
            Some(patience) => self.client.with_timeout(patience),
            None => self.client,
        };
        Self {
            client,
            patience,
            ..self
        }
    }

    /// Waits for what is done without an agent, for `usual` unless the user has said for how long.
    async fn in_time<T>(
        &mut self,
        what: &str,
        usual: Duration,
        work: impl Future<Output = anyhow::Result<T>>,
    ) -> Result<T, CommandError> {
        let patience = self.patience.unwrap_or(usual);
        let working = self.output.during(what.to_owned(), work);
        match timeout(patience, working).await {
            Ok(done) => done.map_err(|error| CommandError::from(&error)),
            Err(_) => Err(OperationError::new(
                ErrorKind::Unavailable,
                format_args!(
                    "{what} has not ended within {} s: see whether the registry's disk or servers hang, or \
                     wait longer with --timeout",
                    patience.as_secs_f64()
                ),
            )
            .into()),
        }
    }

    /// What the last agent left, if none runs; for a verb that can do without one. Says so to people.
    fn left(&mut self, error: ClientError) -> Result<Left, CommandError> {
        let ClientError::NoAgent { .. } = error else {
            return Err(error.into());
        };
        match Left::find(self.client.instance()) {
            Ok(Some(left)) => Ok(left),
            Ok(None) => Err(error.into()),
            Err(error) => Err(CommandError::from(&error)),
        }
    }

    /// The same, for what the registry tells: says on stderr that no agent does.
    fn left_in_registry(&mut self, error: ClientError) -> Result<Left, CommandError> {
        let left = self.left(error)?;
        self.output.note(&format!(
            "no agent of instance {} runs: this is what its registry holds",
            self.client.instance()
        ))?;
        Ok(left)
    }
}

/// How long a registry that is asked without an agent may take over a list.
const ASKING: Duration = Duration::from_secs(30);
/// The same for what is done with the whole of it.
const WHOLE: Duration = Duration::from_hours(1);

impl Command {
    /// Does it.
    pub async fn execute(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        match self {
            Self::Network(verb) => verb.execute(context).await,
            Self::Endpoint(verb) => verb.execute(context).await,
            Self::Qos(verb) => verb.execute(context).await,
            Self::Router(verb) => verb.execute(context).await,
            Self::Float(verb) => verb.execute(context).await,
            Self::Pool(verb) => verb.execute(context).await,
            Self::Nat(verb) => verb.execute(context).await,
            Self::Flow(verb) => verb.execute(context).await,
            Self::Dhcp(verb) => verb.execute(context).await,
            Self::Vtep(verb) => verb.execute(context).await,
            Self::Status(args) => args.execute(context).await,
            Self::Drops(args) => args.execute(context).await,
            Self::Monitor => monitor::execute(context).await,
            Self::Verify(request) => verify::execute(request, context).await,
            Self::Doctor(args) => args.execute(context).await,
            Self::Ping(args) => args.execute(context).await,
            Self::Explain(request) => explain::execute(request, context).await,
            Self::Import(verb) => verb.execute(context).await,
            Self::Registry(verb) => verb.execute(context).await,
            Self::Down(args) => args.execute(context).await,
            Self::Completions(args) => args.execute(context),
            Self::Manual(args) => args.execute(context),
        }
    }
}

#[cfg(test)]
mod tests;
