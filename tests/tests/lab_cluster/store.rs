//! A store that forgets its history, or is full.

use overlay_tests::{
    agent::FAILED,
    etcd::{MEMBERS, Settings},
    eventually, until,
};

use crate::world::{HOSTS, VNI, World};

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
