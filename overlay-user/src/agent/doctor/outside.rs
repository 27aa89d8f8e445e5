//! Whether packets get out of the overlay.

use std::{collections::BTreeMap, net::Ipv4Addr};

use super::{DoctorView, Finding, NEARLY_FULL};
use crate::{
    agent::outside::WayOut,
    model::{Name, Outside, OutsideFlow, PortMapping, Resource as _, Router, RouterPort},
    reconcile::View,
};

/// Whether any router leads out of the overlay.
pub(super) fn is_wanted(view: &View) -> bool {
    let mut routers = view.mirror.objects().filter_map(Router::known);
    routers.any(|router| router.outside != Outside::None)
}

/// So many conversations of an external address without one answer are no accident.
const UNANSWERED: usize = 8;

/// Names pools that run out.
pub(super) fn judge_pools(found: &mut DoctorView, pools: &BTreeMap<Name, [u64; 2]>) {
    for (pool, [used, blocks]) in pools {
        let subject = format!("pool {pool}");
        if used * 100 < blocks * NEARLY_FULL {
            found.pass(subject);
            continue;
        }
        found.find(Finding::warning(
            subject,
            format_args!("{used} of its {blocks} blocks of ports are taken"),
            "make a larger pool and set it with `overlay network set --snat`: without a block an endpoint does not get out",
        ));
    }
}

/// Names external addresses that nobody answers to: a provider that lets no foreign source out, or no route back.
pub(super) fn judge_answers(
    found: &mut DoctorView,
    mappings: &[PortMapping],
    flows: &[OutsideFlow],
) {
    let mut asked: BTreeMap<Ipv4Addr, usize> = BTreeMap::new();
    for mapping in mappings {
        *asked.entry(mapping.ip).or_default() += 1;
    }
    let is_answered = |ip: &Ipv4Addr| flows.iter().any(|flow| flow.ip == *ip);
    for (ip, count) in asked {
        let subject = format!("outside as {ip}");
        if count < UNANSWERED || is_answered(&ip) {
            found.pass(subject);
            continue;
        }
        found.find(Finding::warning(
            subject,
            format_args!("endpoints of this host use {count} of its ports, and nothing comes back to any"),
            "see that the network beyond the uplink lets packets from this address out, and has a route or an ARP \
             request for it come to this host",
        ));
    }
}

/// Names gateways whose address an endpoint has too.
pub(super) fn judge_gateways(found: &mut DoctorView, view: &View) {
    for port in view.mirror.objects().filter_map(RouterPort::known) {
        for address in &port.addresses {
            if let Some(endpoint) = view.mirror.by_ip(port.vni, address.addr()) {
                found.find(Finding::problem(
                    format_args!("gateway {} of VNI {}", address.addr(), port.vni),
                    format_args!("endpoint {} has the address too", endpoint.name()),
                    "give the endpoint another, or attach the router with another: the endpoint is what hosts find",
                ));
            }
        }
    }
}

/// Names what keeps packets from getting out.
pub(super) fn judge_way_out(found: &mut DoctorView, way_out: &WayOut, is_wanted: bool) {
    if !is_wanted {
        return;
    }
    let mut is_fine = true;
    if let Some(problem) = &way_out.problem {
        is_fine = false;
        found.find(Finding::problem(
            "uplink",
            format_args!("{problem}: endpoints of this host do not reach the outside"),
            "bring the interface up, or name another with --uplink",
        ));
    }
    for (endpoint, reason) in &way_out.without_block {
        is_fine = false;
        found.find(Finding::problem(
            format_args!("outside of {endpoint}"),
            reason,
            "make a larger pool and set it with `overlay network set --snat`, or remove endpoints",
        ));
    }
    if is_fine {
        found.pass("uplink");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn findings(found: DoctorView) -> Vec<String> {
        let findings = found.findings.into_iter();
        findings
            .map(|it| format!("{}: {}", it.subject, it.message))
            .collect()
    }

    #[test]
    fn a_pool_is_told_of_before_it_has_run_out() {
        let pools = [("low", [427, 504]), ("high", [429, 504])];
        let pools = pools.map(|(name, blocks)| (name.parse().unwrap(), blocks));
        let mut found = DoctorView::default();
        judge_pools(&mut found, &BTreeMap::from(pools));
        let expected = ["pool high: 429 of its 504 blocks of ports are taken"];
        assert_eq!(findings(found), expected);
    }

    #[test]
    fn an_external_address_without_one_answer_is_told_of_and_one_with_an_answer_is_not() {
        let mapping = |ip: &str| PortMapping {
            protocol: 6,
            ifindex: 7,
            own: "7.7.7.2".parse().unwrap(),
            own_port: 40_000,
            ip: ip.parse().unwrap(),
            port: 2048,
            established: 0,
            idle_s: 1,
        };
        let flow = OutsideFlow {
            protocol: 6,
            ifindex: Some(7),
            own: "7.7.7.2".parse().unwrap(),
            own_port: 40_000,
            remote: "198.51.100.9".parse().unwrap(),
            remote_port: 443,
            ip: "203.0.113.9".parse().unwrap(),
            port: 2048,
            state: "open",
            idle_s: 1,
        };
        let of = |ip: &str, count| vec![mapping(ip); count];
        let mappings = [
            of("203.0.113.8", 8),
            of("203.0.113.9", 20),
            of("203.0.113.10", 7),
        ];
        let mut found = DoctorView::default();
        judge_answers(&mut found, &mappings.concat(), &[flow]);
        let expected = [
            "outside as 203.0.113.8: endpoints of this host use 8 of its ports, and nothing comes back to any",
        ];
        assert_eq!(findings(found), expected);
    }
}
