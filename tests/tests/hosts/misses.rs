//! The datapath's trait on a real kernel: misses and their answers, generations, full maps.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
    path::Path,
    time::{Duration, Instant},
};

use nix::net::if_::if_nametoindex;
use overlay_lab::{
    Host, Lab, Netns,
    frame::{BROADCAST, Party, RawSocket, arp_reply, arp_request, default_mac, udp},
    until,
};
use overlay_user::{
    datapath::{self, Datapath as _, DatapathError, DatapathSettings, Kernel},
    model::{
        EndpointRow, FdbKey, FdbRow, FdbTarget, Mac, Miss, NeighborKey, NeighborRow, NetworkRow,
        Tables, Traffic, Vni, VtepPath, VtepRow, Wanted,
    },
};
use tokio::sync::mpsc::Receiver;

const BLUE: &str = "7.7.7.2";
const BLUE_6: &str = "fd07::2";
const GREEN: &str = "7.7.7.3";
const GREEN_6: &str = "fd07::3";
const GREEN_VTEP: Ipv4Addr = Ipv4Addr::new(10, 0, 0, 2);
const GENERATION: u64 = 7;

/// A host without an agent: blue behind `p0`, on network 42, which resolves on demand.
struct Fixture {
    kernel: Kernel,
    misses: Receiver<Miss>,
    host: Host,
    blue: Netns,
    ifindex: u32,
    _lab: Lab,
}

impl Fixture {
    fn new() -> Self {
        Self::with_fdb_entries(1024)
    }

    fn with_fdb_entries(fdb_entries: u32) -> Self {
        let lab = Lab::new();
        let [host] = lab.hosts();
        let blue = lab.netns("blue");
        host.netns.ip(&format!(
            "link add p0 type veth peer name eth0 netns {} address {}",
            blue.name(),
            mac(BLUE)
        ));
        host.netns.ip("link set p0 up");
        blue.ip("link set eth0 up");
        blue.ip(&format!("address add {BLUE}/24 dev eth0"));
        blue.ip(&format!("address add {BLUE_6}/64 dev eth0 nodad"));
        let pins = Path::new("/sys/fs/bpf/overlay").join(host.netns.name());
        let (kernel, misses, ifindex) = host.netns.enter(|| {
            let settings = DatapathSettings {
                pins,
                underlay: "u0".to_owned(),
                underlay_ifindex: if_nametoindex("u0").unwrap(),
                vtep_ip: host.ip,
                vtep_port: 4789,
                strict_reserved: false,
                fdb_entries,
                neighbor_entries: 1024,
                log_drops: false,
            };
            let kernel = Kernel::load(settings).unwrap();
            let ifindex = if_nametoindex("p0").unwrap();
            kernel
                .write(&residents(ifindex), &Tables::default())
                .unwrap();
            kernel.attach_endpoints(&BTreeSet::from([ifindex])).unwrap();
            let misses = kernel.misses().unwrap();
            (kernel, misses, ifindex)
        });
        Self {
            kernel,
            misses,
            host,
            blue,
            ifindex,
            _lab: lab,
        }
    }

    /// The next miss of these, whatever else is asked for meanwhile.
    fn miss(&mut self, wanted: Wanted) -> Miss {
        loop {
            let miss = self.misses.blocking_recv().unwrap();
            if miss.wanted == wanted {
                return miss;
            }
        }
    }

    /// Installs green and answers, as the agent does.
    fn resolve(&self, miss: &Miss) {
        self.kernel
            .write(&green(GENERATION), &Tables::default())
            .unwrap();
        self.kernel
            .set_negative(miss.vni, miss.wanted, None)
            .unwrap();
        let answer = || self.kernel.answer(miss, mac(GREEN));
        self.host.netns.enter(answer).unwrap();
    }
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let pins = Path::new("/sys/fs/bpf/overlay").join(self.host.netns.name());
        datapath::remove(&pins).unwrap();
        let detach = || datapath::detach_filters(&pins);
        self.host.netns.enter(detach).unwrap();
    }
}

fn vni() -> Vni {
    Vni::try_from(42).unwrap()
}

fn mac(ip: &str) -> Mac {
    Mac::try_from(default_mac(ip)).unwrap()
}

fn ip(ip: &str) -> IpAddr {
    ip.parse().unwrap()
}

fn fdb_key(mac: Mac) -> FdbKey {
    FdbKey { vni: vni(), mac }
}

fn neighbors(ips: [&str; 2], generation: u64) -> BTreeMap<NeighborKey, NeighborRow> {
    let row = NeighborRow {
        mac: mac(ips[0]),
        generation,
    };
    let key = |text: &str| NeighborKey {
        vni: vni(),
        ip: ip(text),
    };
    ips.map(|text| (key(text), row)).into()
}

/// What is in the maps whoever is talked to.
fn residents(ifindex: u32) -> Tables {
    let fdb = FdbRow {
        target: FdbTarget::Local {
            ifindex,
            is_queued: false,
            is_metered: false,
        },
        generation: GENERATION,
        ages: false,
    };
    let endpoint = EndpointRow {
        vni: vni(),
        mac: mac(BLUE),
        ipv4: Some(BLUE.parse().unwrap()),
        ipv6: Some(BLUE_6.parse().unwrap()),
        mtu: 1450,
        dhcp: false,
        is_metered: false,
        gateway: None,
        generation: GENERATION,
    };
    let network = NetworkRow {
        mtu: 1450,
        on_demand: true,
    };
    let vtep = VtepRow {
        port: 4789,
        path: VtepPath::default(),
    };
    Tables {
        networks: [(vni(), network)].into(),
        vteps: [(GREEN_VTEP.into(), vtep)].into(),
        fdb: [(fdb_key(mac(BLUE)), fdb)].into(),
        neighbors: neighbors([BLUE, BLUE_6], GENERATION),
        endpoints: [(ifindex, endpoint)].into(),
        ..Tables::default()
    }
}

/// Green's rows, as a cache has them.
fn green(generation: u64) -> Tables {
    Tables {
        fdb: [(fdb_key(mac(GREEN)), remote(generation))].into(),
        neighbors: neighbors([GREEN, GREEN_6], generation),
        ..Tables::default()
    }
}

fn remote(generation: u64) -> FdbRow {
    FdbRow {
        target: FdbTarget::Remote {
            vtep: GREEN_VTEP.into(),
            port: 4789,
        },
        generation,
        ages: true,
    }
}

/// A question by ARP is answered as soon as the answer is known.
#[test]
fn arp_is_answered_once_the_answer_is_known() {
    let mut fixture = Fixture::new();
    let socket = RawSocket::open(&fixture.blue, "eth0");
    let begun = Instant::now();
    socket.send(&arp_request(default_mac(BLUE), Party::at(BLUE), GREEN));
    let miss = fixture.miss(Wanted::Ip(ip(GREEN)));
    let heard = begun.elapsed();
    assert_eq!(
        miss,
        Miss {
            vni: vni(),
            wanted: Wanted::Ip(ip(GREEN)),
            ifindex: fixture.ifindex,
            requester_mac: mac(BLUE),
            requester_ip: Some(ip(BLUE)),
        }
    );
    let known = Instant::now();
    fixture.resolve(&miss);
    let (address, owner) = socket.next(arp_reply);
    let answered = known.elapsed();
    println!("heard of after {heard:?}, answered {answered:?} later");
    assert_eq!(
        (IpAddr::from(address), owner),
        (ip(GREEN), default_mac(GREEN))
    );
    // Its own retry would come after a second.
    assert!(answered < Duration::from_millis(500), "{answered:?}");
}

#[test]
fn who_asks_by_neighbour_discovery_is_answered_too() {
    let mut fixture = Fixture::new();
    assert!(!fixture.blue.pings(GREEN_6, "-c 1 -W 0.1"));
    let miss = fixture.miss(Wanted::Ip(ip(GREEN_6)));
    assert_eq!(miss.requester_ip, Some(ip(BLUE_6)));
    fixture.resolve(&miss);
    until("blue knows green's MAC", || {
        let known = fixture
            .blue
            .ip(&format!("neighbor show {GREEN_6} dev eth0"));
        known.contains(&mac(GREEN).to_string())
    });
}

#[test]
fn the_first_packet_behind_an_answer_finds_its_way() {
    let mut fixture = Fixture::new();
    let ping = std::thread::spawn({
        let blue = fixture.blue.clone();
        move || blue.pings(GREEN, "-c 1 -W 1")
    });
    let miss = fixture.miss(Wanted::Ip(ip(GREEN)));
    fixture.resolve(&miss);
    // Nobody is there to answer it.
    assert!(!ping.join().unwrap());
    let traffic = fixture.kernel.traffic().unwrap();
    assert_eq!(traffic[&vni()].tx_packets, 1, "{traffic:?}");
    while let Ok(miss) = fixture.misses.try_recv() {
        // The kernel's own address detection may ask for others.
        assert!(![Wanted::Ip(ip(GREEN)), Wanted::Mac(mac(GREEN))].contains(&miss.wanted));
    }
}

/// An address that nobody has is asked for again only after a while.
#[test]
fn unknown_addresses_are_asked_for_again_later() {
    let mut fixture = Fixture::new();
    let socket = RawSocket::open(&fixture.blue, "eth0");
    let frame = udp(
        Party::at(BLUE),
        Party::at(GREEN),
        etherparse::IpEcn::NotEct,
        b"?",
    );
    let wanted = Wanted::Mac(mac(GREEN));
    socket.send(&frame);
    let miss = fixture.miss(wanted);
    assert_eq!(miss.requester_ip, None);
    let unknown = || fixture.kernel.drops().unwrap()["destination_unknown"];
    let pause = Duration::from_secs(2);
    let told = Instant::now();
    fixture
        .kernel
        .set_negative(vni(), wanted, Some(pause))
        .unwrap();
    socket.send(&frame);
    until("the frame is dropped", || unknown() == 1);
    let again = loop {
        socket.send(&frame);
        match fixture.misses.try_recv() {
            Ok(miss) if miss.wanted == wanted => break told.elapsed(),
            _ => std::thread::sleep(Duration::from_millis(20)),
        }
    };
    assert!(again + Duration::from_millis(50) >= pause, "{again:?}");
    assert!(fixture.kernel.counters().unwrap()["misses_raised"] >= 2);
}

/// A cached row tells when it was last used; other rows do not.
#[test]
fn a_cached_row_tells_its_last_use() {
    let fixture = Fixture::new();
    fixture
        .kernel
        .write(&green(GENERATION), &Tables::default())
        .unwrap();
    let used = |name| fixture.kernel.used(&fdb_key(mac(name))).unwrap();
    assert_eq!(used(BLUE), None);
    assert_eq!(used("7.7.7.99"), None);
    until("the row grows old", || {
        used(GREEN) >= Some(Duration::from_secs(2))
    });
    let socket = RawSocket::open(&fixture.blue, "eth0");
    let frame = udp(
        Party::at(BLUE),
        Party::at(GREEN),
        etherparse::IpEcn::NotEct,
        b"!",
    );
    until("a frame uses it", || {
        socket.send(&frame);
        used(GREEN) <= Some(Duration::from_secs(1))
    });
}

/// An older generation never takes the place of a newer one.
#[test]
fn an_older_generation_never_wins() {
    let fixture = Fixture::new();
    let write = |put: &Tables, remove: &Tables| fixture.kernel.write(put, remove).unwrap();
    let none = Tables::default();
    let held = || {
        let tables = fixture.kernel.tables().unwrap();
        tables.fdb[&fdb_key(mac(GREEN))].generation
    };
    write(&green(9), &none);
    write(&green(8), &none);
    assert_eq!(held(), 9);
    let usage = fixture.kernel.usage().unwrap();
    assert_eq!((usage["fdb"].stale, usage["neighbors"].stale), (1, 2));
    write(&green(9), &none);
    write(&green(10), &none);
    assert_eq!(held(), 10);
    // A registry that was put back to an earlier state is followed on purpose.
    write(&green(8), &green(0));
    assert_eq!(held(), 8);
}

/// A full map takes what it can, reports it and counts the rest.
#[test]
fn a_full_map_takes_what_it_can() {
    fill_up(|kernel, put| kernel.write(put, &Tables::default()));
    fill_up(|kernel, put| kernel.add(&put.fdb, &put.neighbors));
}

fn fill_up(write: impl Fn(&Kernel, &Tables) -> Result<(), DatapathError>) {
    const CAPACITY: u64 = 4;
    let fixture = Fixture::with_fdb_entries(4);
    let many = |count: u8| {
        let mac = |number| Mac::try_from([2, 0, 0, 0, 0, number]).unwrap();
        let rows = (0..count).map(|number| (fdb_key(mac(number)), remote(GENERATION)));
        Tables {
            fdb: rows.collect(),
            ..Tables::default()
        }
    };
    let mut put = many(8);
    put.neighbors = neighbors([GREEN, GREEN_6], GENERATION);
    let error = write(&fixture.kernel, &put).unwrap_err();
    let DatapathError::Full { map, refused, .. } = error else {
        panic!("{error}");
    };
    assert_eq!((map, refused), ("fdb", 5));
    let line = error.to_string();
    for part in ["fdb", "4 entries", "5 rows", "--fdb-entries"] {
        assert!(line.contains(part), "{line}");
    }
    let fdb = || fixture.kernel.usage().unwrap()["fdb"];
    assert_eq!(
        (fdb().entries, fdb().capacity, fdb().refused),
        (CAPACITY, CAPACITY, 5)
    );
    // The other table has all of its rows, and updates of what is there go on.
    assert_eq!(fixture.kernel.tables().unwrap().neighbors.len(), 4);
    fixture.kernel.write(&many(3), &Tables::default()).unwrap();
    // What is taken away makes room.
    fixture.kernel.write(&Tables::default(), &many(8)).unwrap();
    assert_eq!(fdb().entries, 1);
    write(&fixture.kernel, &many(3)).unwrap();
    assert_eq!((fdb().entries, fdb().refused), (CAPACITY, 5));
}

/// New rows are written as a whole and compared with nothing.
#[test]
fn new_rows_are_written_without_comparing() {
    let fixture = Fixture::new();
    let mac = |number: u16| {
        let [high, low] = number.to_be_bytes();
        Mac::try_from([2, 0, 0, 0, high, low]).unwrap()
    };
    let row = |generation| move |number| (fdb_key(mac(number)), remote(generation));
    let expected: BTreeMap<_, _> = (0..1000).map(row(GENERATION)).collect();
    fixture.kernel.add(&expected, &BTreeMap::new()).unwrap();
    assert_eq!(fixture.kernel.usage().unwrap()["fdb"].entries, 1001);
    let mut fdb = fixture.kernel.tables().unwrap().fdb;
    fdb.retain(|key, _| expected.contains_key(key));
    assert_eq!(fdb, expected);
    // A kernel that would take them one by one only would have kept the newer one.
    let older: BTreeMap<_, _> = [row(GENERATION - 1)(0)].into();
    fixture.kernel.add(&older, &BTreeMap::new()).unwrap();
    assert_eq!(
        fixture.kernel.tables().unwrap().fdb[&fdb_key(mac(0))],
        remote(GENERATION - 1)
    );
}

/// Every row is shown once, without a copy of the table.
#[test]
fn every_row_is_shown_once() {
    let fixture = Fixture::new();
    fixture
        .kernel
        .write(&green(GENERATION), &Tables::default())
        .unwrap();
    let tables = fixture.kernel.tables().unwrap();
    let mut fdb = BTreeMap::new();
    let mut shown = 0;
    fixture
        .kernel
        .for_each_fdb(&mut |key, row| {
            shown += 1;
            fdb.insert(key, row);
        })
        .unwrap();
    assert_eq!((fdb, shown), (tables.fdb, 2));
    let mut neighbors = BTreeMap::new();
    fixture
        .kernel
        .for_each_neighbor(&mut |key, row| {
            neighbors.insert(key, row);
        })
        .unwrap();
    assert_eq!(neighbors, tables.neighbors);
}

#[test]
fn traffic_counts_while_a_network_has_endpoints_here() {
    let fixture = Fixture::new();
    fixture
        .kernel
        .write(&green(GENERATION), &Tables::default())
        .unwrap();
    let socket = RawSocket::open(&fixture.blue, "eth0");
    let to = |ip| {
        udp(
            Party::at(BLUE),
            Party::at(ip),
            etherparse::IpEcn::NotEct,
            &[0; 100],
        )
    };
    let (carried, dropped) = (to(GREEN), to("7.7.7.99"));
    assert_ne!(carried[..6], BROADCAST);
    let sent = || fixture.kernel.traffic().unwrap().get(&vni()).copied();
    for frame in [&carried, &dropped, &carried] {
        socket.send(frame);
    }
    until("both are counted", || {
        sent().is_some_and(|traffic| traffic.tx_packets == 2)
    });
    assert_eq!(sent().unwrap().tx_bytes, 2 * carried.len() as u64);
    let residents = residents(fixture.ifindex);
    fixture
        .kernel
        .write(&Tables::default(), &residents)
        .unwrap();
    assert_eq!(sent(), None);
    fixture
        .kernel
        .write(&residents, &Tables::default())
        .unwrap();
    assert_eq!(sent(), Some(Traffic::default()));
}
