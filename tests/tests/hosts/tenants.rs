//! Two tenants with the same addresses on the same hosts don't see each other.

use overlay_lab::{Agent, Lab, Netns, traffic};

const PORT: u16 = 7000;

struct Tenant {
    vni: u32,
    blue: Netns,
    green: Netns,
}

impl Tenant {
    fn new(lab: &Lab, one: &Agent, two: &Agent, vni: u32) -> Self {
        let name = |color: &str| lab.name(&format!("{color}{vni}"));
        Self {
            vni,
            blue: one.endpoint(&name("blue"), vni, &["7.7.7.2/24", "fd07::2/64"]),
            green: two.endpoint(&name("green"), vni, &["7.7.7.3/24", "fd07::3/64"]),
        }
    }
}

/// Each tenant reaches its own endpoint at an address that both have.
#[test]
fn each_tenant_reaches_its_own_endpoint() {
    let lab = Lab::new();
    let [one, two] = lab.hosts();
    let one = Agent::start(&lab, &one, "--vni 42 --vni 43");
    let two = Agent::start(&lab, &two, "--vni 42,43");
    let tenants = [42, 43].map(|vni| Tenant::new(&lab, &one, &two, vni));
    for ip in ["7.7.7.3", "fd07::3"] {
        let _servers = tenants.each_ref().map(|tenant| {
            let answer = format!("green of {}", tenant.vni);
            traffic::Echo::on_port(&tenant.green, ip, PORT, Some(&answer))
        });
        for tenant in &tenants {
            tenant.blue.reaches(ip);
            let answer = traffic::ask(&tenant.blue, ip, PORT).unwrap();
            assert_eq!(answer, format!("green of {}", tenant.vni));
        }
    }
    for tenant in &tenants {
        traffic::tcp(&tenant.green, &tenant.blue, "7.7.7.2", 1 << 20);
        traffic::tcp(&tenant.blue, &tenant.green, "fd07::3", 1 << 20);
    }
}

#[test]
fn a_server_of_one_tenant_is_not_there_for_the_other() {
    let lab = Lab::new();
    let [one, two] = lab.hosts();
    let one = Agent::start(&lab, &one, "--vni 42,43");
    let two = Agent::start(&lab, &two, "--vni 42,43");
    let [left, right] = [42, 43].map(|vni| Tenant::new(&lab, &one, &two, vni));
    left.blue.reaches("7.7.7.3");
    right.blue.reaches("7.7.7.3");
    // 43 alone has a server, here and there, and an address of its own.
    let _there = traffic::Echo::on_port(&right.green, "7.7.7.3", PORT, Some("there"));
    let local = one.endpoint(&lab.name("local43"), 43, &["7.7.7.9/24"]);
    let _here = traffic::Echo::on_port(&local, "7.7.7.9", PORT, Some("here"));
    right.blue.reaches("7.7.7.9");
    assert_eq!(
        traffic::ask(&right.blue, "7.7.7.3", PORT).as_deref(),
        Some("there")
    );
    assert_eq!(
        traffic::ask(&right.blue, "7.7.7.9", PORT).as_deref(),
        Some("here")
    );
    assert_eq!(traffic::ask(&left.blue, "7.7.7.3", PORT), None);
    let before = one.drops("neighbor_unknown");
    assert_eq!(traffic::ask(&left.blue, "7.7.7.9", PORT), None);
    assert!(one.drops("neighbor_unknown") > before);
}

/// A tenant that knows another's MAC still does not reach it.
#[test]
fn another_tenants_mac_does_not_help() {
    let lab = Lab::new();
    let [one, two] = lab.hosts();
    let one = Agent::start(&lab, &one, "--vni 42,43");
    let two = Agent::start(&lab, &two, "--vni 42,43");
    let blue = one.endpoint(&lab.name("blue42"), 42, &["7.7.7.2/24"]);
    let near = one.endpoint(&lab.name("near43"), 43, &["7.7.7.4/24"]);
    let far = two.endpoint(&lab.name("far43"), 43, &["7.7.7.5/24"]);
    near.reaches("7.7.7.5");
    far.reaches("7.7.7.4");
    for ip in ["7.7.7.4", "7.7.7.5"] {
        let [.., last] = overlay_lab::frame::default_mac(ip);
        blue.ip(&format!(
            "neigh add {ip} lladdr 02:42:07:07:07:{last:02x} dev eth0"
        ));
        let before = one.drops("destination_unknown");
        assert!(!blue.pings(ip, "-c 1 -W 1"));
        one.dropped("destination_unknown", before, 1);
    }
}
