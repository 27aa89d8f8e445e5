//! Checks rows against the registry's rules when they are read.
//!
//! They are checked on writing too, but other tools, versions and hosts write to the registry as well.

use crate::{
    model::{Endpoint, KnownKind, Network, Node, Object, Rejected, RowId},
    registry::{RegistryError, rules},
};

/// Takes networks out that break a rule.
pub(super) fn networks(networks: &mut Vec<Network>, rejected: &mut Vec<Rejected>) {
    networks.retain(|network| {
        passes(rules::check_network(network), rejected, || {
            RowId::Network(network.vni)
        })
    });
}

/// Takes nodes out that break a rule, or claim to have the VTEP of `own`, which is this host.
pub(super) fn nodes(nodes: &mut Vec<Node>, own: &Node, rejected: &mut Vec<Rejected>) {
    nodes.retain(|node| {
        let mut checked = rules::check_node(node);
        if node.name != own.name && node.vtep.ip == own.vtep.ip {
            checked = Err(RegistryError::Refused(format!(
                "VTEP {} is that of this host, which is node {}",
                node.vtep, own.name
            )));
        }
        passes(checked, rejected, || RowId::Node(node.name.clone()))
    });
}

/// Takes endpoints out that break a rule of their network; of one that is unknown there are none.
pub(super) fn endpoints<'a>(
    endpoints: &mut Vec<Endpoint>,
    network: impl Fn(&Endpoint) -> Option<&'a Network>,
    rejected: &mut Vec<Rejected>,
) {
    endpoints.retain(|endpoint| {
        let checked =
            network(endpoint).map_or(Ok(()), |network| rules::check_addresses(endpoint, network));
        passes(checked, rejected, || RowId::Endpoint(endpoint.name.clone()))
    });
}

/// Takes objects of known kinds out that make no sense.
pub(super) fn objects(
    objects: &mut Vec<Object>,
    kinds: &[KnownKind],
    rejected: &mut Vec<Rejected>,
) {
    objects.retain(|object| match object.check(kinds) {
        Ok(()) => true,
        Err(reason) => {
            rejected.push(reason);
            false
        }
    });
}

fn passes(
    checked: Result<(), RegistryError>,
    rejected: &mut Vec<Rejected>,
    row: impl FnOnce() -> RowId,
) -> bool {
    match checked {
        Ok(()) => true,
        Err(error) => {
            rejected.push(Rejected::new(row(), error));
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::{Name, Vtep};

    fn node(name: &str, ip: &str) -> Node {
        let vtep = Vtep {
            ip: ip.parse().unwrap(),
            port: 4789,
        };
        Node::new(name.parse::<Name>().unwrap(), vtep, true)
    }

    #[test]
    fn nodes_whose_vtep_nobody_can_be_behind_are_taken_out() {
        let own = node("h1", "10.0.0.1");
        let mut all = vec![
            own.clone(),
            node("good", "10.0.0.2"),
            node("loopback", "127.0.0.1"),
            node("nowhere", "0.0.0.0"),
            node("group", "224.0.0.1"),
            node("me", "10.0.0.1"),
        ];
        let mut rejected = Vec::new();
        nodes(&mut all, &own, &mut rejected);
        let names: Vec<_> = all.iter().map(|node| node.name.as_str()).collect();
        assert_eq!(names, ["h1", "good"]);
        assert_eq!(rejected.len(), 4, "{rejected:?}");
    }

    #[test]
    fn endpoints_outside_their_network_are_taken_out() {
        let network = Network {
            subnets: vec!["7.7.7.0/24".parse().unwrap()],
            ..Network::new("n".parse().unwrap(), "42".parse().unwrap())
        };
        let endpoint = |name: &str, ip: &str| Endpoint {
            name: name.parse().unwrap(),
            vni: network.vni,
            mac: "02:42:07:07:07:02".parse().unwrap(),
            addresses: vec![ip.parse().unwrap()],
            node: "h1".parse().unwrap(),
            attachment: None,
            generation: 1,
        };
        let mut all = vec![
            endpoint("in", "7.7.7.2/24"),
            endpoint("out", "8.8.8.8/24"),
            endpoint("loopback", "127.0.0.1/8"),
        ];
        let mut rejected = Vec::new();
        endpoints(&mut all, |_| Some(&network), &mut rejected);
        assert_eq!(all.len(), 1);
        assert_eq!(rejected.len(), 2, "{rejected:?}");
    }
}
