//! Answers DHCPv6 clients (RFC 8415).
//!
//! An endpoint's addresses are those of its first identity association, whatever it asks for. They are never given to
//! anybody else, so a client that comes back is as good as one that never left.

use std::net::Ipv6Addr;

use dhcproto::{
    Decodable as _, Decoder, Encodable as _, Name,
    v6::{
        DhcpOption, DhcpOptions, IAAddr, IANA, Message, MessageType, NtpSuboption, OptionCode,
        Status, StatusCode,
    },
};

use super::{Kind, served::Served};
use crate::model::Mac;

/// Bytes of the type and the transaction's number.
const FIXED: usize = 4;
/// Bytes of an identity association for addresses before its options, and of an address in it.
const IA: usize = 12;
const ADDRESS: usize = 24;
/// Bytes of a client's identifier, at most (RFC 8415 section 11.1).
const LONGEST_DUID: usize = 130;
/// Identity associations and addresses in one that are looked at.
const MOST: usize = 8;
/// Of servers that a client hears of, it takes this one at once.
const PREFERRED: u8 = 255;

const CLIENT_ID: u16 = 1;
const SERVER_ID: u16 = 2;
const IA_NA: u16 = 3;
const IA_TA: u16 = 4;
const IA_ADDRESS: u16 = 5;
const OPTION_REQUEST: u16 = 6;
const RAPID_COMMIT: u16 = 14;
const IA_PD: u16 = 25;

/// What becomes of a question.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Outcome {
    /// An answer, to whoever asked.
    Answer(Kind, Vec<u8>),
    /// Nothing for this server.
    Ignored,
}

/// The server's identifier: of a MAC that is the same everywhere, whatever MAC the gateways have, so that a client which
/// moves to another host, or whose network gets a router, does not notice (DUID-LL, RFC 8415 section 11.4).
fn server_id(mac: Mac) -> Vec<u8> {
    const LINK_LAYER: [u8; 4] = [0, 3, 0, 1];
    [&LINK_LAYER[..], &mac.octets()].concat()
}

/// What a client asks.
struct Question {
    kind: MessageType,
    xid: [u8; 3],
    client: Option<Vec<u8>>,
    server: Option<Vec<u8>>,
    associations: Vec<IANA>,
    /// Associations for temporary addresses and for prefixes, by their numbers.
    refused: Vec<DhcpOption>,
    /// The options that it wants; empty: all that there are.
    wanted: Vec<OptionCode>,
    is_rapid: bool,
}

impl Question {
    fn parse(bytes: &[u8]) -> Option<Self> {
        let readable = readable(bytes)?;
        let message = Message::decode(&mut Decoder::new(&readable)).ok()?;
        let mut question = Self {
            kind: message.msg_type(),
            xid: message.xid(),
            client: None,
            server: None,
            associations: Vec::new(),
            refused: Vec::new(),
            wanted: Vec::new(),
            is_rapid: false,
        };
        for option in message.opts().iter() {
            match option {
                DhcpOption::ClientId(id) => question.client = Some(id.clone()),
                DhcpOption::ServerId(id) => question.server = Some(id.clone()),
                DhcpOption::IANA(association) => question.associations.push(association.clone()),
                DhcpOption::IATA(_) | DhcpOption::IAPD(_) => question.refused.push(option.clone()),
                DhcpOption::ORO(request) => question.wanted.clone_from(&request.opts),
                DhcpOption::RapidCommit => question.is_rapid = true,
                _ => {}
            }
        }
        Some(question)
    }

    fn wants(&self, code: OptionCode) -> bool {
        self.wanted.is_empty() || self.wanted.contains(&code)
    }

    /// The addresses that it names in its associations.
    fn addresses(&self) -> impl Iterator<Item = Ipv6Addr> {
        self.associations.iter().flat_map(named_in)
    }
}

/// The addresses in an association.
fn named_in(association: &IANA) -> impl Iterator<Item = Ipv6Addr> {
    association.opts.iter().filter_map(|option| match option {
        DhcpOption::IAAddr(address) => Some(address.addr),
        _ => None,
    })
}

/// The message with the options that are read alone, each as long as it has to be: clients are tenants', and so no others
/// get to the parser.
fn readable(bytes: &[u8]) -> Option<Vec<u8>> {
    let (fixed, rest) = bytes.split_at_checked(FIXED)?;
    let mut readable = fixed.to_vec();
    let mut associations = 0;
    for (code, value) in options(rest) {
        let value = match code {
            CLIENT_ID | SERVER_ID if (1..=LONGEST_DUID).contains(&value.len()) => value.to_vec(),
            OPTION_REQUEST if value.len().is_multiple_of(2) => value.to_vec(),
            RAPID_COMMIT if value.is_empty() => Vec::new(),
            IA_TA if associations < MOST => value.get(..4)?.to_vec(),
            IA_PD if associations < MOST => value.get(..IA)?.to_vec(),
            IA_NA if associations < MOST => association(value)?,
            _ => continue,
        };
        associations += usize::from(matches!(code, IA_NA | IA_TA | IA_PD));
        put(&mut readable, code, &value);
    }
    Some(readable)
}

/// An association with its addresses alone.
fn association(value: &[u8]) -> Option<Vec<u8>> {
    let (fixed, rest) = value.split_at_checked(IA)?;
    let mut readable = fixed.to_vec();
    let addresses = options(rest).filter(|(code, _)| *code == IA_ADDRESS);
    for (code, value) in addresses.take(MOST) {
        put(&mut readable, code, value.get(..ADDRESS)?);
    }
    Some(readable)
}

/// The options that begin here, up to one that is cut off.
fn options(mut rest: &[u8]) -> impl Iterator<Item = (u16, &[u8])> {
    std::iter::from_fn(move || {
        let (head, after) = rest.split_first_chunk::<4>()?;
        let [a, b, c, d] = *head;
        let len = u16::from_be_bytes([c, d]);
        let (value, following) = after.split_at_checked(len.into())?;
        rest = following;
        Some((u16::from_be_bytes([a, b]), value))
    })
}

fn put(to: &mut Vec<u8>, code: u16, value: &[u8]) {
    if let Ok(len) = u16::try_from(value.len()) {
        to.extend(code.to_be_bytes());
        to.extend(len.to_be_bytes());
        to.extend(value);
    }
}

/// Answers a message of the endpoint's; `server_mac` is the one that the server is known by.
pub(super) fn answer(bytes: &[u8], served: &Served, server_mac: Mac) -> Outcome {
    let Some(question) = Question::parse(bytes) else {
        return Outcome::Ignored;
    };
    let own = server_id(server_mac);
    let is_for_us = question.server.as_ref() == Some(&own);
    let (has_client, has_server) = (question.client.is_some(), question.server.is_some());
    // RFC 8415 section 16: which identifiers each message has.
    let is_sound = match question.kind {
        MessageType::Solicit | MessageType::Confirm | MessageType::Rebind => {
            has_client && !has_server
        }
        MessageType::Request | MessageType::Renew | MessageType::Release | MessageType::Decline => {
            has_client && is_for_us
        }
        MessageType::InformationRequest => !has_server || is_for_us,
        _ => false,
    };
    if !is_sound {
        return Outcome::Ignored;
    }
    let mut reply = Reply::new(&question, own, served);
    match question.kind {
        MessageType::Solicit if question.is_rapid => {
            reply.options.push(DhcpOption::RapidCommit);
            reply.assign();
            reply.tell();
        }
        MessageType::Solicit => {
            reply.kind = MessageType::Advertise;
            reply.options.push(DhcpOption::Preference(PREFERRED));
            reply.assign();
            reply.tell();
        }
        MessageType::Request | MessageType::Renew | MessageType::Rebind => {
            reply.assign();
            reply.tell();
        }
        MessageType::Confirm => {
            let mut named = question.addresses().peekable();
            if named.peek().is_none() {
                return Outcome::Ignored;
            }
            let is_own = named.all(|ip| served.ipv6().any(|net| net.addr() == ip));
            reply.status(if is_own {
                Status::Success
            } else {
                Status::NotOnLink
            });
        }
        MessageType::Decline => {
            tracing::warn!(
                mac = %served.mac,
                addresses = ?question.addresses().collect::<Vec<_>>(),
                "a DHCP client says that its addresses are somebody else's too; they stay the endpoint's"
            );
            reply.status(Status::Success);
        }
        MessageType::Release => reply.status(Status::Success),
        _ => {
            reply.tell();
            let lease_s = served.told.dhcp.lease_s;
            reply
                .options
                .push(DhcpOption::InformationRefreshTime(lease_s));
        }
    }
    reply.finish()
}

/// An answer under way.
struct Reply<'a> {
    question: &'a Question,
    served: &'a Served,
    kind: MessageType,
    options: Vec<DhcpOption>,
}

impl<'a> Reply<'a> {
    fn new(question: &'a Question, duid: Vec<u8>, served: &'a Served) -> Self {
        let client = question.client.clone().map(DhcpOption::ClientId);
        let own = Some(DhcpOption::ServerId(duid));
        Self {
            question,
            served,
            kind: MessageType::Reply,
            options: client.into_iter().chain(own).collect(),
        }
    }

    fn status(&mut self, status: Status) {
        self.options.push(status_of(status));
    }

    /// The endpoint's addresses go to the first association; to all else there are none.
    fn assign(&mut self) {
        let lease_s = self.served.told.dhcp.lease_s;
        let own: Vec<Ipv6Addr> = self.served.ipv6().map(|net| net.addr()).collect();
        for (position, association) in self.question.associations.iter().enumerate() {
            let mut options = DhcpOptions::new();
            let given: &[Ipv6Addr] = if position == 0 { &own } else { &[] };
            // What it has and is not the endpoint's any more is not to be used (RFC 8415 section 18.3.4).
            let is_renewal = matches!(self.question.kind, MessageType::Renew | MessageType::Rebind);
            for ip in named_in(association).filter(|ip| is_renewal && !given.contains(ip)) {
                options.insert(address(ip, 0));
            }
            // Each is put in front of those that are there.
            for ip in given.iter().rev() {
                options.insert(address(*ip, lease_s));
            }
            if given.is_empty() {
                options.insert(status_of(Status::NoAddrsAvail));
            }
            self.options.push(DhcpOption::IANA(IANA {
                id: association.id,
                t1: lease_s / 2,
                t2: lease_s / 5 * 4,
                opts: options,
            }));
        }
        for refused in &self.question.refused {
            let mut refused = refused.clone();
            match &mut refused {
                DhcpOption::IATA(it) => it.opts.insert(status_of(Status::NoAddrsAvail)),
                DhcpOption::IAPD(it) => it.opts.insert(status_of(Status::NoPrefixAvail)),
                _ => {}
            }
            self.options.push(refused);
        }
    }

    /// What the network tells, as far as the client wants to know it.
    fn tell(&mut self) {
        let told = &self.served.told;
        let dns = told.dns6();
        if !dns.is_empty() && self.question.wants(OptionCode::DomainNameServers) {
            self.options.push(DhcpOption::DomainNameServers(dns));
        }
        let domain = told.dhcp.domain.as_ref();
        let domain = domain.and_then(|domain| Name::from_ascii(domain).ok());
        if let Some(domain) = domain
            && self.question.wants(OptionCode::DomainSearchList)
        {
            self.options
                .push(DhcpOption::DomainSearchList(vec![domain]));
        }
        let ntp = told.ntp6();
        if !ntp.is_empty() && self.question.wants(OptionCode::NtpServer) {
            let servers = ntp.into_iter().map(NtpSuboption::ServerAddress);
            self.options.push(DhcpOption::NtpServer(servers.collect()));
        }
    }

    fn finish(self) -> Outcome {
        let mut message = Message::new_with_id(self.kind, self.question.xid);
        message.set_opts(self.options.into_iter().collect());
        let kind = match self.kind {
            MessageType::Advertise => Kind::Advertise,
            _ => Kind::Reply,
        };
        message
            .to_vec()
            .map_or(Outcome::Ignored, |bytes| Outcome::Answer(kind, bytes))
    }
}

fn address(ip: Ipv6Addr, lifetime_s: u32) -> DhcpOption {
    DhcpOption::IAAddr(IAAddr {
        addr: ip,
        preferred_life: lifetime_s,
        valid_life: lifetime_s,
        opts: DhcpOptions::new(),
    })
}

fn status_of(status: Status) -> DhcpOption {
    let msg = match status {
        Status::Success => "done",
        Status::NotOnLink => "the registry has other addresses for this endpoint",
        Status::NoPrefixAvail => "no prefixes are delegated",
        _ => "the registry has no more addresses for this endpoint",
    };
    DhcpOption::StatusCode(StatusCode {
        status,
        msg: msg.to_owned(),
    })
}

#[cfg(test)]
mod tests;
