//! Hosts and members that can't reach each other.

use overlay_lab::{
    Netns,
    etcd::{MEMBERS, Member},
};

use super::world::{HOSTS, World};

#[test]
fn each_host_may_be_cut_off_from_etcd_in_turn() {
    let world = World::new();
    let traffic = world.traffic();
    for index in 0..HOSTS {
        let netns = &world.hosts[index].netns;
        let others = [(index + 1) % HOSTS, (index + 2) % HOSTS];
        world.cluster.plug(netns, false);
        world.await_connected(index, false);
        world.refuses_changes(index);
        let name = world.lab.name(&format!("meanwhile{index}"));
        let ip = format!("7.7.7.1{index}");
        world.agents[others[0]].endpoint(&name, 42, &[&format!("{ip}/24")]);
        assert!(!world.has(index, &ip));
        world.cluster.plug(netns, true);
        world.await_connected(index, true);
        world.agrees();
        assert!(world.has(index, &ip));
    }
    traffic.lost_nothing();
}

#[test]
fn hosts_on_the_side_of_a_minority_catch_up_when_the_split_is_healed() {
    let world = World::new();
    let traffic = world.traffic();
    let leader = world.cluster.leader();
    let side: [&Netns; 2] = [
        world.cluster.members()[leader].netns(),
        &world.hosts[0].netns,
    ];
    world.cluster.split_off(&side);
    world.cluster.leader_after(leader);
    // The member that it reaches follows nobody: it tells nothing and takes nothing.
    world.await_connected(0, false);
    world.refuses_changes(0);
    let name = world.lab.name("meanwhile");
    world.agents[1].endpoint(&name, 42, &["7.7.7.10/24"]);
    for netns in side {
        world.cluster.plug(netns, true);
    }
    world.await_connected(0, true);
    world.agrees();
    assert!(world.has(0, "7.7.7.10"));
    world.changes_arrive(0, &[1, 2]);
    traffic.lost_nothing();
}

#[test]
fn when_nobody_reaches_anybody_nothing_is_lost_and_all_agree_again_afterwards() {
    let world = World::new();
    let traffic = world.traffic();
    let everybody: Vec<&Netns> = world
        .cluster
        .members()
        .iter()
        .map(Member::netns)
        .chain(world.hosts.iter().map(|host| &host.netns))
        .collect();
    assert_eq!(everybody.len(), MEMBERS + HOSTS);
    for netns in &everybody {
        world.cluster.plug(netns, false);
    }
    for index in 0..HOSTS {
        world.await_connected(index, false);
        world.refuses_changes(index);
    }
    traffic.flows();
    for netns in &everybody {
        world.cluster.plug(netns, true);
    }
    world.cluster.await_healthy();
    for index in 0..HOSTS {
        world.await_connected(index, true);
        world.changes_arrive(index, &[(index + 1) % HOSTS, (index + 2) % HOSTS]);
    }
    world.agrees();
    traffic.lost_nothing();
}
