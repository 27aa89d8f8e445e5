//! What an endpoint that has just come sends first.

use std::{
    io::ErrorKind,
    net::UdpSocket,
    sync::mpsc,
    thread,
    time::{Duration, Instant},
};

use overlay_lab::{Agent, Host, Lab, Netns, traffic::Echo, until, wait::WAIT_TIMEOUT};

const GREEN: &str = "7.7.7.3";
const BLUE: &str = "7.7.7.2/24";
/// A question for a neighbour that dies is asked again after a second (`retrans_time_ms`).
const AT_ONCE: Duration = Duration::from_millis(700);

/// Two agents, with green on the first one's host.
struct Fixture {
    agents: [Agent; 2],
    green: Netns,
    echo: Echo,
    lab: Lab,
}

fn fixture(options: &str) -> Fixture {
    let lab = Lab::new();
    let hosts: [Host; 2] = lab.hosts();
    let agents = Agent::on_each(&lab, &hosts, "");
    agents[0].does(&format!("network create lab --vni 42 {options}"));
    let green = agents[0].endpoint(&lab.name("green"), 42, &[&format!("{GREEN}/24")]);
    let echo = Echo::start(&green, GREEN, None);
    Fixture {
        agents,
        green,
        echo,
        lab,
    }
}

/// Sends in `netns` as soon as anything can be sent, until something comes back. Gives how long that took
/// from the first datagram that the kernel took.
fn first_answer(netns: &Netns, port: u16) -> Duration {
    let socket = netns.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    socket
        .set_read_timeout(Some(Duration::from_millis(2)))
        .unwrap();
    let deadline = Instant::now() + WAIT_TIMEOUT;
    let mut first = None;
    while Instant::now() < deadline {
        match socket.send_to(b"?", (GREEN, port)) {
            Ok(_) => _ = first.get_or_insert_with(Instant::now),
            // Its interface or its address is yet to come.
            Err(error) if error.kind() == ErrorKind::NetworkUnreachable => {}
            Err(error) => panic!("{error}"),
        }
        match (socket.recv(&mut [0; 16]), first) {
            (Ok(_), Some(first)) => return first.elapsed(),
            (Ok(_), None) => panic!("an answer to nothing"),
            (Err(_), _) => {}
        }
    }
    panic!("nothing ever came back");
}

/// How long it takes from what an endpoint in `netns` sends first to the answer, while `act` makes it.
fn while_it_comes(netns: &Netns, port: u16, act: impl FnOnce()) -> Duration {
    let (begun, has_begun) = mpsc::channel();
    thread::scope(|scope| {
        let sender = scope.spawn(move || {
            begun.send(()).unwrap();
            first_answer(netns, port)
        });
        has_begun.recv().unwrap();
        act();
        sender.join().unwrap()
    })
}

/// Moves blue between the hosts again and again, each time into a namespace where somebody sends already.
fn moves(options: &str, count: usize) {
    let fixture = fixture(options);
    let (port, blue) = (fixture.echo.port, fixture.lab.name("blue"));
    let places = ["there", "here"].map(|name| fixture.lab.netns(name));
    let [first, second] = &fixture.agents;
    first.does(&format!(
        "endpoint add {blue} --vni 42 --ip {BLUE} --netns {}",
        places[1].name()
    ));
    let mut late = Vec::new();
    for (agent, place) in [second, first].iter().zip(&places).cycle().take(count) {
        let took = while_it_comes(place, port, || {
            agent.does(&format!("endpoint move {blue} --netns {}", place.name()));
        });
        late.extend((took > AT_ONCE).then_some(took));
        until("both hosts know", || {
            fixture.green.pings("7.7.7.2", "-c 1 -W 1")
        });
    }
    assert!(late.is_empty(), "of {count}: {late:?}");
}

/// An endpoint that moves is answered from its first frame on.
#[test]
fn a_moved_endpoint_is_answered_at_once() {
    moves("", 24);
}

/// An endpoint that moves in an on-demand network is answered from its first frame on.
#[test]
fn a_move_on_demand_is_answered_at_once() {
    moves("--resolve on-demand", 24);
}

/// An endpoint that is added again and again is answered from its first frame on.
#[test]
fn an_endpoint_added_again_is_answered_at_once() {
    let fixture = fixture("");
    let (agent, place) = (&fixture.agents[1], fixture.lab.netns("there"));
    let blue = fixture.lab.name("blue");
    for _ in 0..10 {
        let took = while_it_comes(&place, fixture.echo.port, || {
            agent.does(&format!(
                "endpoint add {blue} --vni 42 --ip {BLUE} --netns {}",
                place.name()
            ));
        });
        assert!(took < AT_ONCE, "{took:?}");
        agent.does(&format!("endpoint rm {blue}"));
    }
}

/// An endpoint whose interface was deleted is answered from its first frame on.
#[test]
fn a_deleted_interface_is_answered_again_at_once() {
    let fixture = fixture("");
    let (agent, place) = (&fixture.agents[1], fixture.lab.netns("there"));
    agent.does(&format!(
        "endpoint add {} --vni 42 --ip {BLUE} --netns {}",
        fixture.lab.name("blue"),
        place.name()
    ));
    for _ in 0..5 {
        place.ip("link del eth0");
        let took = first_answer(&place, fixture.echo.port);
        assert!(took < AT_ONCE, "{took:?}");
    }
}

/// An endpoint is answered at once while its agent restarts and its network is set.
#[test]
fn a_restart_and_a_set_delay_no_answer() {
    let mut fixture = fixture("");
    let blue = fixture.agents[1].endpoint(&fixture.lab.name("blue"), 42, &[BLUE]);
    for _ in 0..5 {
        fixture.agents[1].kill();
        fixture.agents[1].restart("");
        blue.ip("neigh flush dev eth0");
        let took = first_answer(&blue, fixture.echo.port);
        assert!(took < AT_ONCE, "restarted: {took:?}");
        fixture.agents[1].await_ready();
    }
    for mtu in [1300, 1400, 1300, 1400, 1300] {
        fixture.agents[1].does(&format!("network set lab --mtu {mtu}"));
        blue.ip("neigh flush dev eth0");
        let took = first_answer(&blue, fixture.echo.port);
        assert!(took < AT_ONCE, "MTU {mtu}: {took:?}");
    }
}
