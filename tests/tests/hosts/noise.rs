//! One tenant's noise is his own.

use std::{
    net::Ipv4Addr,
    sync::atomic::{AtomicBool, Ordering},
    thread,
    time::{Duration, Instant},
};

use overlay_lab::{
    Agent, Lab, Netns,
    frame::{Party, RawSocket, arp_reply, arp_request, default_mac},
    until,
};
use overlay_user::model::{Change, Endpoint, Mac, Name, Node, Vni, Vtep};

/// The network of the endpoint that scans.
const LOUD: u32 = 43;
/// Another tenant's.
const CALM: u32 = 44;
const SCANNER: &str = "7.8.0.2";
const ASKER: &str = "7.9.0.2";
/// Addresses a second that the scanner asks for.
const RATE: u32 = 5000;
/// Endpoints that the other tenant talks to for the first time.
const PEERS: u8 = 100;

/// Asks for one address after the other until it is told to stop.
fn scan(netns: &Netns, stop: &AtomicBool) {
    let socket = RawSocket::open(netns, "eth0");
    let (begun, mut sent) = (Instant::now(), 0_u32);
    while !stop.load(Ordering::Relaxed) {
        let due = begun.elapsed().as_secs_f64() * f64::from(RATE);
        while f64::from(sent) < due {
            let [.., high, low] = sent.to_be_bytes();
            let target = format!("7.8.{}.{low}", high.max(1));
            let sender = Party::at(SCANNER);
            socket.send(&arp_request(sender.mac, sender, &target));
            sent += 1;
        }
        thread::sleep(Duration::from_millis(1));
    }
}

/// Puts a node without an agent into the registry, and endpoints of it on the calm network.
fn peers(lab: &Lab) -> Vec<String> {
    let node: Name = lab.name("far").parse().unwrap();
    let vtep = Vtep {
        ip: Ipv4Addr::new(10, 0, 0, 9).into(),
        port: 4789,
    };
    let ips: Vec<String> = (0..PEERS).map(|last| format!("7.9.1.{last}")).collect();
    let endpoint = |ip: &String| Endpoint {
        name: lab.name(&ip.replace('.', "-")).parse().unwrap(),
        vni: Vni::try_from(CALM).unwrap(),
        mac: Mac::try_from(default_mac(ip)).unwrap(),
        addresses: vec![format!("{ip}/16").parse().unwrap()],
        node: node.clone(),
        attachment: None,
        generation: 0,
    };
    let mut changes = vec![Change::PutNode(Node::new(node.clone(), vtep, false))];
    changes.extend(ips.iter().map(|ip| Change::CreateEndpoint(endpoint(ip))));
    lab.commit(&changes);
    ips
}

/// How long each of these addresses takes to be answered for. Nobody asks twice: what is not heard
/// of the first time is never answered.
fn first_answers(netns: &Netns, ips: &[String]) -> Vec<Duration> {
    let socket = RawSocket::open(netns, "eth0");
    let sender = Party::at(ASKER);
    let times = ips.iter().map(|ip| {
        let asked = Instant::now();
        socket.send(&arp_request(sender.mac, sender, ip));
        let wanted: Ipv4Addr = ip.parse().unwrap();
        socket.next(|frame| arp_reply(frame).filter(|(owner, _)| *owner == wanted));
        asked.elapsed()
    });
    let mut times: Vec<_> = times.collect();
    times.sort();
    times
}

/// An endpoint that scans its network takes no other tenant's first packets.
#[test]
fn a_scan_takes_nobody_elses_first_packets() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let agent = Agent::start(&lab, &host, "");
    for (name, vni, subnet) in [("loud", LOUD, "7.8.0.0/16"), ("calm", CALM, "7.9.0.0/16")] {
        agent.does(&format!(
            "network create {name} --vni {vni} --subnet {subnet} --resolve on-demand"
        ));
    }
    let scanner = agent.endpoint(&lab.name("scanner"), LOUD, &["7.8.0.2/16"]);
    let requester = agent.endpoint(&lab.name("requester"), CALM, &["7.9.0.2/16"]);
    let ips = peers(&lab);
    let counter = |name: &str| agent.json("status")["datapath"]["counters"][name].as_u64();
    let limited = || counter("misses_limited_endpoint").unwrap();

    let stop = AtomicBool::new(false);
    let times = thread::scope(|scope| {
        scope.spawn(|| scan(&scanner, &stop));
        until("the scan exceeds its limit", || limited() > 1000);
        let times = first_answers(&requester, &ips);
        stop.store(true, Ordering::Relaxed);
        times
    });

    let [median, almost_all] = [50, 99].map(|percent| times[times.len() * percent / 100]);
    println!("first answers: median {median:?}, 99 % within {almost_all:?}");
    // Each has its answer to the only question; a sender's own retry would come after a second.
    assert!(median < Duration::from_millis(500), "{times:?}");
    assert_eq!(counter("misses_limited"), Some(0), "the CPU's own limit");
    assert_eq!(counter("misses_lost"), Some(0));
}
