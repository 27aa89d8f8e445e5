//! What the programs cost a packet, beside those of another version.

use std::{env, fs, time::Duration};

use overlay_ebpf::abi::program::{ENDPOINT_INGRESS, UNDERLAY_INGRESS};

use crate::{
    datapath::{Datapath, Settings},
    frames::{self, Tunnel},
    network::{BLUE, CYAN, GREEN},
    outside, router,
};

/// Runs of each program, object and frame.
const ROUNDS: usize = 20_000;

/// `OVERLAY_OBJECTS=FILE,FILE...` names the objects. Their runs alternate; a figure is the median of all.
#[test]
#[ignore = "measures"]
fn what_a_packet_costs_with_each_of_some_objects() {
    let files = env::var("OVERLAY_OBJECTS").expect("OVERLAY_OBJECTS names objects");
    let files: Vec<&str> = files.split(',').collect();
    let load = |file: &&str| {
        let mut datapath = Datapath::load_object(&fs::read(file).unwrap(), Settings::default());
        datapath.hold_lease();
        router::join(&mut datapath);
        outside::connect(&mut datapath);
        datapath.set_edition(2);
        datapath
    };
    let mut datapaths: Vec<Datapath> = files.iter().map(load).collect();
    let far = router::by_gateway(router::ORANGE);
    let peer = router::by_gateway(outside::PEER);
    let received = |inner| Tunnel::to_this_host(inner).frame();
    let table = [
        ("sent, IPv4", ENDPOINT_INGRESS, frames::udp4(&BLUE, &GREEN)),
        ("sent, IPv6", ENDPOINT_INGRESS, frames::udp6(&BLUE, &GREEN)),
        ("here, IPv4", ENDPOINT_INGRESS, frames::udp4(&BLUE, &CYAN)),
        (
            "received, IPv4",
            UNDERLAY_INGRESS,
            received(frames::udp4(&GREEN, &BLUE)),
        ),
        (
            "received, IPv6",
            UNDERLAY_INGRESS,
            received(frames::udp6(&GREEN, &BLUE)),
        ),
        ("routed, IPv4", ENDPOINT_INGRESS, frames::udp4(&BLUE, &far)),
        ("routed, IPv6", ENDPOINT_INGRESS, frames::udp6(&BLUE, &far)),
        ("SNAT", ENDPOINT_INGRESS, frames::udp4(&BLUE, &peer)),
    ];
    for (what, program, frame) in table {
        let mut times = vec![Vec::with_capacity(ROUNDS); files.len()];
        for round in 0..ROUNDS {
            for turn in 0..files.len() {
                let which = (round + turn) % files.len();
                times[which].push(datapaths[which].time(program, &frame));
            }
        }
        for (file, times) in files.iter().zip(&mut times) {
            println!("{what}: {:?} with {file}", median(times));
        }
    }
}

fn median(times: &mut [Duration]) -> Duration {
    let middle = times.len() / 2;
    *times.select_nth_unstable(middle).1
}
