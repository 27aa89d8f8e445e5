//! Answers DHCPv4 clients (RFC 2131, 2132, 3442, 4039, 6842).
//!
//! Nothing is remembered of a client: what it gets follows from the registry and from what it asks.

use std::net::Ipv4Addr;

use dhcproto::{
    Decodable as _, Decoder, Encodable as _, Name,
    v4::{DhcpOption, Flags, HType, Message, MessageType, Opcode, OptionCode},
};
use ipnet::Ipv4Net;

use super::{Kind, served::Served};

/// Bytes of the fixed part, with the magic cookie (RFC 2131 section 2).
const FIXED: usize = 240;
const MAGIC: [u8; 4] = [99, 130, 83, 99];
/// Old clients and relays take nothing shorter (RFC 951 section 3).
const SHORTEST: usize = 300;
/// Bytes of an IP packet that every client takes (RFC 2131 section 2), and of the headers before the message.
const LEAST: u16 = 576;
const HEADERS: usize = 28;
/// Bytes of a MAC.
const MAC_LEN: u8 = 6;

/// The options that answers depend on, with the bytes that each has; `None`: any. No others get to the parser: clients
/// are tenants'.
const READ: [(u8, Option<u8>); 6] = [
    (50, Some(4)),
    (53, Some(1)),
    (54, Some(4)),
    (57, Some(2)),
    (61, None),
    (80, Some(0)),
];
/// Of a relay, which a client has no business to have in between; handed back as it is.
const RELAY_AGENT: u8 = 82;

/// What becomes of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// An answer.
    Answer(Answer),
    /// No answer is wanted; the kind says what was heard.
    Noted(Kind),
    /// Nothing for this server.
    Ignored,
}

/// An answer to a client.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Answer {
    /// What it is.
    pub kind: Kind,
    /// The message.
    pub message: Vec<u8>,
    /// Where it goes; broadcast: the client has no address yet, or does not take it there.
    pub to: Ipv4Addr,
}

/// What a client asks.
struct Question {
    message: Message,
    kind: MessageType,
    /// The option of a relay, as it came.
    relay: Option<Vec<u8>>,
}

impl Question {
    /// `None`: it is none of the endpoint's.
    fn parse(bytes: &[u8], served: &Served) -> Option<Self> {
        let (readable, relay) = readable(bytes)?;
        let message = Message::decode(&mut Decoder::new(&readable)).ok()?;
        let is_own = message.opcode() == Opcode::BootRequest
            && message.htype() == HType::Eth
            && message.hlen() == MAC_LEN
            && message.chaddr() == served.mac.octets()
            // A relay in an endpoint would have answers sent elsewhere.
            && message.giaddr().is_unspecified();
        let kind = message.opts().msg_type().filter(|_| is_own)?;
        Some(Self {
            message,
            kind,
            relay,
        })
    }

    fn requested(&self) -> Option<Ipv4Addr> {
        match self.message.opts().get(OptionCode::RequestedIpAddress) {
            Some(DhcpOption::RequestedIpAddress(ip)) => Some(*ip),
            _ => None,
        }
    }

    fn server(&self) -> Option<Ipv4Addr> {
        match self.message.opts().get(OptionCode::ServerIdentifier) {
            Some(DhcpOption::ServerIdentifier(ip)) => Some(*ip),
            _ => None,
        }
    }

    /// Bytes of the longest message that it takes.
    fn longest(&self, mtu: u32) -> usize {
        let asked = match self.message.opts().get(OptionCode::MaxMessageSize) {
            Some(DhcpOption::MaxMessageSize(size)) => *size,
            _ => LEAST,
        };
        let mtu = u16::try_from(mtu).unwrap_or(u16::MAX);
        usize::from(asked.clamp(LEAST, mtu.max(LEAST))) - HEADERS
    }
}

/// The message with the options that are read alone, and apart from it the relay's.
fn readable(bytes: &[u8]) -> Option<(Vec<u8>, Option<Vec<u8>>)> {
    let (fixed, mut rest) = bytes.split_at_checked(FIXED)?;
    if !fixed.ends_with(&MAGIC) {
        return None;
    }
    let (mut readable, mut relay) = (fixed.to_vec(), None);
    while let [code, after @ ..] = rest {
        match code {
            0 => rest = after,
            0xff => break,
            code => {
                let (len, value) = after.split_first()?;
                let (value, following) = value.split_at_checked(usize::from(*len))?;
                rest = following;
                if *code == RELAY_AGENT {
                    relay = Some(value.to_vec());
                }
                let is_read = |(known, bytes): &(u8, Option<u8>)| {
                    known == code && bytes.is_none_or(|bytes| bytes == *len)
                };
                if READ.iter().any(is_read) {
                    readable.extend([*code, *len]);
                    readable.extend(value);
                }
            }
        }
    }
    readable.push(0xff);
    Some((readable, relay))
}

/// Answers a message of the endpoint's.
pub(super) fn answer(bytes: &[u8], served: &Served) -> Outcome {
    let Some(question) = Question::parse(bytes, served) else {
        return Outcome::Ignored;
    };
    let Some(first) = served.ipv4().next() else {
        return Outcome::Ignored;
    };
    let own = |ip: Ipv4Addr| served.ipv4().find(|net| net.addr() == ip);
    let client = question.message.ciaddr();
    let acknowledge = |net: Option<Ipv4Net>| match net {
        Some(net) => lease(&question, MessageType::Ack, net, served),
        None => refuse(&question, served),
    };
    match question.kind {
        MessageType::Discover => {
            let net = question.requested().and_then(own).unwrap_or(first);
            let opts = question.message.opts();
            let kind = if opts.contains(OptionCode::RapidCommit) {
                MessageType::Ack
            } else {
                MessageType::Offer
            };
            lease(&question, kind, net, served)
        }
        MessageType::Request => match (question.server(), question.requested()) {
            // It has chosen another server's offer.
            (Some(chosen), _) if chosen != served.server => Outcome::Ignored,
            (Some(_), requested) => acknowledge(requested.and_then(own)),
            (None, Some(requested)) if client.is_unspecified() => acknowledge(own(requested)),
            (None, _) if client.is_unspecified() => Outcome::Ignored,
            // It renews with this server, or rebinds with whoever answers.
            (None, _) => acknowledge(own(client)),
        },
        MessageType::Inform => match own(client) {
            Some(_) => inform(&question, served),
            None => Outcome::Ignored,
        },
        MessageType::Decline if question.server().is_none_or(|it| it == served.server) => {
            tracing::warn!(
                mac = %served.mac,
                address = ?question.requested(),
                "a DHCP client says that its address is somebody else's too; it stays the endpoint's"
            );
            Outcome::Noted(Kind::Decline)
        }
        MessageType::Release => Outcome::Noted(Kind::Release),
        _ => Outcome::Ignored,
    }
}

/// An answer without options, and those that each has.
fn reply(question: &Question, kind: MessageType, served: &Served) -> (Message, Vec<DhcpOption>) {
    let message = &question.message;
    let none = Ipv4Addr::UNSPECIFIED;
    let chaddr = message.chaddr();
    let mut reply = Message::new_with_id(message.xid(), none, none, none, none, chaddr);
    reply.set_opcode(Opcode::BootReply);
    reply.set_flags(message.flags());
    let mut options = vec![
        DhcpOption::MessageType(kind),
        DhcpOption::ServerIdentifier(served.server),
    ];
    if let Some(id) = message.opts().get(OptionCode::ClientIdentifier) {
        options.push(id.clone());
    }
    (reply, options)
}

/// An offer, or the lease itself, of an address.
fn lease(question: &Question, kind: MessageType, net: Ipv4Net, served: &Served) -> Outcome {
    let lease_s = served.told.dhcp.lease_s;
    let (mut message, mut options) = reply(question, kind, served);
    message.set_yiaddr(net.addr());
    if kind == MessageType::Ack {
        message.set_ciaddr(question.message.ciaddr());
    }
    if question.kind == MessageType::Discover && kind == MessageType::Ack {
        options.push(DhcpOption::RapidCommit);
    }
    options.extend([
        DhcpOption::AddressLeaseTime(lease_s),
        DhcpOption::Renewal(lease_s / 2),
        DhcpOption::Rebinding(lease_s / 8 * 7),
        DhcpOption::SubnetMask(net.netmask()),
    ]);
    if net.prefix_len() < 31 {
        options.push(DhcpOption::BroadcastAddr(net.broadcast()));
    }
    let to = match question.message.ciaddr() {
        ip if !ip.is_unspecified() => ip,
        _ if question.message.flags().broadcast() => Ipv4Addr::BROADCAST,
        _ => net.addr(),
    };
    finish(question, message, &options, to, served)
}

/// What a client asks that has its address already (RFC 2131 section 4.3.5).
fn inform(question: &Question, served: &Served) -> Outcome {
    let (mut message, options) = reply(question, MessageType::Ack, served);
    let client = question.message.ciaddr();
    message.set_ciaddr(client);
    finish(question, message, &options, client, served)
}

/// That the address which it asks for is not its own.
fn refuse(question: &Question, served: &Served) -> Outcome {
    let (mut message, mut options) = reply(question, MessageType::Nak, served);
    message.set_flags(Flags::default().set_broadcast());
    let why = "the registry has another address for this endpoint";
    options.push(DhcpOption::Message(why.to_owned()));
    let Some(message) = encoded(question, message, options) else {
        return Outcome::Ignored;
    };
    Outcome::Answer(Answer {
        kind: Kind::Nak,
        message,
        // Whatever address it has is not its own.
        to: Ipv4Addr::BROADCAST,
    })
}

/// Adds what the network tells, the most important first, as far as the client takes it.
fn finish(
    question: &Question,
    mut message: Message,
    options: &[DhcpOption],
    to: Ipv4Addr,
    served: &Served,
) -> Outcome {
    if let Some(pxe) = &served.told.dhcp.pxe {
        message.set_siaddr(pxe.server);
        message.set_fname_str(&pxe.file);
    }
    let kind = match options.first() {
        Some(DhcpOption::MessageType(MessageType::Offer)) => Kind::Offer,
        _ => Kind::Ack,
    };
    let longest = question.longest(served.mtu);
    let mut told = told(served);
    loop {
        let all = options.iter().chain(&told).cloned().collect();
        match encoded(question, message.clone(), all) {
            Some(message) if message.len() <= longest => {
                return Outcome::Answer(Answer { kind, message, to });
            }
            // What is least needed goes.
            _ if told.pop().is_some() => {}
            _ => return Outcome::Ignored,
        }
    }
}

/// What the network tells, the most important first.
fn told(served: &Served) -> Vec<DhcpOption> {
    let dhcp = &served.told.dhcp;
    let mut options = Vec::new();
    options.extend(u16::try_from(served.mtu).ok().map(DhcpOption::InterfaceMtu));
    options.extend(served.gateway.map(|ip| DhcpOption::Router(vec![ip])));
    let dns = served.told.dns4();
    if !dns.is_empty() {
        options.push(DhcpOption::DomainNameServer(dns));
    }
    if !dhcp.routes.is_empty() {
        // A client that takes these takes no other routes (RFC 3442).
        let default = served.gateway.map(|ip| (Ipv4Net::default(), ip));
        let others = dhcp.routes.iter().map(|route| (route.prefix, route.via));
        let others = others.filter(|(net, _)| default.is_none() || net.prefix_len() != 0);
        options.push(DhcpOption::ClasslessStaticRoute(
            default.into_iter().chain(others).collect(),
        ));
    }
    if let Some(pxe) = &dhcp.pxe {
        options.push(DhcpOption::BootfileName(pxe.file.clone().into_bytes()));
        let name = pxe.server.to_string();
        options.push(DhcpOption::TFTPServerName(name.into_bytes()));
    }
    if let Some(domain) = &dhcp.domain {
        options.push(DhcpOption::DomainName(domain.clone()));
    }
    let ntp = served.told.ntp4();
    if !ntp.is_empty() {
        options.push(DhcpOption::NtpServers(ntp));
    }
    let search = dhcp
        .domain
        .as_ref()
        .and_then(|it| Name::from_ascii(it).ok());
    options.extend(search.map(|name| DhcpOption::DomainSearch(vec![name])));
    options
}

/// The bytes of an answer, a relay's option last of all (RFC 3046 section 2.2).
fn encoded(question: &Question, mut message: Message, options: Vec<DhcpOption>) -> Option<Vec<u8>> {
    const END: u8 = 0xff;
    message.set_opts(options.into_iter().collect());
    let mut bytes = message.to_vec().ok()?;
    if let Some(relay) = &question.relay {
        bytes.pop().filter(|last| *last == END)?;
        bytes.extend([RELAY_AGENT, u8::try_from(relay.len()).ok()?]);
        bytes.extend(relay);
        bytes.push(END);
    }
    if bytes.len() < SHORTEST {
        bytes.resize(SHORTEST, 0);
    }
    Some(bytes)
}

#[cfg(test)]
mod tests;
