//! `overlay explain`: runs a packet through the programs of its sender's host and its receiver's, and tells why.

use std::{collections::BTreeMap, fmt::Write as _, net::IpAddr, sync::Arc, time::Duration};

use super::{
    api::{ErrorKind, Fate, OperationError, Step},
    ping::refused,
    service::{Agent, names_of},
};
use crate::{
    datapath::{DatapathError, Tracer, Tracing},
    model::{
        Answer, Explain, Explained, Ingress, Inquiry, Leg, Name, Node, Resource as _, RouterPort,
        Traced, TracedForward, TracedStep, TracedVerdict,
    },
    reconcile::mirror::EndpointRef,
};

mod frames;

use frames::Packet;

/// How long another host may take: its programs have to be loaded.
const PATIENCE: Duration = Duration::from_secs(15);

/// The host that explains: its name, and its endpoints by their interfaces.
struct Here {
    node: Name,
    endpoints: BTreeMap<u32, Name>,
}

/// A packet of an endpoint of this host.
struct Sent {
    ifindex: u32,
    /// Who is asked for the MAC: the destination, or the gateway.
    next_hop: IpAddr,
    packet: Packet,
}

impl Agent {
    /// Explains what becomes of a packet, wherever its endpoint is.
    pub(super) async fn explain(&self, request: &Explain) -> Result<Explained, OperationError> {
        let name = &request.endpoint;
        let endpoint = self.registry.find_endpoint(name).await?;
        let endpoint = endpoint.ok_or_else(|| {
            OperationError::new(
                ErrorKind::NotFound,
                format_args!("there is no endpoint {name}: see `overlay endpoint ls`"),
            )
        })?;
        if endpoint.node == self.config.node {
            return self.explain_from_here(request).await;
        }
        let inquiry = Inquiry::Explain {
            node: endpoint.node.clone(),
            packet: request.clone(),
        };
        match self.inquire_of(&endpoint.node, inquiry, PATIENCE).await? {
            Some(Answer::Explained(explained)) => Ok(*explained),
            Some(Answer::Failed(why)) => Err(refused(why)),
            _ => Err(OperationError::new(
                ErrorKind::Unavailable,
                format_args!(
                    "endpoint {name} is on node {}, whose agent does not answer: see `overlay doctor`; if it is \
                     older than this one, run `overlay explain` there",
                    endpoint.node
                ),
            )),
        }
    }

    /// Explains what becomes of a packet of an endpoint of this host.
    pub(super) async fn explain_from_here(
        &self,
        request: &Explain,
    ) -> Result<Explained, OperationError> {
        let sent = self.sent(request).await?;
        let (here, packet) = (self.here().await, sent.packet.to_string());
        let (mut legs, last) = self
            .trace(move |tracing| follow(tracing, &here, &sent))
            .await?;
        if let (
            Some(Leg {
                fate: Fate::Tunnelled,
                ..
            }),
            Some(last),
        ) = (legs.last(), last)
        {
            legs.push(self.arrival(&last).await?);
        }
        Ok(Explained {
            from: request.endpoint.clone(),
            node: self.config.node.clone(),
            packet,
            passes: legs.last().map_or(Some(false), |leg| leg.fate.is_good()),
            legs,
        })
    }

    /// Explains what becomes of a tunnel packet for this host.
    pub(super) async fn explain_arrival(&self, frame: &str) -> Result<Leg, OperationError> {
        let mut frame = from_hex(frame).ok_or_else(|| refused("the frame is damaged"))?;
        frames::address_to(&mut frame, self.underlay.mac);
        let here = self.here().await;
        self.trace(move |tracing| {
            let traced = tracing.run(Ingress::Underlay, &frame)?;
            Ok(leg(&here, &frame, &traced))
        })
        .await
    }

    async fn here(&self) -> Here {
        let view = self.observer.view().await;
        Here {
            node: self.config.node.clone(),
            endpoints: names_of(&view).endpoints,
        }
    }

    /// The packet, and how its endpoint would send it.
    async fn sent(&self, request: &Explain) -> Result<Sent, OperationError> {
        let name = &request.endpoint;
        let destination = request.destination.to_canonical();
        let view = self.observer.view().await;
        let known = view.mirror.endpoint(name).filter(EndpointRef::is_local);
        let (Some(local), Some(ifindex)) = (known, view.ifindex(name)) else {
            return Err(refused(format_args!(
                "endpoint {name} is not ready on node {}: see `overlay endpoint show {name}`",
                self.config.node
            )));
        };
        let mut own = local.addresses();
        let of_family = |ip: IpAddr| ip.is_ipv4() == destination.is_ipv4();
        let source = own
            .find(|address| of_family(address.addr()))
            .ok_or_else(|| {
                refused(format_args!(
                    "endpoint {name} has no address of the family of {destination}"
                ))
            })?;
        if local.ips().any(|ip| ip == destination) {
            return Err(refused(format_args!(
                "{destination} is endpoint {name}'s own: the packet would not leave it"
            )));
        }
        let next_hop = if local.addresses().any(|it| it.contains(&destination)) {
            destination
        } else {
            let port = view.mirror.object(&RouterPort::id(local.vni().into()));
            let port = port.and_then(RouterPort::known);
            let gateways = port.map(|port| port.gateways()).unwrap_or_default();
            gateways.into_iter().find(|ip| of_family(*ip)).ok_or_else(|| {
                refused(format_args!(
                    "{destination} is in no subnet of endpoint {name}'s, and its network has no gateway: see \
                     `overlay router attach --help`"
                ))
            })?
        };
        Ok(Sent {
            ifindex,
            next_hop,
            packet: Packet {
                mac: local.mac(),
                source: source.addr(),
                destination,
                protocol: request.protocol,
                ports: (
                    request.source_port.unwrap_or(40_000),
                    request.port.unwrap_or(0),
                ),
            },
        })
    }

    /// Asks the host that a tunnel packet is for.
    async fn arrival(&self, frame: &[u8]) -> Result<Leg, OperationError> {
        let vtep = frames::destination(frame);
        let nodes = self.registry.nodes().await?;
        let node = nodes
            .into_iter()
            .find(|node| vtep.is_some_and(|vtep| node.vtep.ip == vtep));
        let unknown = |node: &Name, message: String| Leg {
            node: node.clone(),
            frame: frames::describe(frame),
            steps: Vec::new(),
            fate: Fate::Unknown,
            reason: None,
            message,
        };
        let node = match node {
            None => {
                return Err(refused(format_args!(
                    "no node has the VTEP that the packet is for: see `overlay verify`"
                )));
            }
            Some(Node {
                name, agent: false, ..
            }) => {
                let message = "no agent runs there: what its VTEP does is not known";
                return Ok(unknown(&name, message.to_owned()));
            }
            Some(node) => node.name,
        };
        let inquiry = Inquiry::Arrival {
            node: node.clone(),
            frame: to_hex(frame),
        };
        match self.inquire_of(&node, inquiry, PATIENCE).await? {
            Some(Answer::Arrived(leg)) => Ok(*leg),
            Some(Answer::Failed(why)) => Ok(unknown(&node, format!("its agent: {why}"))),
            _ => {
                let message =
                    "its agent does not answer, or is older than this one: see `overlay doctor`";
                Ok(unknown(&node, message.to_owned()))
            }
        }
    }

    /// Loads the programs that tell, and has something done with them.
    async fn trace<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Tracing) -> Result<T, DatapathError> + Send + 'static,
    ) -> Result<T, OperationError> {
        let tracer: Arc<dyn Tracer> = Arc::clone(&self.tracer);
        self.maps
            .wait_for(move || work(&mut tracer.tracing()?))
            .await
    }
}

/// The legs at the sender's host, and what the packet had become in the end.
fn follow(
    tracing: &mut Tracing,
    here: &Here,
    sent: &Sent,
) -> Result<(Vec<Leg>, Option<Vec<u8>>), DatapathError> {
    let ingress = Ingress::Endpoint(sent.ifindex);
    let question = sent.packet.question(sent.next_hop);
    let asked = tracing.run(ingress, &question)?;
    let first = leg(here, &question, &asked);
    let mac = frames::source_mac(&asked.frame).filter(|_| first.fate == Fate::Answered);
    let Some(mac) = mac else {
        return Ok((vec![first], None));
    };
    let frame = sent.packet.frame_to(mac);
    let traced = tracing.run(ingress, &frame)?;
    let second = leg(here, &frame, &traced);
    Ok((vec![first, second], Some(traced.frame)))
}

/// Tells of a frame's way through one host.
fn leg(here: &Here, frame: &[u8], traced: &Traced) -> Leg {
    let mut steps = Vec::new();
    let mut program = "";
    for step in &traced.steps {
        match step {
            TracedStep::Program(next) => {
                if !program.is_empty() {
                    steps.push(Step {
                        program: program.to_owned(),
                        table: "calls".to_owned(),
                        key: String::new(),
                        row: Some((*next).to_owned()),
                    });
                }
                program = next;
            }
            TracedStep::Looked {
                table, key, row, ..
            } => {
                let step = Step {
                    program: program.to_owned(),
                    table: (*table).to_owned(),
                    key: key.clone(),
                    row: row.clone(),
                };
                // Once is enough of what a program looks up twice in a row.
                if steps.last() != Some(&step) {
                    steps.push(step);
                }
            }
            TracedStep::Dropped(..) => {}
        }
    }
    let (fate, reason, message) = outcome(here, frame, traced);
    Leg {
        node: here.node.clone(),
        frame: frames::describe(frame),
        steps,
        fate,
        reason,
        message,
    }
}

/// What came of a frame, why it goes no further, and both in a line.
fn outcome(here: &Here, frame: &[u8], traced: &Traced) -> (Fate, Option<String>, String) {
    let dropped = traced.steps.iter().rev().find_map(|step| match step {
        TracedStep::Dropped(name, meaning) => Some((*name, *meaning)),
        _ => None,
    });
    let called = |wanted: &str| {
        let mut steps = traced.steps.iter();
        steps.any(|step| matches!(step, TracedStep::Program(name) if *name == wanted))
    };
    let forward = traced.steps.iter().rev().find_map(|step| match step {
        TracedStep::Looked { forward, .. } => *forward,
        _ => None,
    });
    let becomes = frames::describe(&traced.frame);
    let reason = dropped.map(|(name, _)| name.to_owned());
    let why = dropped.map_or("no program says why", |(_, meaning)| meaning);
    match (traced.verdict, forward) {
        (TracedVerdict::Drop, _) if called("punt") && dropped.is_none() => {
            (Fate::Punted, None, "the agent answers it".to_owned())
        }
        (TracedVerdict::Drop, _) => (Fate::Dropped, reason, format!("dropped: {why}")),
        (TracedVerdict::Pass, _) => (
            Fate::Passed,
            None,
            "left to the host's own stack: it is not the overlay's".to_owned(),
        ),
        (TracedVerdict::Redirect, _) if called("icmp_error") => (
            Fate::Refused,
            reason,
            match dropped {
                Some((_, meaning)) => format!("refused: {meaning} The sender gets {becomes}"),
                None => format!("refused: the sender gets {becomes}"),
            },
        ),
        (TracedVerdict::Redirect, Some(TracedForward::Interface(ifindex))) => (
            Fate::Delivered,
            None,
            match here.endpoints.get(&ifindex) {
                Some(endpoint) => format!("delivered to {endpoint}: {becomes}"),
                None => format!("delivered by the interface with index {ifindex}: {becomes}"),
            },
        ),
        (TracedVerdict::Redirect, Some(TracedForward::Tunnel)) => (
            Fate::Tunnelled,
            None,
            format!("sent in a tunnel: {becomes}"),
        ),
        (TracedVerdict::Redirect, None) if frames::is_turned_round(frame, &traced.frame) => {
            (Fate::Answered, None, format!("answered: {becomes}"))
        }
        (TracedVerdict::Redirect, None) => {
            (Fate::Left, None, format!("leaves by the uplink: {becomes}"))
        }
    }
}

fn to_hex(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

fn from_hex(text: &str) -> Option<Vec<u8>> {
    let digits = text.as_bytes().chunks(2);
    digits
        .map(|two| u8::from_str_radix(str::from_utf8(two).ok()?, 16).ok())
        .collect()
}
