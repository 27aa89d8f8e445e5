//! A store that forgets its history, or is full.

use std::fs;

use overlay_tests::{
    Netns,
    agent::FAILED,
    etcd::{MEMBERS, Member, Settings},
    eventually,
    traffic::Stream,
    until, until_within,
};
use serde_json::Value;

use crate::world::{HOSTS, RECOVERY, VNI, World};

/// Changes of every kind at host 1: an endpoint more, another gone, a network more.
fn change_much(world: &World) {
    let [more, gone] = ["more", "gone"].map(|short| world.lab.name(short));
    let agent = &world.agents[1];
    agent.endpoint(&more, VNI, &["7.7.7.20/24"]);
    agent.does(&format!("endpoint rm {gone}"));
    agent.does("network create more --vni 43 --subnet 10.43.0.0/24");
}

#[test]
fn who_was_away_during_a_compaction_takes_everything_anew() {
    let mut world = World::new();
    let traffic = world.traffic();
    world.agents[1].endpoint(&world.lab.name("gone"), VNI, &["7.7.7.21/24"]);
    until("the others have it", || {
        world.has(0, "7.7.7.21") && world.has(2, "7.7.7.21")
    });
    // Host 0 loses its cable, host 2 its agent.
    let options = world.options();
    world.cluster.plug(&world.hosts[0].netns, false);
    world.await_connected(0, false);
    world.agents[2].kill();
    change_much(&world);
    world.cluster.compact();
    world.cluster.plug(&world.hosts[0].netns, true);
    world.agents[2].restart(&options);
    world.agents[2].await_ready();
    world.await_connected(0, true);
    world.agrees();
    for index in 0..HOSTS {
        assert!(world.has(index, "7.7.7.20") && !world.has(index, "7.7.7.21"));
        assert!(!world.agents[index].dump("networks").is_empty());
        let networks = world.agents[index].dump("networks");
        assert!(networks.iter().any(|row| row["key"] == 43), "{networks:?}");
    }
    traffic.lost_nothing();
}

/// Each agent says that it does not follow the store, or waits for another at its start.
#[track_caller]
fn await_not_followed(world: &World) {
    for agent in &world.agents {
        until_within(RECOVERY, &format!("{} says so", agent.instance()), || {
            let run = agent.overlay("-o json status");
            run.stderr.contains("the agent has waited")
                || run.stdout.contains("\"followed\": false")
        });
    }
    assert!(world.endpoints.iter().all(Netns::exists));
}

/// Ends all members, and starts those that can be with what `change` leaves of their data.
fn with_data(world: &mut World, change: impl Fn(&mut Member)) {
    world.cluster.kill_all();
    for index in 0..MEMBERS {
        change(world.cluster.member(index));
        world.cluster.member(index).restart();
    }
}

#[test]
fn whatever_becomes_of_etcds_data_no_packet_and_no_namespace_is_lost() {
    let mut world = World::new();
    with_data(&mut world, |member| member.save_data("older"));
    world.cluster.await_healthy();
    // The older store has a third of what each host has in the end.
    for (index, agent) in world.agents.iter().enumerate() {
        for number in [10, 20] {
            let last = number + index;
            let name = world.lab.name(&format!("on{last}"));
            let netns = agent.endpoint(&name, VNI, &[&format!("7.7.7.{last}/24")]);
            world.endpoints.push(netns);
        }
    }
    world.agrees();
    let later = Stream::start(&world.endpoints[3], &world.endpoints[5], "7.7.7.11");
    let traffic = world.traffic();

    with_data(&mut world, |member| {
        member.save_data("whole");
        member.lose_data();
    });
    world.cluster.await_healthy();
    await_not_followed(&world);
    let line = world.refuses_changes(0);
    assert!(line.contains("overlay registry adopt"), "{line}");
    let keys = world.cluster.does("get --prefix --keys-only /overlay/");
    assert_eq!(keys.trim(), "");
    // An agent that starts now waits.
    let options = world.options();
    world.agents[2].kill();
    world.agents[2].restart(&options);
    until_within(RECOVERY, "the agent says that it waits", || {
        let run = world.agents[2].overlay("status");
        run.stderr.contains("not the one that this host follows")
    });

    // Another cluster's, with its own identity and nothing else.
    let another = "00000000-0000-4000-8000-000000000000";
    world
        .cluster
        .does(&format!("put /overlay/v1/state/identity {another}"));
    world.refuses_changes(0);
    await_not_followed(&world);

    with_data(&mut world, |member| {
        member.put_data("whole");
        member.cut_data();
    });
    for index in 0..2 {
        world.await_connected(index, false);
    }
    world.refuses_changes(0);
    later.flows(1000);

    with_data(&mut world, |member| member.put_data("older"));
    world.cluster.await_healthy();
    for index in 0..2 {
        world.await_connected(index, true);
    }
    await_not_followed(&world);
    world.refuses_changes(1);
    traffic.flows();

    with_data(&mut world, |member| member.put_data("whole"));
    world.cluster.await_healthy();
    world.agents[2].await_ready();
    for index in 0..HOSTS {
        world.await_connected(index, true);
    }
    world.changes_arrive(0, &[1, 2]);
    world.agrees();
    assert!(world.endpoints.iter().all(Netns::exists));
    traffic.lost_nothing();
    let (sent, lost) = later.finish();
    assert!(lost.is_empty(), "{} of {sent} lost: {lost:?}", lost.len());
}

#[test]
fn a_row_that_cannot_be_read_stops_nobody() {
    let world = World::new();
    let traffic = world.traffic();
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
        world
            .cluster
            .does(&format!("put /overlay/v1/state/{key} {value}"));
    }
    let told = || world.agents[0].json("status")["registry"]["rejected"].clone();
    until_within(RECOVERY, "the rows are named", || {
        told().as_array().unwrap().len() == 4
    });
    let rows: Vec<Value> = told().as_array().unwrap().clone();
    assert!(
        rows.iter().any(|row| row["row"] == "router odd"),
        "{rows:?}"
    );
    world.changes_arrive(0, &[1, 2]);
    for vtep in world.agents[1].dump("vteps") {
        assert_ne!(vtep["key"][0], 127, "{vtep}");
    }
    for key in [
        "endpoint/00000042/odd",
        "node/odd",
        "node/me",
        "object/router/odd",
    ] {
        world.cluster.does(&format!("del /overlay/v1/state/{key}"));
    }
    until_within(RECOVERY, "they are forgotten", || {
        told().as_array().unwrap().is_empty()
    });
    traffic.lost_nothing();
}

#[test]
fn rows_that_cannot_be_read_take_nothing_from_an_agent_that_starts_again() {
    let mut world = World::new();
    let traffic = world.traffic();
    let options = world.options();
    let state = |key: &str| format!("/overlay/v1/state/{key}");
    let own_node = state(&format!("node/{}", world.agents[0].instance()));
    let rows = [
        state(&format!("endpoint/{VNI:08}/{}", world.endpoints[0].name())),
        state(&format!("endpoint/{VNI:08}/{}", world.endpoints[1].name())),
        state(&format!("network/{VNI:08}")),
        state(&format!("node/{}", world.agents[1].instance())),
    ];
    let values = rows.each_ref().map(|row| {
        let value = world.cluster.does(&format!("get --print-value-only {row}"));
        assert!(value.starts_with('{'), "{row}: {value}");
        value.trim().to_owned()
    });
    for row in &rows {
        world.cluster.does(&format!("put {row} {{}}"));
    }
    let known = format!("/run/overlay/{}.known", world.agents[0].instance());
    until_within(RECOVERY, "the next agent will know", || {
        let known: Value = serde_json::from_slice(&fs::read(&known).unwrap()).unwrap();
        let has = |what: &str| known["unfollowed"][what].as_array().unwrap().len();
        has("endpoints") == 2 && has("networks") == 1 && has("nodes") == 2
    });
    for _ in 0..2 {
        world.agents[0].kill();
        // Its own it writes anew.
        world.cluster.does(&format!("put {own_node} {{}}"));
        world.agents[0].restart(&options);
        world.agents[0].await_ready();
        let told = world.agents[0].json("status")["registry"]["rejected"].clone();
        assert_eq!(told.as_array().unwrap().len(), rows.len(), "{told}");
        assert!(world.endpoints.iter().all(Netns::exists));
    }
    for (row, value) in rows.iter().zip(values) {
        world.cluster.does(&format!("put {row} {value}"));
    }
    world.agrees();
    traffic.lost_nothing();
}

#[test]
fn a_full_store_refuses_changes_in_a_clear_line_and_takes_them_again_once_mended() {
    let settings = Settings {
        quota: 4 << 20,
        ..Settings::default()
    };
    let world = World::with(settings, "");
    let traffic = world.traffic();
    world.cluster.fill();
    let line = world.refuses_changes(0);
    assert!(line.contains("space") || line.contains("full"), "{line}");
    // It is full and not away: what is there can be read, and its nodes live on.
    for index in 0..HOSTS {
        world.await_connected(index, true);
    }
    world.maps_agree();
    let line = world.agents[0].overlay("verify").error(FAILED);
    assert!(line.contains("space") || line.contains("full"), "{line}");
    world.cluster.mend_full();
    world.changes_arrive(0, &[1, 2]);
    world.agrees();
    traffic.lost_nothing();
}

#[test]
fn a_member_without_disk_space_is_done_without_and_two_are_waited_for() {
    let mut world = World::new();
    let traffic = world.traffic();
    let mut full = Vec::new();
    // With two of them the third one takes no more writes: it would not even notice.
    for index in 0..MEMBERS - 1 {
        full.push(world.cluster.members()[index].full_disk());
        // Values that make the store's file grow, which takes space.
        let value = "0".repeat(100_000);
        eventually("the member ends", || {
            world
                .cluster
                .etcdctl(&[0, 1, 2], &format!("put /ballast/{index} {value}"));
            (!world.cluster.member(index).is_running()).then_some(())
        });
        if index == 0 {
            world.changes_arrive(0, &[1, 2]);
        }
    }
    for index in 0..HOSTS {
        world.await_connected(index, false);
        world.refuses_changes(index);
    }
    traffic.flows();
    drop(full);
    world.cluster.restart_all();
    world.changes_arrive(0, &[1, 2]);
    world.agrees();
    traffic.lost_nothing();
}
