//! `overlay ping`: sends an echo from an endpoint or a host of the overlay to another, and says where it is lost.

use std::{net::IpAddr, time::Duration};

use futures_util::future::join_all;

use super::{
    api::{ErrorKind, OperationError, SendPing},
    paths, prober,
    service::Agent,
};
use crate::{
    model::{
        Answer, EchoKind, EchoRequest, Endpoint, Inquiry, Mac, Name, Node, Ping, PingSize,
        PingTarget, Pinged, ProbeRequest, Sighting, Vni, VtepAddr, Wanted,
    },
    reconcile::{desired::Local, mirror::EndpointRef},
};

mod lost;
mod networks;

/// How long an answer may take.
const REPLY_TIMEOUT: Duration = Duration::from_secs(1);
/// How long another host may take to send an echo and to say what became of it.
const ERRAND: Duration = Duration::from_secs(15);
/// Lengths that are tried at once where the longest is looked for, each of them twice.
const AT_ONCE: u16 = 16;
/// Bytes of the shortest packet that is sent, and of one whose size nobody has asked for: a ping's.
const SMALLEST: u16 = 64;
const USUAL: u16 = 84;

/// The sender or the target of an echo, as it was named.
enum Place {
    Endpoint(Endpoint),
    Host(Node),
}

/// How an echo gets to its target.
#[derive(Debug, Clone, Copy)]
enum Way {
    /// As the frames of an endpoint: behind this interface, from this MAC to that one.
    Endpoint(u32, Mac, Mac),
    /// As this host's own, to a VTEP and its port, and to an endpoint there if one is named.
    Host(VtepAddr, u16, Option<(Vni, Mac)>),
}

/// An echo that can be sent.
struct Route {
    way: Way,
    to_node: Node,
    /// What is told of it, apart from what became of it.
    pinged: Pinged,
}

impl Agent {
    /// Sends one echo, or as many as it takes to find the longest that passes.
    pub(super) async fn send_ping(&self, request: &SendPing) -> Result<Pinged, OperationError> {
        let nodes = self.registry.nodes().await?;
        let (node, ping) = self.whence(request, &nodes).await?;
        if node == self.config.node {
            return self.ping_from_here(&ping, nodes).await;
        }
        let inquiry = Inquiry::Ping {
            node: node.clone(),
            ping,
        };
        match self.inquire_of(&node, inquiry, ERRAND).await? {
            Some(Answer::Ping(pinged)) => Ok(*pinged),
            Some(Answer::Failed(why)) => Err(OperationError::new(ErrorKind::Refused, why)),
            _ => Err(OperationError::new(
                ErrorKind::Unavailable,
                format_args!(
                    "node {node} is to send the echo, and its agent does not answer: see `overlay doctor`; \
                     if it is older than this one, run `overlay ping` there"
                ),
            )),
        }
    }

    /// The node that is to send an echo, and which.
    async fn whence(
        &self,
        request: &SendPing,
        nodes: &[Node],
    ) -> Result<(Name, Ping), OperationError> {
        let from = match &request.from {
            Some(from) => Some(self.place(from, None, nodes).await?),
            None => None,
        };
        let sender = match &from {
            Some(Place::Endpoint(endpoint)) => Some(endpoint),
            _ => None,
        };
        let to = self.place(&request.to, sender, nodes).await?;
        let node = match &from {
            None => self.config.node.clone(),
            Some(Place::Host(node)) => node.name.clone(),
            Some(Place::Endpoint(endpoint)) => endpoint.node.clone(),
        };
        if nodes.iter().any(|known| known.name == node && !known.agent) {
            return Err(refused(format_args!(
                "node {node} has no agent that could send an echo: name the sender's end of the way as TO"
            )));
        }
        let ping = Ping {
            from: sender.map(|endpoint| endpoint.name.clone()),
            to: match to {
                Place::Endpoint(endpoint) => PingTarget::Endpoint(endpoint.name),
                Place::Host(node) => PingTarget::Host(node.name),
            },
            size: request.size.unwrap_or(PingSize::Bytes(USUAL)),
        };
        Ok((node, ping))
    }

    /// Resolves a name or an address; an address is one of the sender's network, if it is in one.
    async fn place(
        &self,
        named: &str,
        sender: Option<&Endpoint>,
        nodes: &[Node],
    ) -> Result<Place, OperationError> {
        if let Ok(ip) = named.parse::<IpAddr>() {
            return self.place_at(ip, sender, nodes).await;
        }
        let name: Name = named.parse().map_err(|error| {
            OperationError::new(
                ErrorKind::Usage,
                format_args!("{named:?} is neither an address nor a name: {error}"),
            )
        })?;
        let endpoint = self.registry.find_endpoint(&name).await?;
        let node = nodes.iter().find(|node| node.name == name).cloned();
        match (endpoint, node) {
            (Some(endpoint), None) => Ok(Place::Endpoint(endpoint)),
            (None, Some(node)) => Ok(Place::Host(node)),
            (Some(_), Some(node)) => Err(refused(format_args!(
                "{name} is an endpoint and a node: write the address of the one that is meant, {} is the node's",
                node.vtep.ip
            ))),
            (None, None) => Err(OperationError::new(
                ErrorKind::NotFound,
                format_args!(
                    "there is neither an endpoint nor a node {name}: see `overlay endpoint ls` and `overlay vtep ls`"
                ),
            )),
        }
    }

    async fn place_at(
        &self,
        ip: IpAddr,
        sender: Option<&Endpoint>,
        nodes: &[Node],
    ) -> Result<Place, OperationError> {
        let networks: Vec<Vni> = if let Some(endpoint) = sender {
            vec![endpoint.vni]
        } else {
            let view = self.observer.view().await;
            let networks = view.mirror.networks();
            networks.map(|network| network.vni).collect()
        };
        let mut found = Vec::new();
        for vni in networks {
            found.extend(self.registry.find(vni, Wanted::Ip(ip)).await?);
        }
        let node = nodes.iter().find(|node| node.vtep.ip == ip).cloned();
        match (found.len(), found.pop(), node) {
            (1, Some(endpoint), None) => Ok(Place::Endpoint(endpoint)),
            (0, _, Some(node)) => Ok(Place::Host(node)),
            (0, _, None) => Err(OperationError::new(
                ErrorKind::NotFound,
                match sender {
                    Some(sender) => format!(
                        "neither an endpoint of VNI {} nor a node has address {ip}: see `overlay endpoint ls --vni {}`",
                        sender.vni, sender.vni
                    ),
                    None => format!(
                        "neither an endpoint nor a node has address {ip}: see `overlay endpoint ls`"
                    ),
                },
            )),
            _ => Err(refused(format_args!(
                "more than one endpoint or node has address {ip}: write the name of the one that is meant"
            ))),
        }
    }

    /// Sends an echo from this host, to one of these nodes.
    pub(super) async fn ping_from_here(
        &self,
        ping: &Ping,
        nodes: Vec<Node>,
    ) -> Result<Pinged, OperationError> {
        let route = self.route(ping, nodes).await?;
        match ping.size {
            PingSize::Bytes(size) => self.ping_once(&route, size).await,
            PingSize::Auto => self.ping_longest(&route).await,
        }
    }

    async fn ping_once(&self, route: &Route, size: u16) -> Result<Pinged, OperationError> {
        let size = size.max(SMALLEST);
        let (id, sent) = self.send_one(&route.way, size).await?;
        let back = self.sightings.back(id, REPLY_TIMEOUT).await;
        let left = self.sightings.of(id).into_iter();
        let left = left.filter(|seen| seen.kind == EchoKind::Left);
        let left = left.map(|seen| seen.at).next().unwrap_or(sent);
        let rtt = back.map(|back| back.saturating_sub(left));
        let lost = match rtt {
            Some(_) => None,
            None => Some(self.where_lost(route, id, u32::from(size)).await),
        };
        Ok(Pinged {
            size: size.into(),
            rtt_us: rtt.and_then(|rtt| u64::try_from(rtt.as_micros()).ok()),
            lost,
            ..route.pinged.clone()
        })
    }

    /// The longest is looked for from above: as a rule all lengths pass.
    async fn ping_longest(&self, route: &Route) -> Result<Pinged, OperationError> {
        let usual = self.ping_once(route, USUAL).await?;
        if usual.lost.is_some() {
            return Ok(usual);
        }
        let longest = u16::try_from(route.pinged.expected).unwrap_or(u16::MAX);
        let (mut passes, mut fails) = (USUAL.min(longest), longest.saturating_add(1));
        if self.any_back(route, &[longest, longest]).await?.is_some() {
            passes = longest;
        }
        while passes.saturating_add(1) < fails && passes < longest {
            let step = ((fails - passes) / AT_ONCE).max(1);
            let lengths: Vec<u16> = (1..=AT_ONCE)
                .map(|count| passes.saturating_add(step * count))
                .filter(|length| *length < fails)
                .flat_map(|length| [length, length])
                .collect();
            let longest_back = self.any_back(route, &lengths).await?.unwrap_or(passes);
            let above = lengths.into_iter().find(|length| *length > longest_back);
            (passes, fails) = (longest_back, above.unwrap_or(fails));
        }
        Ok(Pinged {
            largest: Some(passes.into()),
            ..usual
        })
    }

    /// Sends echoes of these lengths at once. Gives the longest that came back.
    async fn any_back(
        &self,
        route: &Route,
        lengths: &[u16],
    ) -> Result<Option<u16>, OperationError> {
        let mut sent = Vec::new();
        for length in lengths {
            sent.push((*length, self.send_one(&route.way, *length).await?.0));
        }
        let coming = sent.into_iter().map(|(length, id)| async move {
            let back = self.sightings.back(id, REPLY_TIMEOUT).await;
            back.map(|_| length)
        });
        Ok(join_all(coming).await.into_iter().flatten().max())
    }

    /// Sends an echo of so many bytes, as a packet of an endpoint. Gives its number, and when it was sent.
    async fn send_one(&self, way: &Way, size: u16) -> Result<(u64, Duration), OperationError> {
        let (way, id) = (*way, rand_id());
        let sent = prober::now();
        self.maps
            .ask(move |datapath| match way {
                Way::Endpoint(ifindex, from, to) => datapath.send_probe(&ProbeRequest {
                    id,
                    ifindex,
                    from,
                    to,
                    len: size,
                }),
                Way::Host(vtep, port, target) => datapath.send_echo(&EchoRequest {
                    id,
                    vtep,
                    port,
                    len: size
                        .saturating_add(u16::try_from(VtepAddr::IPV4_OVERHEAD).unwrap_or_default()),
                    target,
                }),
            })
            .await?;
        Ok((id, sent))
    }

    /// How an echo is to be sent from this host.
    async fn route(&self, ping: &Ping, nodes: Vec<Node>) -> Result<Route, OperationError> {
        let to = match &ping.to {
            PingTarget::Endpoint(name) => {
                let found = self.registry.find_endpoint(name).await?;
                Place::Endpoint(found.ok_or_else(|| gone("endpoint", name))?)
            }
            PingTarget::Host(name) => {
                let found = nodes.iter().find(|node| node.name == *name).cloned();
                Place::Host(found.ok_or_else(|| gone("node", name))?)
            }
        };
        let to_node = match &to {
            Place::Host(node) => node.clone(),
            Place::Endpoint(endpoint) => {
                let found = nodes
                    .into_iter()
                    .find(|node| node.name == endpoint.node)
                    .ok_or_else(|| gone("node", &endpoint.node))?;
                if !found.agent {
                    return Err(refused(format_args!(
                        "endpoint {} is behind VTEP {}, where no agent runs: its programs answer no echo; try a \
                         ping from inside an endpoint",
                        endpoint.name, found.vtep.ip
                    )));
                }
                found
            }
        };
        match (&ping.from, &to) {
            (Some(from), Place::Endpoint(to)) => self.route_inside(from, to, to_node).await,
            _ => self.route_of_host(ping, &to, to_node),
        }
    }

    async fn route_inside(
        &self,
        from: &Name,
        to: &Endpoint,
        to_node: Node,
    ) -> Result<Route, OperationError> {
        let view = self.observer.view().await;
        let known = view.mirror.endpoint(from);
        let local = known.filter(EndpointRef::is_local);
        let (Some(local), Some(port)) = (local, view.ifindex(from)) else {
            return Err(refused(format_args!(
                "endpoint {from} does not stand on node {}: see `overlay endpoint show {from}`",
                self.config.node
            )));
        };
        if local.name() == &to.name {
            return Err(refused(format_args!(
                "{from} is the sender and the target: name two"
            )));
        }
        if local.vni() != to.vni {
            return Err(refused(format_args!(
                "endpoint {from} is in the network with VNI {}, {} in that with VNI {}: nothing gets from one \
                 network to another",
                local.vni(),
                to.name,
                to.vni
            )));
        }
        let host = Local {
            node: self.config.node.clone(),
            vtep: self.vtep(),
            underlay_mtu: self.underlay.mtu,
        };
        let network = view.mirror.network(to.vni);
        let mtu = network.map(|network| host.usable_mtu(network, view.mirror.underlay_mtu()));
        let is_here = to.node == self.config.node;
        Ok(Route {
            way: Way::Endpoint(port, local.mac(), to.mac),
            pinged: Pinged {
                vni: Some(to.vni),
                ..self.pinged(
                    from,
                    &to.name,
                    &to_node,
                    (!is_here).then_some(to_node.vtep.ip.into()),
                    mtu,
                )
            },
            to_node,
        })
    }

    fn route_of_host(
        &self,
        ping: &Ping,
        to: &Place,
        to_node: Node,
    ) -> Result<Route, OperationError> {
        if to_node.name == self.config.node {
            return Err(refused(format_args!(
                "node {} is this host itself, and the echo would not leave it: name an endpoint of it as the \
                 sender",
                to_node.name
            )));
        }
        let ip = to_node.vtep.ip;
        if ip.ipv4().is_none() {
            return Err(refused(format_args!(
                "node {} has no underlay address that this host could send to: see `overlay doctor` there",
                to_node.name
            )));
        }
        let (target, to_name) = match to {
            Place::Endpoint(endpoint) => (Some((endpoint.vni, endpoint.mac)), &endpoint.name),
            Place::Host(node) => (None, &node.name),
        };
        let from = ping.from.as_ref().unwrap_or(&self.config.node);
        let pinged = self.pinged(from, to_name, &to_node, Some(ip.into()), None);
        Ok(Route {
            way: Way::Host(ip, to_node.vtep.port, target),
            pinged: Pinged {
                vni: target.map(|(vni, _)| vni),
                ..pinged
            },
            to_node,
        })
    }

    fn pinged(
        &self,
        from: &Name,
        to: &Name,
        to_node: &Node,
        via: Option<IpAddr>,
        mtu: Option<u32>,
    ) -> Pinged {
        let underlays = paths::longest(self.underlay.mtu, to_node.underlay_mtu());
        let underlays = u32::from(underlays).saturating_sub(VtepAddr::IPV4_OVERHEAD);
        Pinged {
            from: from.clone(),
            from_node: self.config.node.clone(),
            to: to.clone(),
            to_node: to_node.name.clone(),
            via,
            vni: None,
            size: 0,
            rtt_us: None,
            largest: None,
            expected: match (via, mtu) {
                (None, Some(mtu)) => mtu,
                (_, mtu) => mtu.map_or(underlays, |mtu| mtu.min(underlays)),
            },
            lost: None,
        }
    }

    /// What this host's programs have seen of an echo.
    pub(super) fn seen(&self, id: u64) -> Vec<Sighting> {
        let seen = self.sightings.of(id).into_iter();
        seen.map(|echo| match echo.kind {
            EchoKind::Theirs => Sighting::Answered,
            EchoKind::Ours => Sighting::Back,
            EchoKind::Left => Sighting::Left,
            EchoKind::Dropped(reason) => Sighting::Dropped(reason.to_owned()),
        })
        .collect()
    }
}

fn rand_id() -> u64 {
    super::sightings::Ids::default().next()
}

pub(super) fn refused(message: impl std::fmt::Display) -> OperationError {
    OperationError::new(ErrorKind::Refused, message)
}

fn gone(what: &str, name: &Name) -> OperationError {
    OperationError::new(
        ErrorKind::NotFound,
        format_args!("{what} {name} is gone: somebody removed it meanwhile"),
    )
}
