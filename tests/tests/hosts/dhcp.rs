//! DHCP and router advertisements: real clients in endpoints whose network answers them.

use std::{
    process::Command,
    thread,
    time::{Duration, Instant},
};

use etherparse::{PacketBuilder, SlicedPacket, TransportSlice};
use nix::sys::signal::Signal;
use overlay_lab::{Agent, DhcpClient, Host, Lab, Netns, frame::RawSocket, until};
use serde_json::{Value, json};

const VNI: u32 = 42;

/// A host with an agent, and a network with a router that answers DHCP.
struct Served {
    // Fields are dropped in this order.
    agent: Agent,
    _hosts: [Host; 1],
    lab: Lab,
}

impl Served {
    fn new() -> Self {
        let served = Self::without_router();
        served.agent.does("router create r1");
        served.agent.does("router attach r1 blue");
        served
    }

    fn without_router() -> Self {
        let lab = Lab::new();
        let hosts = lab.hosts();
        let agent = Agent::start(&lab, &hosts[0], "");
        agent.does(&format!(
            "network create blue --vni {VNI} --subnet 7.7.7.0/24 --subnet fd07::/64"
        ));
        agent.does("dhcp set blue --dns 7.7.7.53 --dns fd07::53 --domain cloud.example --lease 1h");
        Self {
            agent,
            _hosts: hosts,
            lab,
        }
    }

    /// An endpoint whose addresses a client sets.
    fn endpoint(&self, name: &str, words: &str) -> Netns {
        let name = self.lab.name(name);
        self.agent
            .does(&format!("endpoint add {name} --vni {VNI} --dhcp {words}"));
        Netns::named(name)
    }

    fn answers(&self, kind: &str) -> u64 {
        let status = self.agent.json("status");
        status["dhcp"][kind].as_u64().unwrap()
    }
}

/// The addresses of a namespace's eth0 that were set, by family.
fn addresses(netns: &Netns) -> Vec<String> {
    let links: Value = serde_json::from_str(&netns.ip("-j addr show dev eth0")).unwrap();
    let all = links[0]["addr_info"].as_array().unwrap().iter();
    all.filter(|address| address["scope"] == "global")
        .map(|address| address["local"].as_str().unwrap().to_owned())
        .collect()
}

#[test]
fn an_endpoint_made_for_dhcp_comes_up_without_addresses_and_gets_the_registrys() {
    let served = Served::new();
    let web = served.endpoint("web", "--ip 7.7.7.20 --ip fd07::20");
    assert!(addresses(&web).is_empty(), "{:?}", addresses(&web));
    let name = web.name();
    let shown = served.agent.json(&format!("endpoint show {name}"));
    assert_eq!(
        (&shown["dhcp"], &shown["state"]),
        (&json!(true), &json!("ready"))
    );
    let mut client = DhcpClient::udhcpc(&web, "");
    let told = client.hears(&["bound"], 0);
    let of = |key: &str| told.get(key).map(String::as_str);
    assert_eq!(of("ip"), Some("7.7.7.20"));
    assert_eq!(of("mask"), Some("24"));
    assert_eq!(of("router"), Some("7.7.7.1"));
    assert_eq!(of("dns"), Some("7.7.7.53"));
    assert_eq!(of("domain"), Some("cloud.example"));
    assert_eq!(of("lease"), Some("3600"));
    assert_eq!(of("serverid"), Some("7.7.7.1"));
    let db = served
        .agent
        .endpoint(&served.lab.name("db"), VNI, &["7.7.7.30/24"]);
    db.reaches("7.7.7.20");
    web.reaches("7.7.7.1");
    // It asks the gateway alone, whatever is on the way there.
    client.signal(Signal::SIGUSR1);
    client.hears(&["renew"], 0);
    assert!(served.answers("offer") >= 1 && served.answers("ack") >= 2);
    client.signal(Signal::SIGUSR2);
    until("the lease is given back", || served.answers("release") == 1);
    client.stop();
}

/// What of a map a test looks at.
fn told<'a>(told: &'a std::collections::BTreeMap<String, String>, key: &str) -> Option<&'a str> {
    told.get(key).map(String::as_str)
}

#[test]
fn dhclient_is_bound_and_reboots_with_what_it_had() {
    let served = Served::new();
    served
        .agent
        .does("dhcp set blue --route 10.9.0.0/16=7.7.7.9 --ntp 7.7.7.123");
    let web = served.endpoint("web", "--ip 7.7.7.20");
    let mut client = DhcpClient::new(&web);
    client.dhclient("-4");
    let bound = client.hears(&["BOUND"], 0);
    assert_eq!(told(&bound, "new_ip_address"), Some("7.7.7.20"));
    assert_eq!(told(&bound, "new_subnet_mask"), Some("255.255.255.0"));
    assert_eq!(told(&bound, "new_routers"), Some("7.7.7.1"));
    assert_eq!(told(&bound, "new_domain_name_servers"), Some("7.7.7.53"));
    assert_eq!(told(&bound, "new_ntp_servers"), Some("7.7.7.123"));
    assert_eq!(told(&bound, "new_dhcp_lease_time"), Some("3600"));
    assert_eq!(told(&bound, "new_dhcp_renewal_time"), Some("1800"));
    assert_eq!(told(&bound, "new_dhcp_rebinding_time"), Some("3150"));
    let mtu = web.ip("-j link show dev eth0");
    let mtu: Value = serde_json::from_str(&mtu).unwrap();
    assert_eq!(
        told(&bound, "new_interface_mtu").unwrap(),
        mtu[0]["mtu"].to_string()
    );
    web.reaches("7.7.7.1");
    client.stop();
    let before = client.heard().len();
    client.dhclient("-4");
    let rebooted = client.hears(&["REBOOT"], before);
    assert_eq!(told(&rebooted, "new_ip_address"), Some("7.7.7.20"));
    client.stop();
}

#[test]
fn a_client_whose_address_was_changed_gets_the_new_one_when_it_renews() {
    let served = Served::new();
    let web = served.endpoint("web", "--ip 7.7.7.20");
    let mut client = DhcpClient::udhcpc(&web, "");
    client.hears(&["bound"], 0);
    let name = web.name();
    served
        .agent
        .does(&format!("endpoint set {name} --ip 7.7.7.21"));
    let before = client.heard().len();
    client.signal(Signal::SIGUSR1);
    let bound = client.hears(&["bound"], before);
    assert_eq!(told(&bound, "ip"), Some("7.7.7.21"));
    assert!(served.answers("nak") >= 1);
    client.stop();
}

#[test]
fn clients_keep_their_addresses_while_no_agent_runs_and_renew_when_one_does() {
    let mut served = Served::new();
    let web = served.endpoint("web", "--ip 7.7.7.20 --ip fd07::20");
    let mut client = DhcpClient::udhcpc(&web, "");
    client.hears(&["bound"], 0);
    web.reaches("7.7.7.1");
    served.agent.kill();
    web.reaches("7.7.7.1");
    let before = client.heard().len();
    client.signal(Signal::SIGUSR1);
    served.agent.restart("");
    served.agent.await_ready();
    // It may have been heard of only now, or have been lost and sent again.
    client.signal(Signal::SIGUSR1);
    let renewed = client.hears(&["renew", "bound"], before);
    assert_eq!(told(&renewed, "ip"), Some("7.7.7.20"));
    assert_eq!(addresses(&web)[0], "7.7.7.20");
    client.stop();
}

#[test]
fn dhcpcd_gets_both_families_and_its_router() {
    let served = Served::new();
    let web = served.endpoint("web", "--ip 7.7.7.20 --ip fd07::20");
    let mut client = DhcpClient::new(&web);
    client.dhcpcd("");
    let bound = client.hears(&["BOUND", "REBOOT"], 0);
    assert_eq!(told(&bound, "new_ip_address"), Some("7.7.7.20"));
    assert_eq!(told(&bound, "new_domain_name"), Some("cloud.example"));
    until("dhcpcd sets both addresses", || {
        let addresses = addresses(&web);
        ["7.7.7.20", "fd07::20"]
            .iter()
            .all(|ip| addresses.iter().any(|it| it == ip))
    });
    web.reaches("7.7.7.1");
    web.reaches("fd07::1");
    client.stop();
}

#[test]
fn dhcp6c_gets_the_registrys_address_and_gives_it_back() {
    let served = Served::new();
    let web = served.endpoint("web", "--ip fd07::20");
    has_link_local_address(&web);
    let mut client = DhcpClient::new(&web);
    client.dhcp6c();
    let heard = client.hears(&["NBI"], 0);
    let of = |key| told(&heard, key).map(str::trim);
    assert_eq!(of("new_domain_name_servers"), Some("fd07::53"));
    assert_eq!(of("new_domain_name"), Some("cloud.example."));
    assert_eq!(addresses(&web), ["fd07::20"]);
    web.reaches("fd07::1");
    let replies = served.answers("reply");
    client.stop();
    assert!(served.answers("reply") > replies, "its release is answered");
}

#[test]
fn networkd_gets_both_families_and_its_routers() {
    let served = Served::new();
    let web = served.endpoint("web", "--ip 7.7.7.20 --ip fd07::20");
    let mut client = DhcpClient::new(&web);
    client.networkd();
    until("networkd sets both addresses", || {
        addresses(&web) == ["7.7.7.20", "fd07::20"]
    });
    let routes = |family: &str| web.ip(&format!("{family} route show default"));
    assert!(routes("-4").contains("via 7.7.7.1 "), "{}", routes("-4"));
    until("the router is known", || {
        routes("-6").contains("via fe80::1 ")
    });
    web.reaches("7.7.7.1");
    web.reaches("fd07::1");
    client.stop();
    until("it gives its address back", || {
        served.answers("release") == 1
    });
}

#[test]
fn nobody_answers_for_the_address_that_a_client_is_about_to_take() {
    let served = Served::new();
    let web = served.endpoint("web", "--ip 7.7.7.20");
    // It asks by ARP first (RFC 5227), and would decline.
    let mut client = DhcpClient::udhcpc(&web, "-a200");
    let bound = client.hears(&["bound"], 0);
    assert_eq!(told(&bound, "ip"), Some("7.7.7.20"));
    assert_eq!(served.answers("decline"), 0);
    client.stop();
}

#[test]
fn a_client_rebinds_at_any_server_and_keeps_an_address_that_it_declines() {
    let served = Served::new();
    let web = served.endpoint("web", "--ip 7.7.7.20");
    let mut client = FastClient::new(&web, [7, 7, 7, 1]);
    client.exchange();
    // REBINDING (RFC 2131 section 4.3.2): to all, by an address that it has, with no server named.
    let own = [7, 7, 7, 20];
    let ack = client.ask(own, &[53, 1, 3]);
    assert!(is_of_kind(&ack, 5), "{ack:?}");
    assert_eq!(ack[16..20], own);
    let stranger = client.ask([7, 7, 7, 99], &[53, 1, 3]);
    assert!(is_of_kind(&stranger, 6), "{stranger:?}");
    client.tell([0; 4], &[53, 1, 4, 54, 4, 7, 7, 7, 1, 50, 4, 7, 7, 7, 20]);
    until("it is heard", || served.answers("decline") == 1);
    // The registry has it: nobody else can get it, and the client gets no other.
    let offer = client.ask([0; 4], &[53, 1, 1]);
    assert_eq!(offer[16..20], own);
}

/// Whether an answer is of this kind (RFC 2132 section 9.6).
fn is_of_kind(answer: &[u8], kind: u8) -> bool {
    answer[240..].windows(3).any(|it| it == [53, 1, kind])
}

fn has_link_local_address(netns: &Netns) {
    until("its link-local address may be used", || {
        let shown = netns.ip("-6 addr show dev eth0 scope link");
        shown.contains("fe80") && !shown.contains("tentative")
    });
}

#[test]
fn dhclient_gets_the_registrys_address_of_ipv6() {
    let served = Served::new();
    let web = served.endpoint("web", "--ip fd07::20");
    has_link_local_address(&web);
    let mut client = DhcpClient::new(&web);
    client.dhclient("-6");
    let bound = client.hears(&["BOUND6"], 0);
    assert_eq!(told(&bound, "new_ip6_address"), Some("fd07::20"));
    assert_eq!(told(&bound, "new_dhcp6_name_servers"), Some("fd07::53"));
    assert_eq!(
        told(&bound, "new_dhcp6_domain_search"),
        Some("cloud.example.")
    );
    assert_eq!(told(&bound, "new_max_life"), Some("3600"));
    let before = client.heard().len();
    client.stop();
    let mut client_again = client;
    client_again.dhclient("-6");
    // It confirms what it had.
    let again = client_again.hears(&["REBIND6", "RENEW6", "BOUND6"], before);
    assert_eq!(told(&again, "new_ip6_address"), Some("fd07::20"));
    client_again.stop();
    web.reaches("fd07::1");
}

#[test]
fn a_router_is_advertised_and_taken_back() {
    let served = Served::new();
    let web = served.endpoint("web", "--ip 7.7.7.20 --ip fd07::20");
    let default = || web.ip("-6 route show default");
    // The kernel asks by itself when its interface comes up.
    until("the kernel has a router", || {
        default().contains("via fe80::1 ")
    });
    let told = web.run("rdisc6", "-1 -r 5 eth0");
    for line in [
        "Stateful address conf.    :          Yes",
        "Stateful other conf.      :          Yes",
        "Router lifetime           :         1800 (0x00000708) seconds",
        " Prefix                   : fd07::/64",
        "  On-link                 :          Yes",
        "  Autonomous address conf.:           No",
        " Recursive DNS server     : fd07::53",
        " DNS search list          : cloud.example",
        " Source link-layer address: 02:00:5E:00:01:01",
        " from fe80::1",
    ] {
        assert!(told.contains(line), "{line}: {told}");
    }
    assert!(
        addresses(&web).is_empty(),
        "nobody made an address by himself"
    );
    // The gateway answers for the address that it is advertised with, and says that it is a router.
    web.ip("-6 addr add fd07::20/64 dev eth0 nodad");
    assert!(web.pings("fd07::1", "-c 1 -W 2"));
    served.agent.does("router detach r1 blue");
    until("the router is taken back", || default().is_empty());
    served.agent.does("router attach r1 blue");
    until("it is a router again", || {
        default().contains("via fe80::1 ")
    });
    served.agent.does("network set blue --dhcp off");
    until("it is told a last time", || default().is_empty());
}

#[test]
fn without_a_router_clients_get_addresses_and_renew_with_the_server_alone() {
    let served = Served::without_router();
    let web = served.endpoint("web", "--ip 7.7.7.20");
    let mut client = DhcpClient::udhcpc(&web, "");
    let bound = client.hears(&["bound"], 0);
    assert_eq!(
        (told(&bound, "router"), told(&bound, "serverid")),
        (None, Some("7.7.7.1"))
    );
    let acks = served.answers("ack");
    client.signal(Signal::SIGUSR1);
    client.hears(&["renew"], 0);
    assert!(served.answers("ack") > acks);
    assert_eq!(
        served.agent.json("dhcp show blue")["server"],
        json!("7.7.7.1")
    );
    client.stop();
}

#[test]
fn dhcp_is_switched_off_and_on_while_clients_ask() {
    let served = Served::new();
    let web = served.endpoint("web", "--ip 7.7.7.20");
    served.agent.does("network set blue --dhcp off");
    let before = served.agent.drops("multicast");
    let mut client = DhcpClient::udhcpc(&web, "");
    until("nobody hears it", || {
        served.agent.drops("multicast") > before
    });
    assert_eq!(served.answers("offer"), 0);
    served.agent.does("network set blue --dhcp on");
    let bound = client.hears(&["bound"], 0);
    assert_eq!(told(&bound, "dns"), Some("7.7.7.53"), "what was set stays");
    client.stop();
    served.agent.does("dhcp rm blue");
    served.agent.does("dhcp rm blue");
    assert_eq!(served.agent.json("dhcp ls"), json!([]));
    assert!(
        served
            .agent
            .overlay("dhcp show blue")
            .error(1)
            .contains("dhcp set blue")
    );
    for bad in [
        "--lease 1",
        "--dns 224.0.0.1",
        "--domain a..b",
        "--pxe 7.7.7.5",
    ] {
        assert_ne!(
            served.agent.overlay(&format!("dhcp set blue {bad}")).code,
            0,
            "{bad}"
        );
    }
    // It goes with its network.
    served.agent.does("dhcp set blue");
    served.agent.does("router detach r1 blue");
    served.agent.does(&format!("endpoint rm {}", web.name()));
    served.agent.does("network rm blue");
    assert_eq!(served.agent.json("dhcp ls"), json!([]));
}

#[test]
fn an_endpoint_made_for_dhcp_keeps_that_wherever_it_moves() {
    let served = Served::new();
    let web = served.endpoint("web", "--ip 7.7.7.20");
    let (name, other) = (web.name().to_owned(), served.lab.name("other"));
    served
        .agent
        .does(&format!("endpoint move {name} --netns {other}"));
    let other = Netns::named(other);
    assert_eq!(
        served.agent.json(&format!("endpoint show {name}"))["dhcp"],
        json!(true)
    );
    assert!(addresses(&other).is_empty());
    let mut client = DhcpClient::udhcpc(&other, "");
    client.hears(&["bound"], 0);
    client.stop();
}

#[test]
fn nothing_that_is_answered_is_malformed() {
    let served = Served::new();
    served.agent.does(
        "dhcp set blue --ntp 7.7.7.123 --ntp fd07::123 --route 10.9.0.0/16=7.7.7.9 --pxe 7.7.7.5 boot/pxelinux.0",
    );
    let web = served.endpoint("web", "--ip 7.7.7.20 --ip fd07::20");
    let file = served.lab.dir().join("answers.pcap");
    let mut capture = web.command("tcpdump");
    capture.args(["-U", "-i", "eth0", "-w"]).arg(&file);
    let mut capture = capture.arg("udp or icmp6").spawn().unwrap();
    until("the capture has begun", || file.exists());
    let mut client = DhcpClient::new(&web);
    client.dhcpcd("");
    client.hears(&["BOUND", "REBOOT"], 0);
    until("it has both addresses", || addresses(&web).len() == 2);
    client.stop();
    let mut informed = DhcpClient::new(&web);
    informed.dhclient("-4");
    informed.hears(&["BOUND"], 0);
    informed.stop();
    let decoded = |filter: &str| {
        let mut tshark = Command::new("tshark");
        let options = [
            "-o",
            "udp.check_checksum:TRUE",
            "-o",
            "ip.check_checksum:TRUE",
            "-n",
            "-r",
        ];
        tshark.args(options).arg(&file).args(["-Y", filter]);
        let output = tshark.output().unwrap();
        // A file that is being written may end in the middle of a frame.
        let complaint = String::from_utf8_lossy(&output.stderr).into_owned();
        assert!(!complaint.contains("filter"), "{complaint}");
        String::from_utf8(output.stdout).unwrap()
    };
    let from_us = "eth.src == 02:00:5e:00:01:01";
    until("all was captured", || {
        ["dhcp.option.dhcp == 5", "dhcpv6", "icmpv6.type == 134"]
            .iter()
            .all(|what| !decoded(&format!("{from_us} && {what}")).is_empty())
    });
    capture.kill().unwrap();
    capture.wait().unwrap();
    let bad = decoded(&format!(
        "{from_us} && (_ws.malformed || _ws.expert.severity >= 0x600000 || udp.checksum.status == \"Bad\" || \
         icmpv6.checksum.status == \"Bad\" || ip.checksum.status == \"Bad\")"
    ));
    assert_eq!(bad, "");
}

/// A client of DHCPv4 that asks as fast as it is answered.
struct FastClient {
    socket: RawSocket,
    mac: [u8; 6],
    /// Its network's.
    server: [u8; 4],
    xid: u32,
}

impl FastClient {
    fn new(netns: &Netns, server: [u8; 4]) -> Self {
        let mac = netns.mac("eth0");
        let octets: Vec<u8> = mac
            .split(':')
            .map(|it| u8::from_str_radix(it, 16).unwrap())
            .collect();
        Self {
            socket: RawSocket::open(netns, "eth0"),
            mac: octets.try_into().unwrap(),
            server,
            xid: 0,
        }
    }

    /// Says something that is not answered.
    fn tell(&self, own: [u8; 4], options: &[u8]) {
        let mut message = vec![1, 1, 6, 0];
        message.extend(self.xid.to_be_bytes());
        message.resize(12, 0);
        message.extend(own);
        message.resize(28, 0);
        message.extend(self.mac);
        message.resize(236, 0);
        message.extend([99, 130, 83, 99]);
        message.extend(options);
        message.push(255);
        message.resize(300, 0);
        let mut frame = Vec::new();
        PacketBuilder::ethernet2(self.mac, [0xff; 6])
            .ipv4(own, [255; 4], 64)
            .udp(68, 67)
            .write_to_vec(&mut frame, &message)
            .unwrap();
        self.socket.send(&frame);
    }

    /// Asks, with the address that it has or with none.
    fn ask(&self, own: [u8; 4], options: &[u8]) -> Vec<u8> {
        self.tell(own, options);
        self.socket.next(|frame| {
            let packet = SlicedPacket::from_ethernet(frame).ok()?;
            let Some(TransportSlice::Udp(udp)) = packet.transport else {
                return None;
            };
            let message = udp.payload();
            let is_answer = udp.source_port() == 67 && message[4..8] == self.xid.to_be_bytes();
            is_answer.then(|| message.to_vec())
        })
    }

    /// A whole exchange; gives how long it took.
    fn exchange(&mut self) -> Duration {
        self.xid += 1;
        let begun = Instant::now();
        let offer = self.ask([0; 4], &[53, 1, 1]);
        let address = &offer[16..20];
        let request = [&[53, 1, 3, 54, 4][..], &self.server, &[50, 4], address].concat();
        let ack = self.ask([0; 4], &request);
        assert!(is_of_kind(&ack, 5), "{ack:?}");
        begun.elapsed()
    }
}

/// How many endpoints ask at the same time, how many there are, and how often each asks.
const THREADS: usize = 8;
const CLIENTS: usize = 160;
const EXCHANGES: usize = 20;
/// Each network has a limit of its own.
const NETWORKS: usize = 4;

#[test]
#[ignore = "measures"]
fn a_host_gives_thousands_of_leases_a_second() {
    let lab = Lab::new();
    let hosts: [Host; 1] = lab.hosts();
    let agent = Agent::start(&lab, &hosts[0], "");
    for number in 0..NETWORKS {
        let vni = 42 + number;
        agent.does(&format!(
            "network create n{vni} --vni {vni} --subnet 7.{vni}.0.0/16"
        ));
        agent.does(&format!(
            "dhcp set n{vni} --dns 7.7.0.53 --domain cloud.example"
        ));
    }
    let mut fresh = Vec::new();
    let mut clients: Vec<FastClient> = (0..CLIENTS)
        .map(|number| {
            let name = lab.name(&format!("c{number}"));
            let vni = 42 + number % NETWORKS;
            agent.does(&format!("endpoint add {name} --vni {vni} --dhcp"));
            let server = [7, vni.try_into().unwrap(), 0, 1];
            let mut client = FastClient::new(&Netns::named(name), server);
            fresh.push(client.exchange());
            client
        })
        .collect();
    fresh.sort();
    println!(
        "fresh endpoint to lease: p50 {:?}, p99 {:?}",
        fresh[CLIENTS / 2],
        fresh[CLIENTS * 99 / 100]
    );
    // Those that each may have at once come back.
    thread::sleep(Duration::from_secs(5));
    let begun = Instant::now();
    let mut times: Vec<Duration> = thread::scope(|scope| {
        let shares = clients.chunks_mut(CLIENTS / THREADS);
        let threads: Vec<_> = shares
            .map(|share| {
                scope.spawn(move || {
                    let mut times = Vec::new();
                    for _ in 0..EXCHANGES {
                        times.extend(share.iter_mut().map(FastClient::exchange));
                    }
                    times
                })
            })
            .collect();
        threads
            .into_iter()
            .flat_map(|thread| thread.join().unwrap())
            .collect()
    });
    let took = begun.elapsed();
    times.sort();
    let count = u32::try_from(times.len()).unwrap();
    println!(
        "{count} exchanges in {took:?}: {:.0} a second, p50 {:?}, p99 {:?}",
        f64::from(count) / took.as_secs_f64(),
        times[times.len() / 2],
        times[times.len() * 99 / 100]
    );
    println!("{}", agent.json("status")["dhcp"]);
}
