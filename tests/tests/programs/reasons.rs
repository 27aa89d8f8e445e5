//! Every drop reason is one that a table reaches, or one with an excuse.

use std::collections::BTreeSet;

use overlay_ebpf::abi::DropReason;

use crate::{
    datapath::{Case, Outcome},
    dhcp, echo, endpoint, group, meter, neighbor, on_demand, outside, router, sender, slow_path,
    underlay,
};

/// Reasons that no frame can reach here, and why.
const OUT_OF_REACH: [(DropReason, &str); 10] = [
    (
        DropReason::EchoLimited,
        "it takes many frames: `echo::a_host_gets_so_many_back_and_no_more`",
    ),
    (
        DropReason::NoUplink,
        "the sender is told: `outside::without_a_way_out_the_sender_is_told`",
    ),
    (
        DropReason::NatNone,
        "the sender is told: `outside::without_a_way_out_the_sender_is_told`",
    ),
    (
        DropReason::NatProtocol,
        "the sender is told: `outside::protocols_without_ports_are_refused_by_snat_and_pass_a_float`",
    ),
    (
        DropReason::NatExhausted,
        "the sender is told: `outside::an_endpoint_without_ports_is_refused_and_told_and_nothing_leaves_untranslated`",
    ),
    (
        DropReason::ProgramMissing,
        "every start puts the programs in their places before it attaches any",
    ),
    (
        DropReason::PuntLimited,
        "it takes many frames: `dhcp::an_endpoint_that_floods_is_heard_ten_times_a_second`",
    ),
    (
        DropReason::PuntLost,
        "it takes many frames: `dhcp::a_question_that_finds_the_ring_full_is_lost_and_counted`",
    ),
    (
        DropReason::RedirectFailed,
        "the redirect helpers refuse nothing but flags, and none is given to them",
    ),
    (
        DropReason::VlanTag,
        "a tag beside the frame is made by network devices; BPF_PROG_TEST_RUN can't set one",
    ),
];

fn tables() -> Vec<Case> {
    [
        dhcp::servers(),
        vec![dhcp::too_long()],
        endpoint::encapsulation(),
        endpoint::congestion(),
        endpoint::local_delivery(),
        endpoint::sources(),
        endpoint::refusals(),
        endpoint::sizes(),
        endpoint::strangers(),
        neighbor::arp_answers(),
        neighbor::arp_refusals(),
        neighbor::nd_answers(),
        neighbor::nd_refusals(),
        on_demand::misses(),
        outside::refusals(),
        outside::refusals_from_outside(),
        meter::refusals(),
        router::refusals(),
        underlay::decapsulation(),
        underlay::congestion(),
        underlay::not_ours(),
        underlay::outer_refusals(),
        underlay::inner_refusals(),
        underlay::strict(),
        sender::vteps(),
        sender::claims(),
        sender::mapped_from_tunnel(),
        sender::mapped_from_endpoint(),
        sender::external(),
        echo::refusals(),
        group::from_endpoint(),
        group::from_tunnel(),
        slow_path::lost_from_tunnel(),
        slow_path::lost_from_endpoint(),
    ]
    .into_iter()
    .flatten()
    .collect()
}

#[test]
fn every_reason_is_in_a_table_or_out_of_reach() {
    let reached: BTreeSet<u32> = tables()
        .iter()
        .filter_map(|case| match case.expected {
            Outcome::Drop(reason) => Some(reason.number()),
            _ => None,
        })
        .collect();
    for reason in DropReason::ALL {
        let excused = OUT_OF_REACH.iter().any(|(excused, _)| excused == reason);
        let reached = reached.contains(&reason.number());
        assert!(
            reached != excused,
            "{}: reached {reached}, excused {excused}",
            reason.name()
        );
    }
}
