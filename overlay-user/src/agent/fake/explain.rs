//! What the fake agent says of a packet.

use crate::agent::api::{Explain, ExplainProtocol, Explained, Fate, Leg, Step};

pub(super) fn explained(request: &Explain) -> Explained {
    let is_known = request.protocol == ExplainProtocol::Icmp;
    let packet = format!("icmp echo request 7.7.7.2 > {}", request.destination);
    let leg = Leg {
        node: "h1".parse().unwrap(),
        frame: packet.clone(),
        steps: vec![Step {
            program: "endpoint_ingress".to_owned(),
            table: "fdb".to_owned(),
            key: "vni 42, 02:42:07:07:07:03".to_owned(),
            row: is_known.then(|| "local, ov3 (12)".to_owned()),
        }],
        fate: if is_known {
            Fate::Delivered
        } else {
            Fate::Dropped
        },
        reason: (!is_known).then(|| "destination_unknown".to_owned()),
        message: if is_known {
            format!("delivered to db: {packet}")
        } else {
            "dropped: No endpoint of the network has the destination MAC.".to_owned()
        },
    };
    Explained {
        from: request.endpoint.clone(),
        node: leg.node.clone(),
        packet,
        passes: Some(is_known),
        legs: vec![leg],
    }
}
