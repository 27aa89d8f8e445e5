//! A registry that is emptied, swapped, cut off or half restored under running agents: nobody loses a
//! packet or a namespace, and all goes on once it is back.

use std::{
    fs,
    path::{Path, PathBuf},
    thread,
    time::Duration,
};

use overlay_lab::{
    Agent, Disk, Lab, Netns, TwoHosts, agent::FAILED, overlay, traffic::Stream, two_hosts::IPV4,
    until,
};
use rusqlite::Connection;
use serde_json::Value;

struct Fixture {
    agents: [Agent; 2],
    blue: Netns,
    green: Netns,
    lab: Lab,
    /// The registry's.
    file: PathBuf,
}

impl Fixture {
    fn new() -> Self {
        let lab = Lab::new();
        let file = lab.dir().join("registry.db");
        Self::with_registry(lab, file)
    }

    fn with_registry(lab: Lab, file: PathBuf) -> Self {
        let options = format!("--vni 42 --registry sqlite://{}", file.display());
        let hosts = lab.hosts();
        let TwoHosts {
            agents,
            blue,
            green,
            lab,
            ..
        } = TwoHosts::on(lab, hosts, &options, IPV4);
        Self {
            agents,
            blue,
            green,
            lab,
            file,
        }
    }

    /// Takes the registry's file away, with what SQLite keeps beside it.
    fn lose_registry(&self) {
        for suffix in ["", "-wal", "-shm"] {
            let _ = fs::remove_file(format!("{}{suffix}", self.file.display()));
        }
    }

    /// A copy of the registry as it is.
    fn backup(&self) -> PathBuf {
        let copy = self.lab.dir().join("backup.db");
        let _ = fs::remove_file(&copy);
        let source = Connection::open(&self.file).unwrap();
        source
            .execute("VACUUM INTO ?1", [copy.to_str().unwrap()])
            .unwrap();
        copy
    }

    /// A copy from before the endpoints were made.
    fn emptied(&self) -> PathBuf {
        let copy = self.lab.dir().join("emptied.db");
        fs::copy(self.backup(), &copy).unwrap();
        Connection::open(&copy)
            .unwrap()
            .execute_batch("DELETE FROM endpoint; UPDATE meta SET revision = revision - 2")
            .unwrap();
        copy
    }

    fn is_followed(agent: &Agent) -> bool {
        let registry = &agent.json("status")["registry"];
        registry["followed"] == true && registry["connected"] == true
    }

    /// Every agent says that it does not follow the registry, or can't reach it, and why.
    #[track_caller]
    fn await_refusal(&self, what: &str) {
        for agent in &self.agents {
            until(&format!("{what}: {} says so", agent.instance()), || {
                let registry = &agent.json("status")["registry"];
                registry["error"].is_string()
            });
            assert_ne!(agent.overlay("doctor").code, 0);
            let words = "endpoint add x --vni 42 --ip 7.7.7.9/24";
            agent.overlay(words).error(FAILED);
        }
    }

    #[track_caller]
    fn await_recovery(&self, what: &str) {
        for agent in &self.agents {
            until(&format!("{what}: {} goes on", agent.instance()), || {
                Self::is_followed(agent)
            });
        }
        let name = self.lab.name("again");
        self.agents[0].endpoint(&name, 42, &["7.7.7.4/24"]);
        self.green.reaches("7.7.7.4");
        self.agents[0].does(&format!("endpoint rm {name}"));
    }

    fn put_back(&self, backup: &Path) {
        self.lose_registry();
        fs::copy(backup, &self.file).unwrap();
    }
}

/// Whatever happens to the registry's file, no packet and no namespace is lost.
#[test]
fn the_registrys_file_may_be_lost_without_loss() {
    let fixture = Fixture::new();
    let backup = fixture.backup();
    let whole = fs::read(&backup).unwrap();
    let there = Stream::start(&fixture.blue, &fixture.green, "7.7.7.3");
    for what in ["gone", "empty", "first page", "half", "garbage", "another"] {
        match what {
            "gone" => {}
            "another" => {
                let other = fixture.lab.dir().join("other.db");
                let url = format!("sqlite://{}", other.display());
                let lines = fixture.lab.dir().join("none.jsonl");
                let made = overlay(
                    "nobody",
                    &[
                        "registry",
                        "import",
                        lines.to_str().unwrap(),
                        "--registry",
                        &url,
                    ],
                );
                assert_ne!(made.code, -1);
                let _ = fs::write(&lines, "");
                overlay(
                    "nobody",
                    &[
                        "registry",
                        "import",
                        lines.to_str().unwrap(),
                        "--registry",
                        &url,
                    ],
                );
                Connection::open(&other)
                    .unwrap()
                    .pragma_update(None, "journal_mode", "DELETE")
                    .unwrap();
                fixture.put_back(&other);
            }
            "garbage" => {
                // In place: the file that the agents have open.
                fs::write(&fixture.file, vec![0xa5; whole.len()]).unwrap();
            }
            part => {
                let length = match part {
                    "empty" => 0,
                    "first page" => 4096,
                    _ => whole.len() / 2,
                };
                for _ in 0..3 {
                    let _ = fs::remove_file(&fixture.file);
                    fs::write(&fixture.file, &whole[..length]).unwrap();
                    thread::sleep(Duration::from_millis(300));
                }
            }
        }
        if what == "gone" {
            fixture.lose_registry();
        }
        fixture.await_refusal(what);
        there.flows(500);
        assert!(fixture.blue.exists() && fixture.green.exists(), "{what}");
        fixture.put_back(&backup);
        fixture.await_recovery(what);
    }
    let (sent, lost) = there.finish();
    assert!(lost.is_empty(), "{} of {sent} lost: {lost:?}", lost.len());
}

/// A registry on a disk that turns read-only takes no change and loses none.
#[test]
fn a_read_only_registry_loses_no_change() {
    let lab = Lab::new();
    let disk = Disk::new(&lab, "disk");
    let file = disk.path().join("registry.db");
    let fixture = Fixture::with_registry(lab, file);
    let stream = Stream::start(&fixture.blue, &fixture.green, "7.7.7.3");
    disk.fail();
    for (agent, ip) in fixture.agents.iter().zip(["7.7.7.8", "7.7.7.9"]) {
        let name = fixture.lab.name("lost");
        let words = format!("endpoint add {name} --vni 42 --ip {ip}/24");
        let line = agent.overlay(&words).error(FAILED);
        assert!(line.contains("its file system"), "{line}");
        let shown = agent.overlay(&format!("endpoint show {name}"));
        assert_ne!(shown.code, 0, "it was refused: {shown:?}");
    }
    stream.flows(500);
    assert!(fixture.blue.exists() && fixture.green.exists());
    disk.replace();
    fixture.await_recovery("a disk that was repaired");
    let (sent, lost) = stream.finish();
    assert!(lost.is_empty(), "{} of {sent} lost: {lost:?}", lost.len());
}

/// An agent that starts while the file is away waits and keeps everything.
#[test]
fn a_start_without_the_file_keeps_everything() {
    let mut fixture = Fixture::new();
    let backup = fixture.backup();
    fixture.agents[0].kill();
    fixture.lose_registry();
    fixture.agents[0].restart("--vni 42");
    until("the agent says that it waits", || {
        let run = fixture.agents[0].overlay("status");
        run.stderr.contains("is gone")
    });
    assert!(!fixture.file.exists());
    assert!(fixture.blue.exists());
    fixture.blue.reaches("7.7.7.3");
    fixture.put_back(&backup);
    fixture.agents[0].await_ready();
    assert!(fixture.blue.exists());
    fixture.blue.reaches("7.7.7.3");
}

/// A registry that lost most rows is followed only on the user's word.
#[test]
fn a_registry_that_lost_most_rows_awaits_a_yes() {
    let fixture = Fixture::new();
    let previous = fixture.emptied();
    let agent = &fixture.agents[0];
    let name = fixture.lab.name("blue");
    fixture.put_back(&previous);
    for agent in &fixture.agents {
        until("the agents don't follow it", || {
            agent.json("status")["registry"]["followed"] == false
        });
    }
    assert!(fixture.blue.exists() && fixture.green.exists());
    fixture.blue.reaches("7.7.7.3");
    let shown = agent.json("registry adopt");
    assert_eq!(shown["adopted"], false);
    assert_eq!(shown["endpoints"][0], name.as_str());
    assert!(fixture.blue.exists());
    agent.does("registry adopt --yes");
    until("the endpoint goes", || !fixture.blue.exists());
    until("the host follows", || Fixture::is_followed(agent));
    assert!(fixture.green.exists());
}

/// An older registry that has the endpoints elsewhere takes none away.
#[test]
fn an_older_registry_takes_no_endpoint_away() {
    let mut fixture = Fixture::new();
    let [blue, green] = [fixture.lab.name("blue"), fixture.lab.name("green")];
    let older = fixture.lab.dir().join("older.db");
    fs::rename(fixture.backup(), &older).unwrap();
    let [one, two] = &fixture.agents;
    for (agent, name) in [(one, &green), (two, &blue)] {
        agent.does(&format!("endpoint move {name} --netns {name}-2"));
        until("the endpoint has moved", || {
            agent.json(&format!("endpoint show {name}"))["state"] == "ready"
        });
        let revision = agent.json("status")["registry"]["revision"].clone();
        until("the next agent will know", || {
            last_known(agent)["revision"] == revision
        });
    }
    let newer = fixture.backup();
    let [moved_blue, moved_green] = [&blue, &green].map(|name| Netns::named(format!("{name}-2")));
    let there = Stream::start(&moved_blue, &moved_green, "7.7.7.3");
    fixture.put_back(&older);
    // The next agents don't believe it either, whether or not they were there when it came.
    for agent in &mut fixture.agents {
        until("the next agent will know", || {
            let held = &last_known(agent)["held"]["endpoints"];
            held.as_array().is_some_and(|held| held.len() == 2)
        });
        agent.kill();
        agent.restart("--vni 42");
        until("the next one answers", || {
            agent.json("status")["agent"] == true
        });
    }
    fixture.await_refusal("an older registry after a restart");
    fixture.put_back(&newer);
    for agent in &mut fixture.agents {
        until("the newer registry is followed", || {
            Fixture::is_followed(agent)
        });
        agent.kill();
    }
    fixture.put_back(&older);
    for agent in &mut fixture.agents {
        agent.restart("--vni 42");
        until("the agent says that it waits", || {
            // Of one endpoint or of two: whether it had heard of the other's again before it was killed.
            let said = agent.overlay("status").stderr;
            ["lost 1 of the 1", "lost 2 of the 2"]
                .iter()
                .any(|text| said.contains(text))
        });
    }
    let (sent, lost) = there.finish();
    assert!(lost.is_empty(), "{} of {sent} lost: {lost:?}", lost.len());

    let shown = fixture.agents[0].json("registry adopt");
    assert_eq!(shown["endpoints"], serde_json::json!([green]));
    for agent in &fixture.agents {
        agent.does("registry adopt --yes");
    }
    for agent in &fixture.agents {
        until("the host follows", || {
            agent.overlay("status").code == 0 && Fixture::is_followed(agent)
        });
    }
    let [one, two] = &fixture.agents;
    for (agent, name) in [(one, &blue), (two, &green)] {
        until("the endpoints are where they once were", || {
            let run = agent.overlay(&format!("-o json endpoint show {name}"));
            run.code == 0 && run.stdout.contains("ready")
        });
    }
    fixture.blue.reaches("7.7.7.3");
}

/// What the agent has written down for the next one.
fn last_known(agent: &Agent) -> Value {
    let file = format!("/run/overlay/{}.known", agent.instance());
    fs::read(file).map_or(Value::Null, |text| serde_json::from_slice(&text).unwrap())
}

#[test]
fn what_an_agent_holds_is_held_by_the_next_one_too() {
    let mut fixture = Fixture::new();
    let (whole, previous) = (fixture.backup(), fixture.emptied());
    fixture.put_back(&previous);
    let there = Stream::start(&fixture.blue, &fixture.green, "7.7.7.3");
    for agent in &mut fixture.agents {
        until("the agents don't follow it", || {
            agent.json("status")["registry"]["followed"] == false
        });
        until("the next agent will know", || {
            last_known(agent)["held"]["endpoints"]
                .as_array()
                .unwrap()
                .len()
                == 2
        });
        agent.kill();
        agent.restart("--vni 42");
        until("the next one does not follow it either", || {
            let run = agent.overlay("-o json status");
            run.code == 0 && agent.json("status")["registry"]["followed"] == false
        });
    }
    fixture.await_refusal("an emptied registry after a restart");
    fixture.put_back(&whole);
    fixture.await_recovery("an emptied registry after a restart");
    let (sent, lost) = there.finish();
    assert!(lost.is_empty(), "{} of {sent} lost: {lost:?}", lost.len());
}

/// An agent that starts on an older registry waits for the user's word.
#[test]
fn a_start_on_an_older_registry_awaits_a_yes() {
    let mut fixture = Fixture::new();
    let (whole, previous) = (fixture.backup(), fixture.emptied());
    for agent in &mut fixture.agents {
        let revision = agent.json("status")["registry"]["revision"].clone();
        until("the next agent will know", || {
            last_known(agent)["revision"] == revision
        });
        agent.kill();
    }
    fixture.put_back(&previous);
    let waits = |agent: &Agent| {
        until("the agent says that it waits", || {
            let run = agent.overlay("status");
            run.stderr.contains("lost 1 of the 1 endpoints")
        });
    };
    for agent in &mut fixture.agents {
        agent.restart("--vni 42");
        waits(agent);
    }
    fixture.blue.reaches("7.7.7.3");

    fixture.put_back(&whole);
    fixture.agents[0].await_ready();
    let revision = fixture.agents[0].json("status")["registry"]["revision"].clone();
    until("the next agent will know", || {
        last_known(&fixture.agents[0])["revision"] == revision
    });
    fixture.agents[0].kill();
    fixture.put_back(&previous);
    fixture.agents[0].restart("--vni 42");
    let agent = &fixture.agents[0];
    waits(agent);
    let shown = agent.json("registry adopt");
    assert_eq!(shown["adopted"], false);
    assert_eq!(shown["endpoints"][0], fixture.lab.name("blue").as_str());
    assert!(fixture.blue.exists());
    agent.does("registry adopt --yes");
    until("the endpoint goes", || !fixture.blue.exists());
    until("the host follows", || {
        agent.overlay("status").code == 0 && Fixture::is_followed(agent)
    });
}

/// An agent that waits for its registry follows an empty one if told to.
#[test]
fn a_waiting_agent_follows_an_empty_registry_if_told() {
    let mut fixture = Fixture::new();
    fixture.agents[0].kill();
    fixture.lose_registry();
    let agent = &mut fixture.agents[0];
    agent.restart("--vni 42");
    until("the agent says that it waits", || {
        agent.overlay("status").stderr.contains("is gone")
    });
    agent.does("registry adopt --yes");
    until("the endpoint goes", || !fixture.blue.exists());
    until("the host follows", || {
        agent.overlay("status").code == 0 && Fixture::is_followed(agent)
    });
}

#[test]
fn a_network_that_is_rightly_emptied_empties() {
    let fixture = Fixture::new();
    for (agent, short) in fixture.agents.iter().zip(["blue", "green"]) {
        agent.does(&format!("endpoint rm {}", fixture.lab.name(short)));
    }
    until("both namespaces to go", || {
        !fixture.blue.exists() && !fixture.green.exists()
    });
    fixture.agents[0].does("network rm vni-42");
    for agent in &fixture.agents {
        until("nothing is left", || {
            agent.json("status")["networks"] == 0 && Fixture::is_followed(agent)
        });
    }
}
