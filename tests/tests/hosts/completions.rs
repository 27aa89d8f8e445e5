//! What a shell offers at a TAB.

use std::{
    env, fs,
    os::unix::fs::symlink,
    process::Command,
    time::{Duration, Instant},
};

use overlay_lab::{Agent, Lab, Run, agent::binary, until};

/// bash, with the completions of the program under test, at the end of a line.
struct Shell {
    path: String,
    instance: String,
}

impl Shell {
    fn new(lab: &Lab, instance: &str) -> Self {
        let folder = lab.dir().join("bin");
        fs::create_dir_all(&folder).unwrap();
        symlink(binary(), folder.join("overlay")).unwrap();
        let others = env::var("PATH").unwrap_or_default();
        Self {
            path: format!("{}:{others}", folder.display()),
            instance: instance.to_owned(),
        }
    }

    /// Waits until these names are offered behind `line`: on a busy machine an answer may come too late for one TAB.
    #[track_caller]
    fn offers(&self, line: &str, names: &[&str]) {
        until(&format!("{names:?} to be offered behind {line}"), || {
            self.tab(line) == names
        });
    }

    /// The names that are offered behind `line`, whose last word may have been begun. Nothing is complained of.
    fn tab(&self, line: &str) -> Vec<String> {
        // As readline does it.
        let script = r#"
            source <(overlay completions bash)
            IFS=' ' read -ra COMP_WORDS <<< "$1"
            [[ $1 == *' ' ]] && COMP_WORDS+=('')
            COMP_CWORD=$((${#COMP_WORDS[@]} - 1)) COMP_TYPE=9
            function=$(complete -p overlay | sed 's/.*-F \([^ ]*\).*/\1/')
            "$function" overlay "${COMP_WORDS[COMP_CWORD]}" "${COMP_WORDS[COMP_CWORD-1]}"
            printf '%s\n' "${COMPREPLY[@]}"
        "#;
        let mut bash = Command::new("bash");
        bash.args(["--norc", "-c", script, "bash", line])
            .env("PATH", &self.path)
            .env("OVERLAY_INSTANCE", &self.instance);
        let run = Run::of(&mut bash);
        assert_eq!(run.stderr, "", "{line}");
        // Options may stand there as well.
        let is_name = |line: &&str| !line.is_empty() && !line.starts_with('-');
        let lines = run.stdout.lines().filter(is_name);
        lines.map(str::to_owned).collect()
    }
}

/// Names of endpoints, nodes and networks are completed by the agent, or by its registry.
#[test]
fn names_are_completed_with_and_without_an_agent() {
    let lab = Lab::new();
    let hosts = lab.hosts::<2>();
    let mut agents = Agent::on_each(&lab, &hosts, "");
    agents[0].does("network create lab --vni 42");
    agents[0].does("network create other --vni 43");
    let [web, db] = ["web", "db"].map(|name| lab.name(name));
    agents[0].endpoint(&web, 42, &["7.7.7.2/24"]);
    agents[1].endpoint(&db, 42, &["7.7.7.3/24"]);
    let [one, two] = agents.each_ref().map(|agent| agent.instance().to_owned());
    let shell = Shell::new(&lab, &one);
    let look = || {
        shell.offers("overlay endpoint l", &["ls"]);
        shell.offers("overlay endpoint rm ", &[&db, &web]);
        shell.offers(&format!("overlay endpoint rm {web}"), &[&web]);
        let moved = format!("overlay endpoint move {web} --node ");
        shell.offers(&moved, &[&one, &two]);
        shell.offers("overlay network set ", &["lab", "other"]);
        let names = ["lab", "42", "other", "43"];
        shell.offers("overlay endpoint ls --vni ", &names);
        let places = format!("overlay ping {web} ");
        shell.offers(&places, &[&db, &web, &one, &two]);
        let vteps = [&one[..], "10.0.0.1", &two, "10.0.0.2"];
        shell.offers("overlay vtep rm ", &vteps);
    };
    look();
    // The line says more than the environment.
    let another = Lab::new();
    let elsewhere = Shell::new(&another, "nobody");
    for line in [
        "overlay --instance X endpoint show ",
        "overlay endpoint --instance=X show ",
    ] {
        elsewhere.offers(&line.replace('X', &one), &[&db, &web]);
    }
    let begun = format!("overlay --instance {}", &one[..one.len() - 1]);
    elsewhere.offers(&begun, &[&one, &two]);
    agents[0].kill();
    look();
    agents[0].restart("");
    agents[0].await_ready();
}

/// Without an agent, or with one that is stopped, a TAB ends at once.
#[test]
fn a_tab_is_quick_without_an_agent() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let agent = Agent::start(&lab, &host, "--vni 42");
    let another = Lab::new();
    let (nobody, stopped) = (
        Shell::new(&lab, &lab.name("nobody")),
        Shell::new(&another, agent.instance()),
    );
    let _stopped = agent.stop();
    for (shell, longest) in [
        (&nobody, Duration::from_millis(500)),
        // What is waited for, and twice the program's start.
        (&stopped, Duration::from_secs(1)),
    ] {
        for line in ["overlay endpoint rm ", "overlay network set "] {
            // The machine may be busy with other tests: the quickest of some says what it takes.
            let quickest = (0..5).map(|_| {
                let begun = Instant::now();
                assert_eq!(shell.tab(line), [""; 0], "{line}");
                begun.elapsed()
            });
            let quickest = quickest.min().unwrap();
            assert!(quickest < longest, "{line}: {quickest:?}");
        }
    }
}
