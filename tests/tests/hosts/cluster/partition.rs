//! Hosts and members that can't reach each other.

use overlay_lab::{
    Netns,
    etcd::{MEMBERS, Member},
};

use super::fixture::{Fixture, HOSTS};

#[test]
fn each_host_may_be_cut_off_from_etcd_in_turn() {
    let fixture = Fixture::new();
    let traffic = fixture.traffic();
    for index in 0..HOSTS {
        let netns = &fixture.hosts[index].netns;
        let others = [(index + 1) % HOSTS, (index + 2) % HOSTS];
        fixture.cluster.plug(netns, false);
        fixture.await_connected(index, false);
        fixture.refuses_changes(index);
        let name = fixture.lab.name(&format!("meanwhile{index}"));
        let ip = format!("7.7.7.1{index}");
        fixture.agents[others[0]].endpoint(&name, 42, &[&format!("{ip}/24")]);
        assert!(!fixture.has(index, &ip));
        fixture.cluster.plug(netns, true);
        fixture.await_connected(index, true);
        fixture.agrees();
        assert!(fixture.has(index, &ip));
    }
    traffic.lost_nothing();
}

/// Hosts on a minority's side catch up when the split is healed.
#[test]
fn a_minority_catches_up_after_the_split() {
    let fixture = Fixture::new();
    let traffic = fixture.traffic();
    let leader = fixture.cluster.leader();
    let side: [&Netns; 2] = [
        fixture.cluster.members()[leader].netns(),
        &fixture.hosts[0].netns,
    ];
    fixture.cluster.split_off(&side);
    fixture.cluster.leader_after(leader);
    // The member that it reaches follows nobody: it tells nothing and takes nothing.
    fixture.await_connected(0, false);
    fixture.refuses_changes(0);
    let name = fixture.lab.name("meanwhile");
    fixture.agents[1].endpoint(&name, 42, &["7.7.7.10/24"]);
    for netns in side {
        fixture.cluster.plug(netns, true);
    }
    fixture.await_connected(0, true);
    fixture.agrees();
    assert!(fixture.has(0, "7.7.7.10"));
    fixture.changes_arrive(0, &[1, 2]);
    traffic.lost_nothing();
}

/// When nobody reaches anybody, nothing is lost, and all agree again afterwards.
#[test]
fn isolated_hosts_lose_nothing_and_agree_later() {
    let fixture = Fixture::new();
    let traffic = fixture.traffic();
    let everybody: Vec<&Netns> = fixture
        .cluster
        .members()
        .iter()
        .map(Member::netns)
        .chain(fixture.hosts.iter().map(|host| &host.netns))
        .collect();
    assert_eq!(everybody.len(), MEMBERS + HOSTS);
    for netns in &everybody {
        fixture.cluster.plug(netns, false);
    }
    for index in 0..HOSTS {
        fixture.await_connected(index, false);
        fixture.refuses_changes(index);
    }
    traffic.flows();
    for netns in &everybody {
        fixture.cluster.plug(netns, true);
    }
    fixture.cluster.await_healthy();
    for index in 0..HOSTS {
        fixture.await_connected(index, true);
        fixture.changes_arrive(index, &[(index + 1) % HOSTS, (index + 2) % HOSTS]);
    }
    fixture.agrees();
    traffic.lost_nothing();
}
