//! A million endpoints: measurements, to be run one at a time with
//! `cargo test --release -p overlay-tests --test registry -- --ignored --nocapture scale::NAME`.

use std::{
    fs,
    time::{Duration, Instant},
};

use overlay_user::{
    model::{Attachment, Change, Endpoint, Mac, Resolve, Wanted},
    registry::{self, Registry, Scope},
};

use crate::{
    etcd::{Etcd, Options},
    fixture::{Fixture, endpoint, name, network, next_delta, node, vni},
};

const ENDPOINTS: u32 = 1_000_000;

fn numbered(number: u32, networks: u32) -> Endpoint {
    let [_, b, c, d] = number.to_be_bytes();
    let text = format!("endpoint-{number}");
    Endpoint {
        vni: vni(1 + number % networks),
        mac: Mac::try_from([2, 0x42, 10, b, c, d]).unwrap(),
        addresses: vec![format!("10.{b}.{c}.{d}/8").parse().unwrap()],
        node: name(&format!("h{}", number % 200)),
        attachment: Some(Attachment::veth(name(&text), "eth0".parse().unwrap())),
        ..endpoint(&text, 0)
    }
}

/// An export of so many endpoints.
fn file(networks: u32) -> Vec<u8> {
    let mut file = Vec::new();
    let mut line = |value: serde_json::Value| {
        serde_json::to_writer(&mut file, &value).unwrap();
        file.push(b'\n');
    };
    line(serde_json::json!({"registry": {"format": 1, "revision": 1}}));
    for number in 1..=networks {
        line(serde_json::json!({"network": network(number, &["10.0.0.0/8"])}));
    }
    for number in 0..200 {
        line(
            serde_json::json!({"node": node(&format!("h{number}"), &format!("192.0.2.{number}"))}),
        );
    }
    for number in 0..ENDPOINTS {
        line(serde_json::json!({"endpoint": numbered(number, networks)}));
    }
    line(serde_json::json!({"end": {"networks": networks, "nodes": 200, "endpoints": ENDPOINTS}}));
    file
}

fn resident_kib() -> u64 {
    let status = fs::read_to_string("/proc/self/status").unwrap();
    let line = status
        .lines()
        .find(|line| line.starts_with("VmRSS"))
        .unwrap();
    line.split_whitespace().nth(1).unwrap().parse().unwrap()
}

async fn measure(registry: &dyn Registry, networks: u32) {
    for (what, scope) in [
        ("all", Scope::All),
        ("all again", Scope::All),
        ("resident", Scope::Resident(name("h7"))),
        ("one network", Scope::Network(vni(1))),
    ] {
        let (begin, before) = (Instant::now(), resident_kib());
        let mut reading = registry.read(scope).await.unwrap();
        let head = begin.elapsed();
        let (mut count, mut peak) = (0, 0);
        while let Some(page) = reading.endpoints.recv().await {
            count += page.unwrap().len();
            peak = peak.max(resident_kib());
        }
        println!(
            "read {what}: {count} in {:?} (head {head:?}), memory +{} MB",
            begin.elapsed(),
            peak.saturating_sub(before) / 1024
        );
    }
    let mut times = Vec::new();
    for number in (0..ENDPOINTS).step_by(2003) {
        let wanted = numbered(number, networks);
        let begin = Instant::now();
        let found = registry
            .find(wanted.vni, Wanted::Mac(wanted.mac))
            .await
            .unwrap();
        times.push(begin.elapsed());
        assert_eq!(found.unwrap().name, wanted.name);
    }
    percentiles("find by MAC", times);
    let mut events = registry.watch().await.unwrap();
    let (mut commits, mut deltas) = (Vec::new(), Vec::new());
    for number in ENDPOINTS..ENDPOINTS + 500 {
        let begin = Instant::now();
        let change = Change::CreateEndpoint(numbered(number, networks));
        registry.commit(&[change]).await.unwrap();
        commits.push(begin.elapsed());
        next_delta(&mut events).await;
        deltas.push(begin.elapsed());
    }
    percentiles("commit of one", commits);
    percentiles("commit until its delta", deltas);
    let begin = Instant::now();
    let net = network(1, &["10.0.0.0/8"]);
    let free = registry.next_ip(&net, &[].into()).await.unwrap();
    println!("next free address {free:?}: {:?}", begin.elapsed());
}

fn percentiles(what: &str, mut times: Vec<Duration>) {
    times.sort_unstable();
    let at = |percent: usize| times[(times.len() - 1) * percent / 100];
    println!(
        "{what}: p50 {:?}, p99 {:?}, max {:?}",
        at(50),
        at(99),
        at(100)
    );
}

async fn fill(registry: &dyn Registry, networks: u32) {
    let file = file(networks);
    let begin = Instant::now();
    let imported = registry::import(registry, file.as_slice()).await.unwrap();
    assert_eq!(
        (imported.made.endpoints, imported.refused),
        (u64::from(ENDPOINTS), 0)
    );
    println!(
        "import of {ENDPOINTS} in {networks} networks ({} MB): {:?}",
        file.len() >> 20,
        begin.elapsed()
    );
}

async fn in_etcd(networks: u32) {
    let etcd = Etcd::start(Options {
        quota: 8 << 30,
        ..Options::default()
    });
    let fixture = Fixture::Etcd(Box::new(etcd));
    let registry = fixture.open().await;
    fill(&*registry, networks).await;
    measure(&*registry, networks).await;
    let Fixture::Etcd(etcd) = &fixture else {
        unreachable!()
    };
    println!("{}", etcd.does("endpoint status --write-out table"));
    println!("etcd's resident memory: {} MB", etcd.resident_kib(0) / 1024);
    let begin = Instant::now();
    let found = registry::check(&*registry, false).await.unwrap();
    println!("check: {:?}, {} findings", begin.elapsed(), found.count);
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of some minutes: run it with --release --nocapture"]
async fn a_million_in_a_thousand_networks_in_etcd() {
    in_etcd(1000).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of some minutes: run it with --release --nocapture"]
async fn a_million_in_one_network_in_etcd() {
    in_etcd(1).await;
}

#[tokio::test(flavor = "multi_thread")]
#[ignore = "a measurement of some minutes: run it with --release --nocapture"]
async fn a_million_in_a_thousand_networks_in_sqlite() {
    let fixture = Fixture::sqlite();
    let registry = fixture.open().await;
    fill(&*registry, 1000).await;
    measure(&*registry, 1000).await;
    let on_demand = overlay_user::model::Network {
        resolve: Resolve::OnDemand,
        ..network(5000, &[])
    };
    registry
        .commit(&[Change::CreateNetwork(on_demand)])
        .await
        .unwrap();
    measure_resident(&*registry).await;
    let begin = Instant::now();
    let found = registry::check(&*registry, false).await.unwrap();
    println!("check: {:?}, {} findings", begin.elapsed(), found.count);
}

async fn measure_resident(registry: &dyn Registry) {
    let begin = Instant::now();
    let mut reading = registry.read(Scope::Resident(name("h7"))).await.unwrap();
    let mut count = 0;
    while let Some(page) = reading.endpoints.recv().await {
        count += page.unwrap().len();
    }
    println!(
        "resident beside an on-demand network: {count} in {:?}",
        begin.elapsed()
    );
}
