//! Limits of endpoints, and who has them: objects of the registry.

use serde::{Deserialize, Serialize};

use super::{
    BitRate, ByteSize, Direction, Dscp, Key, Kind, MeterRow, Name, ObjectId, Reference, Resource,
    Vni,
};

/// A frame that would depart so much too late is marked for congestion, nanoseconds.
const MARK_NS: u32 = 5_000_000;
/// One that would depart so much too late is dropped, nanoseconds.
const DROP_NS: u32 = 50_000_000;

const SECOND: u128 = 1_000_000_000;
/// What an idle endpoint saves up unless it is said: as long as TCP waits before it sends again what was lost
/// (`TCP_RTO_MIN`). With less, a connection that lost its last packets has less than the rate.
const BURST_NS: u64 = 200_000_000;

/// What endpoints may send and receive, each.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Qos {
    /// Its name; unique.
    pub name: Name,
    /// How much one may send.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub egress: Option<BitRate>,
    /// How much it may receive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ingress: Option<BitRate>,
    /// What may pass at once after a pause; `None`: what follows from the rate.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub burst: Option<ByteSize>,
    /// How many packets it may send in a second, and receive.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub pps: Option<u32>,
    /// The DSCP of what it sends.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub dscp: Option<Dscp>,
    /// The priority of what it sends to other hosts.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
}

impl Qos {
    /// What it means for a direction. `None`: nothing.
    #[must_use]
    pub fn meter(&self, direction: Direction) -> Option<MeterRow> {
        let (rate, dscp, priority) = match direction {
            Direction::Sent => (self.egress, self.dscp, self.priority),
            Direction::Received => (self.ingress, None, None),
        };
        if rate.is_none() && self.pps.is_none() && dscp.is_none() && priority.is_none() {
            return None;
        }
        Some(MeterRow {
            rate: rate.map_or(0, BitRate::get),
            burst_ns: self.burst_ns(rate),
            packet_rate: self.pps.unwrap_or(0),
            mark_ns: MARK_NS,
            drop_ns: DROP_NS,
            dscp: dscp.map(Dscp::get),
            priority: priority.unwrap_or(0),
        })
    }

    /// How long the burst takes at a rate.
    fn burst_ns(&self, rate: Option<BitRate>) -> u64 {
        let (Some(rate), Some(burst)) = (rate, self.burst) else {
            return BURST_NS;
        };
        let ns = u128::from(burst.get()) * 8 * SECOND / u128::from(rate.get());
        u64::try_from(ns).unwrap_or(u64::MAX)
    }
}

impl Resource for Qos {
    const KIND: Kind = Kind::new("qos");

    fn key(&self) -> Key {
        (&self.name).into()
    }

    fn check(&self) -> Result<(), String> {
        if self.pps == Some(0) {
            return Err("0 packets in a second would let nothing pass".to_owned());
        }
        Ok(())
    }
}

/// Who has a [`Qos`].
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QosSubject {
    /// This endpoint.
    Endpoint(Name),
    /// Each endpoint of this network that has none itself.
    Network(Vni),
}

impl QosSubject {
    /// Which binding is its.
    #[must_use]
    pub fn binding(&self) -> ObjectId {
        QosBinding::id(self.key())
    }

    fn key(&self) -> Key {
        match self {
            Self::Endpoint(name) => Key::new("endpoint").join(&name.into()),
            Self::Network(vni) => Key::new("network").join(&(*vni).into()),
        }
    }

    fn id(&self) -> ObjectId {
        match self {
            Self::Endpoint(name) => ObjectId::of_endpoint(name),
            Self::Network(vni) => ObjectId::of_network(*vni),
        }
    }
}

/// That an endpoint or a network has a [`Qos`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct QosBinding {
    /// Who has it.
    #[serde(flatten)]
    pub subject: QosSubject,
    /// What it has.
    pub qos: Name,
}

impl Resource for QosBinding {
    const KIND: Kind = Kind::new("qos-binding");

    fn key(&self) -> Key {
        self.subject.key()
    }

    fn references(&self) -> Vec<Reference> {
        vec![
            Reference::cascade(self.subject.id()),
            Reference::restrict(Qos::id((&self.qos).into())),
        ]
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn qos() -> Qos {
        Qos {
            name: "gold".parse().unwrap(),
            egress: Some("10mbit".parse().unwrap()),
            ingress: None,
            burst: None,
            pps: None,
            dscp: Some("ef".parse().unwrap()),
            priority: Some(3),
        }
    }

    #[test]
    fn each_direction_has_what_is_said_of_it() {
        let sent = qos().meter(Direction::Sent).unwrap();
        assert_eq!(
            (sent.rate, sent.dscp, sent.priority),
            (10_000_000, Some(46), 3)
        );
        assert_eq!(qos().meter(Direction::Received), None);
        let qos = Qos {
            pps: Some(7),
            ..qos()
        };
        let received = qos.meter(Direction::Received).unwrap();
        assert_eq!(
            (received.rate, received.packet_rate, received.dscp),
            (0, 7, None)
        );
    }

    #[test]
    fn the_burst_follows_from_the_rate_unless_it_is_said() {
        let burst_ms = |rate: &str, burst: Option<&str>| {
            let qos = Qos {
                egress: Some(rate.parse().unwrap()),
                burst: burst.map(|burst| burst.parse().unwrap()),
                ..qos()
            };
            qos.meter(Direction::Sent).unwrap().burst_ns / 1_000_000
        };
        assert_eq!(burst_ms("10mbit", None), 200);
        assert_eq!(burst_ms("1bit", None), 200);
        assert_eq!(burst_ms("100gbit", None), 200);
        assert_eq!(burst_ms("8mbit", Some("1000")), 1);
        assert_eq!(burst_ms("1bit", Some("1gb")), 8_589_934_592_000);
    }

    #[test]
    fn a_binding_goes_with_its_endpoint_and_keeps_its_qos() {
        for (subject, key, body) in [
            (
                QosSubject::Endpoint("web".parse().unwrap()),
                "endpoint/web",
                serde_json::json!({"endpoint": "web", "qos": "gold"}),
            ),
            (
                QosSubject::Network("42".parse().unwrap()),
                "network/42",
                serde_json::json!({"network": 42, "qos": "gold"}),
            ),
        ] {
            let binding = QosBinding {
                subject,
                qos: "gold".parse().unwrap(),
            };
            let object = binding.to_object().unwrap();
            assert_eq!(object.id, binding.subject.binding());
            assert_eq!(object.id.key.as_str(), key);
            assert_eq!(serde_json::Value::Object(object.body.clone()), body);
            let references: Vec<_> = object.references.iter().collect();
            assert_eq!(references[0].target.to_word(), key);
            assert_eq!(references[1].target.to_word(), "qos/gold");
            assert_eq!(QosBinding::of(&object).unwrap(), binding);
        }
    }
}
