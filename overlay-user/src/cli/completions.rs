//! `overlay completions`: what a shell needs to complete our command line, and the answers to what it then
//! asks at each TAB: verbs and options from the definition of the command line, names from the agent.

use std::{
    env,
    ffi::{OsStr, OsString},
    fs, io,
    path::Path,
    time::Duration,
};

use clap::{Arg, Args, CommandFactory};
use clap_complete::{
    ArgValueCompleter, CompleteEnv, Shell,
    engine::{CompletionCandidate, ValueCompleter},
    env::Shells,
};
use tokio::{runtime, time::timeout};

use super::{Cli, CommandError, Context};
use crate::{
    agent::{
        api::{
            EndpointView, ListEndpoints, ListNetworks, ListQos, ListRouters, ListVteps,
            NetworkView, VtepView,
        },
        client::{Client, Left},
    },
    config,
    model::Name,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay completions bash > /etc/bash_completion.d/overlay
  overlay completions zsh > ~/.zfunc/_overlay
  overlay completions fish > ~/.config/fish/completions/overlay.fish

The script asks this program at each TAB, and that asks the agent for names of endpoints, networks and
nodes. Write it anew when overlay is another version.";

/// The environment variable by which the scripts ask; its value is the shell. The library's own choice,
/// COMPLETE, may be anybody's.
const ASKED_BY: &str = "OVERLAY_COMPLETE";

/// How long whoever pressed TAB waits for names. Those that are known by then are shown.
const ANSWER_TIMEOUT: Duration = Duration::from_millis(250);

/// How many names are offered at most: nobody reads more.
const OFFERED: usize = 1000;

/// Which shell.
#[derive(Debug, Args)]
pub struct CompletionsArgs {
    /// The shell
    shell: Shell,
}

impl CompletionsArgs {
    pub(super) fn execute(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        let script = script(self.shell).map_err(CommandError::internal)?;
        context.output.text(&script)?;
        Ok(())
    }
}

fn script(shell: Shell) -> io::Result<Vec<u8>> {
    let name = shell.to_string();
    let shells = Shells::builtins();
    let completer = shells
        .completer(&name)
        .ok_or_else(|| io::Error::other(format!("there are no completions for {name}")))?;
    let mut script = Vec::new();
    completer.write_registration(ASKED_BY, "overlay", "overlay", "overlay", &mut script)?;
    if shell == Shell::Zsh {
        // From a folder of $fpath the file is run as the function itself at the first TAB.
        script.extend_from_slice(
            b"[[ $funcstack[1] == _overlay ]] && _clap_dynamic_completer_overlay \"$@\"\n",
        );
    }
    Ok(script)
}

/// Answers a script's question, if this run is one. To be called before anything else is printed, or done
/// by another thread.
#[must_use]
pub fn answer() -> bool {
    if env::var_os(ASKED_BY).is_none() {
        return false;
    }
    let asked = CompleteEnv::with_factory(|| with_hidden_aliases(Cli::command())).var(ASKED_BY);
    let folder = env::current_dir().ok();
    // A shell shows what goes wrong in the middle of what is being typed: no answer is better.
    asked
        .try_complete(env::args_os(), folder.as_deref())
        .unwrap_or(true)
}

/// Of a verb with two names that are shown only the second would be offered.
fn with_hidden_aliases(mut command: clap::Command) -> clap::Command {
    let verbs = command
        .get_subcommands()
        .map(|verb| verb.get_name().to_owned());
    for verb in verbs.collect::<Vec<_>>() {
        command = command.mut_subcommand(verb, |verb| {
            let is_its = |alias: &&str| verb.get_visible_aliases().any(|its| its == *alias);
            let aliases: Vec<_> = ["list", "delete"].into_iter().filter(is_its).collect();
            with_hidden_aliases(verb.visible_alias(None).aliases(aliases))
        });
    }
    command
}

/// Endpoints, for clap.
pub(super) fn endpoints(current: &OsStr) -> Vec<CompletionCandidate> {
    offer(current, async |offered| {
        let Some(source) = Source::find() else { return };
        source.endpoints(offered).await;
    })
}

/// Networks by name.
pub(super) fn networks(current: &OsStr) -> Vec<CompletionCandidate> {
    offer(current, async |offered| {
        let Some(source) = Source::find() else { return };
        for network in source.networks().await {
            offered.add(network.name.as_str(), format!("VNI {}", network.vni));
        }
    })
}

/// Networks by VNI or name.
pub(super) fn vnis(current: &OsStr) -> Vec<CompletionCandidate> {
    offer(current, async |offered| {
        let Some(source) = Source::find() else { return };
        for network in source.networks().await {
            offered.add(network.name.as_str(), format!("VNI {}", network.vni));
            offered.add(&network.vni.to_string(), network.name.to_string());
        }
    })
}

/// Routers.
pub(super) fn routers(current: &OsStr) -> Vec<CompletionCandidate> {
    offer(current, async |offered| {
        let Some(source) = Source::find() else { return };
        for router in source
            .client
            .call(&ListRouters {})
            .await
            .unwrap_or_default()
        {
            offered.add(router.name.as_str(), String::new());
        }
    })
}

/// Sets of limits.
pub(super) fn qos(current: &OsStr) -> Vec<CompletionCandidate> {
    offer(current, async |offered| {
        let Some(source) = Source::find() else { return };
        for qos in source.client.call(&ListQos {}).await.unwrap_or_default() {
            offered.add(qos.name.as_str(), String::new());
        }
    })
}

/// Nodes.
pub(super) fn nodes(current: &OsStr) -> Vec<CompletionCandidate> {
    offer(current, async |offered| {
        let Some(source) = Source::find() else { return };
        for vtep in source.vteps().await {
            offered.add(vtep.node.as_str(), vtep.ip.to_string());
        }
    })
}

/// Endpoints and nodes.
pub(super) fn places(current: &OsStr) -> Vec<CompletionCandidate> {
    offer(current, async |offered| {
        let Some(source) = Source::find() else { return };
        source.endpoints(offered).await;
        for vtep in source.vteps().await {
            offered.add(vtep.node.as_str(), vtep.ip.to_string());
        }
    })
}

/// Nodes by name or the address of their VTEP.
pub(super) fn vteps(current: &OsStr) -> Vec<CompletionCandidate> {
    offer(current, async |offered| {
        let Some(source) = Source::find() else { return };
        for vtep in source.vteps().await {
            offered.add(vtep.node.as_str(), vtep.ip.to_string());
            offered.add(&vtep.ip.to_string(), vtep.node.to_string());
        }
    })
}

/// Instances whose agents have been started on this host since it booted.
pub(super) fn instances(current: &OsStr) -> Vec<CompletionCandidate> {
    let mut offered = Offered::new(current);
    let entries = fs::read_dir("/run/overlay").into_iter().flatten().flatten();
    for entry in entries {
        let file = entry.file_name();
        let file = Path::new(&file);
        let is_record = file.extension().is_some_and(|kind| kind == "json");
        if let Some(name) = file.file_stem().and_then(OsStr::to_str)
            && is_record
        {
            offered.add(name, String::new());
        }
    }
    // A folder has no order.
    offered
        .candidates
        .sort_by(|one, other| one.get_value().cmp(other.get_value()));
    offered.candidates
}

/// Names that begin as what is typed does.
struct Offered {
    current: String,
    candidates: Vec<CompletionCandidate>,
}

impl Offered {
    fn new(current: &OsStr) -> Self {
        Self {
            current: current.to_string_lossy().into_owned(),
            candidates: Vec::new(),
        }
    }

    fn add(&mut self, name: &str, help: String) {
        if self.is_full() || !name.starts_with(&self.current) {
            return;
        }
        let help = (!help.is_empty()).then(|| help.into());
        self.candidates
            .push(CompletionCandidate::new(name).help(help));
    }

    fn is_full(&self) -> bool {
        self.candidates.len() >= OFFERED
    }
}

/// What `gather` finds in time.
fn offer(current: &OsStr, gather: impl AsyncFnOnce(&mut Offered)) -> Vec<CompletionCandidate> {
    let mut offered = Offered::new(current);
    let runtime = runtime::Builder::new_current_thread().enable_all().build();
    let Ok(runtime) = runtime else {
        return Vec::new();
    };
    // What is known when the time is over is worth showing.
    let _ = runtime.block_on(async { timeout(ANSWER_TIMEOUT, gather(&mut offered)).await });
    // A thread that still reads a registry is not worth waiting for.
    runtime.shutdown_background();
    offered.candidates
}

/// Adds a completer to an argument that the API defines.
pub(super) fn of<C: ValueCompleter + 'static>(completer: C) -> impl FnOnce(Arg) -> Arg {
    |argument| argument.add(ArgValueCompleter::new(completer))
}

/// Where names come from: the agent, or else the registry of its last run.
struct Source {
    client: Client,
    left: Option<Left>,
}

impl Source {
    /// The instance's that the line names so far. `None`: it names none that there could be.
    fn find() -> Option<Self> {
        let instance = instance_of(&words_of(env::args_os()), env::var_os("OVERLAY_INSTANCE"))?;
        let left = Left::find(&instance).ok().flatten();
        Some(Self {
            client: Client::new(instance).with_timeout(ANSWER_TIMEOUT),
            left,
        })
    }

    async fn endpoints(&self, offered: &mut Offered) {
        let mut add = |page: Vec<EndpointView>| {
            for endpoint in page {
                let help = format!("VNI {} on {}", endpoint.vni, endpoint.node);
                offered.add(endpoint.name.as_str(), help);
            }
            offered.is_full()
        };
        if let Ok(mut list) = self.client.pages(&ListEndpoints::default()).await {
            while let Ok(Some(page)) = list.page().await {
                if add(page) {
                    return;
                }
            }
        } else if let Some(left) = &self.left
            && let Ok(mut pages) = left.endpoints(ListEndpoints::default()).await
        {
            while let Some(Ok(page)) = pages.recv().await {
                if add(page) {
                    return;
                }
            }
        }
    }

    async fn networks(&self) -> Vec<NetworkView> {
        match (self.client.call(&ListNetworks {}).await, &self.left) {
            (Ok(networks), _) => networks,
            (Err(_), Some(left)) => left.networks().await.unwrap_or_default(),
            (Err(_), None) => Vec::new(),
        }
    }

    async fn vteps(&self) -> Vec<VtepView> {
        match (self.client.call(&ListVteps {}).await, &self.left) {
            (Ok(vteps), _) => vteps,
            (Err(_), Some(left)) => left.vteps().await.unwrap_or_default(),
            (Err(_), None) => Vec::new(),
        }
    }
}

/// The words of the line that is being completed: they are behind `--` and the program's name.
fn words_of(args: impl IntoIterator<Item = OsString>) -> Vec<String> {
    let behind = args.into_iter().skip_while(|word| word != "--").skip(2);
    behind
        .map(|word| word.to_string_lossy().into_owned())
        .collect()
}

/// The instance that a line names, or else the environment, or else the usual one.
fn instance_of(words: &[String], environment: Option<OsString>) -> Option<Name> {
    let mut named = None;
    let mut words = words.iter();
    while let Some(word) = words.next() {
        if word == "--instance" {
            // Shells that break words at `=` hand that over as a word of its own.
            named = words.find(|word| *word != "=").cloned();
        } else if let Some(value) = word.strip_prefix("--instance=") {
            named = Some(value.to_owned());
        }
    }
    let environment = environment.map(|value| value.to_string_lossy().into_owned());
    match named.or(environment) {
        Some(name) => name.parse().ok(),
        None => Some(config::default_instance()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn instance(line: &str, environment: Option<&str>) -> Option<String> {
        let words: Vec<String> = line.split_whitespace().map(str::to_owned).collect();
        let found = instance_of(&words, environment.map(OsString::from));
        found.map(|name| name.to_string())
    }

    #[test]
    fn the_instance_is_the_lines_or_the_environments_or_the_usual_one() {
        for (line, environment, expected) in [
            ("endpoint rm", None, Some("default")),
            ("endpoint rm", Some("two"), Some("two")),
            ("--instance one endpoint rm", Some("two"), Some("one")),
            ("endpoint --instance=one rm", None, Some("one")),
            ("endpoint --instance = one rm", None, Some("one")),
            ("--instance no/name endpoint rm", None, None),
        ] {
            let found = instance(line, environment);
            assert_eq!(found.as_deref(), expected, "{line}");
        }
    }

    #[test]
    fn no_more_names_are_offered_than_anybody_reads_and_only_those_that_begin_so() {
        let mut offered = Offered::new(OsStr::new("a"));
        (0..2 * OFFERED).for_each(|number| offered.add(&format!("a{number}"), String::new()));
        offered.add("b", String::new());
        assert_eq!(offered.candidates.len(), OFFERED);
    }

    #[test]
    fn every_shell_gets_a_script_that_asks_this_program() {
        for shell in [Shell::Bash, Shell::Zsh, Shell::Fish] {
            let script = String::from_utf8(script(shell).unwrap()).unwrap();
            let script = script.replace('"', "");
            assert!(script.contains(&format!("{ASKED_BY}={shell}")), "{script}");
        }
    }
}
