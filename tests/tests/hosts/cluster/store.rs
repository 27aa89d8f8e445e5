//! A store that forgets its history, or is full.

use std::fs;

use overlay_lab::{
    Netns,
    agent::FAILED,
    etcd::{ClusterSettings, MEMBERS, Member},
    eventually,
    traffic::Stream,
    until, until_within,
};
use serde_json::Value;

use super::fixture::{Fixture, HOSTS, RECOVERY, VNI};

/// Changes of every kind at host 1: an endpoint more, another gone, a network more.
fn change_much(fixture: &Fixture) {
    let [more, gone] = ["more", "gone"].map(|short| fixture.lab.name(short));
    let agent = &fixture.agents[1];
    agent.endpoint(&more, VNI, &["7.7.7.20/24"]);
    agent.does(&format!("endpoint rm {gone}"));
    agent.does("network create more --vni 43 --subnet 10.43.0.0/24");
}

/// An agent that was away during a compaction reads everything anew.
#[test]
fn an_absence_during_a_compaction_reads_anew() {
    let mut fixture = Fixture::new();
    let traffic = fixture.traffic();
    fixture.agents[1].endpoint(&fixture.lab.name("gone"), VNI, &["7.7.7.21/24"]);
    until("the others have it", || {
        fixture.has(0, "7.7.7.21") && fixture.has(2, "7.7.7.21")
    });
    // Host 0 loses its cable, host 2 its agent.
    let options = fixture.options();
    fixture.cluster.plug(&fixture.hosts[0].netns, false);
    fixture.await_connected(0, false);
    fixture.agents[2].kill();
    change_much(&fixture);
    fixture.cluster.compact();
    fixture.cluster.plug(&fixture.hosts[0].netns, true);
    fixture.agents[2].restart(&options);
    fixture.agents[2].await_ready();
    fixture.await_connected(0, true);
    fixture.agrees();
    for index in 0..HOSTS {
        assert!(fixture.has(index, "7.7.7.20") && !fixture.has(index, "7.7.7.21"));
        assert!(!fixture.agents[index].dump("networks").is_empty());
        let networks = fixture.agents[index].dump("networks");
        assert!(networks.iter().any(|row| row["key"] == 43), "{networks:?}");
    }
    traffic.lost_nothing();
}

/// Each agent says that it does not follow the store, or waits for another at its start.
#[track_caller]
fn await_not_followed(fixture: &Fixture) {
    for agent in &fixture.agents {
        until_within(RECOVERY, &format!("{} says so", agent.instance()), || {
            let run = agent.overlay("-o json status");
            run.stderr.contains("the agent has waited")
                || run.stdout.contains("\"followed\": false")
        });
    }
    assert!(fixture.endpoints.iter().all(Netns::exists));
}

/// Ends all members, and starts those that can be with what `change` leaves of their data.
fn with_data(fixture: &mut Fixture, change: impl Fn(&mut Member)) {
    fixture.cluster.kill_all();
    for index in 0..MEMBERS {
        change(fixture.cluster.member(index));
        fixture.cluster.member(index).restart();
    }
}

/// Whatever happens to etcd's data, no packet and no namespace is lost.
#[test]
fn etcds_data_may_be_lost_without_loss() {
    let mut fixture = Fixture::new();
    with_data(&mut fixture, |member| member.save_data("older"));
    fixture.cluster.await_healthy();
    // The older store has a third of what each host has in the end.
    for (index, agent) in fixture.agents.iter().enumerate() {
        for number in [10, 20] {
            let last = number + index;
            let name = fixture.lab.name(&format!("on{last}"));
            let netns = agent.endpoint(&name, VNI, &[&format!("7.7.7.{last}/24")]);
            fixture.endpoints.push(netns);
        }
    }
    fixture.agrees();
    let later = Stream::start(&fixture.endpoints[3], &fixture.endpoints[5], "7.7.7.11");
    let traffic = fixture.traffic();

    with_data(&mut fixture, |member| {
        member.save_data("whole");
        member.lose_data();
    });
    fixture.cluster.await_healthy();
    await_not_followed(&fixture);
    let line = fixture.refuses_changes(0);
    assert!(line.contains("overlay registry adopt"), "{line}");
    let keys = fixture.cluster.does("get --prefix --keys-only /overlay/");
    assert_eq!(keys.trim(), "");
    // An agent that starts now waits.
    let options = fixture.options();
    fixture.agents[2].kill();
    fixture.agents[2].restart(&options);
    until_within(RECOVERY, "the agent says that it waits", || {
        let run = fixture.agents[2].overlay("status");
        run.stderr.contains("not the one that this host follows")
    });

    // Another cluster's, with its own identity and nothing else.
    let another = "00000000-0000-4000-8000-000000000000";
    fixture
        .cluster
        .does(&format!("put /overlay/v1/state/identity {another}"));
    fixture.refuses_changes(0);
    await_not_followed(&fixture);

    with_data(&mut fixture, |member| {
        member.put_data("whole");
        member.cut_data();
    });
    for index in 0..2 {
        fixture.await_connected(index, false);
    }
    fixture.refuses_changes(0);
    later.flows(1000);

    with_data(&mut fixture, |member| member.put_data("older"));
    fixture.cluster.await_healthy();
    for index in 0..2 {
        fixture.await_connected(index, true);
    }
    await_not_followed(&fixture);
    fixture.refuses_changes(1);
    traffic.flows();

    with_data(&mut fixture, |member| member.put_data("whole"));
    fixture.cluster.await_healthy();
    fixture.agents[2].await_ready();
    for index in 0..HOSTS {
        fixture.await_connected(index, true);
    }
    fixture.changes_arrive(0, &[1, 2]);
    fixture.agrees();
    assert!(fixture.endpoints.iter().all(Netns::exists));
    traffic.lost_nothing();
    let (sent, lost) = later.finish();
    assert!(lost.is_empty(), "{} of {sent} lost: {lost:?}", lost.len());
}

#[test]
fn a_row_that_cannot_be_read_stops_nobody() {
    let fixture = Fixture::new();
    let traffic = fixture.traffic();
    for (key, value) in [
        ("endpoint/00000042/odd", "{}"),
        (
            "node/odd",
            r#"{"vtep":{"ip":"127.0.0.1","port":4789},"agent":true}"#,
        ),
        (
            "node/me",
            r#"{"vtep":{"ip":"10.0.0.1","port":4789},"agent":true}"#,
        ),
        ("object/router/odd", r#"{"body":"#),
        // Of a kind that is not known yet: that is nothing to be named.
        ("object/future/x", r#"{"body":{"a":[1]}}"#),
    ] {
        fixture
            .cluster
            .does(&format!("put /overlay/v1/state/{key} {value}"));
    }
    let told = || fixture.agents[0].json("status")["registry"]["rejected"].clone();
    until_within(RECOVERY, "the rows are named", || {
        told().as_array().unwrap().len() == 4
    });
    let rows: Vec<Value> = told().as_array().unwrap().clone();
    assert!(
        rows.iter().any(|row| row["row"] == "router odd"),
        "{rows:?}"
    );
    fixture.changes_arrive(0, &[1, 2]);
    for vtep in fixture.agents[1].dump("vteps") {
        assert_ne!(vtep["key"]["ip"][12], 127, "{vtep}");
    }
    for key in [
        "endpoint/00000042/odd",
        "node/odd",
        "node/me",
        "object/router/odd",
    ] {
        fixture
            .cluster
            .does(&format!("del /overlay/v1/state/{key}"));
    }
    until_within(RECOVERY, "they are forgotten", || {
        told().as_array().unwrap().is_empty()
    });
    traffic.lost_nothing();
}

/// Rows that can't be read take nothing from an agent that starts again.
#[test]
fn unreadable_rows_take_nothing_from_a_restart() {
    let mut fixture = Fixture::new();
    let traffic = fixture.traffic();
    let options = fixture.options();
    let state = |key: &str| format!("/overlay/v1/state/{key}");
    let own_node = state(&format!("node/{}", fixture.agents[0].instance()));
    let rows = [
        state(&format!(
            "endpoint/{VNI:08}/{}",
            fixture.endpoints[0].name()
        )),
        state(&format!(
            "endpoint/{VNI:08}/{}",
            fixture.endpoints[1].name()
        )),
        state(&format!("network/{VNI:08}")),
        state(&format!("node/{}", fixture.agents[1].instance())),
    ];
    let values = rows.each_ref().map(|row| {
        let value = fixture
            .cluster
            .does(&format!("get --print-value-only {row}"));
        assert!(value.starts_with('{'), "{row}: {value}");
        value.trim().to_owned()
    });
    for row in &rows {
        fixture.cluster.does(&format!("put {row} {{}}"));
    }
    let known = format!("/run/overlay/{}.known", fixture.agents[0].instance());
    until_within(RECOVERY, "the next agent will know", || {
        let known: Value = serde_json::from_slice(&fs::read(&known).unwrap()).unwrap();
        let has = |what: &str| known["unfollowed"][what].as_array().unwrap().len();
        has("endpoints") == 2 && has("networks") == 1 && has("nodes") == 2
    });
    for _ in 0..2 {
        fixture.agents[0].kill();
        // Its own it writes anew.
        fixture.cluster.does(&format!("put {own_node} {{}}"));
        fixture.agents[0].restart(&options);
        fixture.agents[0].await_ready();
        let told = fixture.agents[0].json("status")["registry"]["rejected"].clone();
        assert_eq!(told.as_array().unwrap().len(), rows.len(), "{told}");
        assert!(fixture.endpoints.iter().all(Netns::exists));
    }
    for (row, value) in rows.iter().zip(values) {
        fixture.cluster.does(&format!("put {row} {value}"));
    }
    fixture.agrees();
    traffic.lost_nothing();
}

/// A full store refuses changes in a clear line until it is repaired.
#[test]
fn a_full_store_refuses_changes_until_repaired() {
    let settings = ClusterSettings {
        quota: 4 << 20,
        ..ClusterSettings::default()
    };
    let fixture = Fixture::with(settings, "");
    let traffic = fixture.traffic();
    fixture.cluster.fill();
    let line = fixture.refuses_changes(0);
    assert!(line.contains("space") || line.contains("full"), "{line}");
    // It is full and not away: what is there can be read, and its nodes live on.
    for index in 0..HOSTS {
        fixture.await_connected(index, true);
    }
    fixture.maps_agree();
    let line = fixture.agents[0].overlay("verify").error(FAILED);
    assert!(line.contains("space") || line.contains("full"), "{line}");
    fixture.cluster.mend_full();
    fixture.changes_arrive(0, &[1, 2]);
    fixture.agrees();
    traffic.lost_nothing();
}

/// The cluster does without one member without disk space, and waits for two.
#[test]
fn one_member_without_disk_space_is_tolerated() {
    let mut fixture = Fixture::new();
    let traffic = fixture.traffic();
    let mut full = Vec::new();
    // With two of them the third one takes no more writes: it would not even notice.
    for index in 0..MEMBERS - 1 {
        full.push(fixture.cluster.members()[index].full_disk());
        // Values that make the store's file grow, which takes space.
        let value = "0".repeat(100_000);
        eventually("the member ends", || {
            fixture
                .cluster
                .etcdctl(&[0, 1, 2], &format!("put /ballast/{index} {value}"));
            (!fixture.cluster.member(index).is_running()).then_some(())
        });
        if index == 0 {
            fixture.changes_arrive(0, &[1, 2]);
        }
    }
    for index in 0..HOSTS {
        fixture.await_connected(index, false);
        fixture.refuses_changes(index);
    }
    traffic.flows();
    drop(full);
    fixture.cluster.restart_all();
    fixture.changes_arrive(0, &[1, 2]);
    fixture.agrees();
    traffic.lost_nothing();
}
