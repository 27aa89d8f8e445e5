//! Programs on interfaces: nothing of others' stands before ours unnoticed, and what is taken off
//! comes back.

use aya::{
    Ebpf,
    programs::{LinkOrder, SchedClassifier, TcAttachType, tc::TcAttachOptions},
};
use overlay_ebpf::abi::program::INJECT;
use overlay_lab::{Agent, Lab, Netns, until};
use overlay_user::datapath::OBJECT;

const INGRESS: TcAttachType = TcAttachType::Ingress;

/// Another owner's program at an interface's ingress, before all others. It goes with the value.
fn stranger(netns: &Netns, interface: &str) -> Ebpf {
    netns.enter(|| {
        let mut ebpf = Ebpf::load(OBJECT).unwrap();
        let program: &mut SchedClassifier = ebpf.program_mut(INJECT).unwrap().try_into().unwrap();
        program.load().unwrap();
        let first = TcAttachOptions::TcxOrder(LinkOrder::first());
        program
            .attach_with_options(interface, INGRESS, first)
            .unwrap();
        ebpf
    })
}

/// What doctor says, a line for each finding.
fn findings(agent: &Agent) -> Vec<String> {
    let run = agent.overlay("-o json doctor");
    let document: serde_json::Value = serde_json::from_str(&run.stdout).unwrap();
    let findings = document["findings"].as_array().unwrap().iter();
    findings
        .map(|finding| format!("{}: {}", finding["subject"], finding["message"]))
        .collect()
}

#[test]
fn doctor_names_programs_that_run_before_ours() {
    let lab = Lab::new();
    let [host] = lab.hosts();
    let agent = Agent::start(&lab, &host, "--vni 42");
    if agent.json("status")["datapath"]["attach"] != "tcx" {
        println!("skipped: this kernel has no tcx");
        return;
    }
    agent.endpoint(&lab.name("blue"), 42, &["7.7.7.2/24"]);
    let about = |interface: &str| -> Vec<String> {
        let mut findings = findings(&agent);
        findings.retain(|finding| finding.contains(interface) && finding.contains(INJECT));
        findings
    };
    let links = host.netns.links();
    let port = links
        .iter()
        .find(|name| *name != "u0" && is_veth(&host.netns, name))
        .unwrap_or_else(|| panic!("{links:?}"));
    for interface in ["u0", port] {
        assert_eq!(about(interface), Vec::<String>::new());
        let stranger = stranger(&host.netns, interface);
        assert_eq!(about(interface).len(), 1, "{:?}", findings(&agent));
        drop(stranger);
        until("it is gone", || about(interface).is_empty());
    }
}

fn is_veth(netns: &Netns, name: &str) -> bool {
    netns
        .ip(&format!("-d -j link show dev {name}"))
        .contains("\"veth\"")
}
