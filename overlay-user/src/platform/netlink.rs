//! Route netlink in one namespace: links and addresses as this crate needs them.
//!
//! Errors are the kernel's, as [`io::Error`]; the caller knows what was tried. Removing what is
//! gone already succeeds.
//!
//! The kernel's strings are bytes: each attribute is read by itself, and one that does not parse is
//! left out. So an owner of a namespace can't make its links unreadable by what it writes on them.

use std::{
    io,
    net::{IpAddr, Ipv4Addr, Ipv6Addr},
    os::fd::{AsFd as _, AsRawFd as _},
    sync::{Arc, Mutex, PoisonError},
};

use ipnet::IpNet;
use netlink_packet_core::{Emitable as _, NLM_F_CREATE, NLM_F_EXCL, NlasIterator, Parseable as _};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeader, AddressHeaderFlags, AddressMessage, AddressScope},
    link::{LinkAttribute, LinkExtentMask, LinkMessage},
    nsid::{NsidAttribute, NsidMessage},
};
use nix::errno::Errno;
use rtnetlink::{AddressMessageBuilder, LinkUnspec};

use super::{
    errno,
    link::{Link, malformed},
    link_change::Change,
    netlink_socket::{NetlinkSocket, Payload},
    netns::{self, Netns},
};

/// A route netlink socket in one namespace; closed when dropped.
///
/// The kernel does the work of a request while it is sent, under a lock that all namespaces share. So
/// requests are made on threads of their own.
#[derive(Debug, Clone)]
pub(super) struct Netlink(Arc<Mutex<NetlinkSocket>>);

/// An address of a link.
#[derive(Debug, Clone)]
pub(super) struct Address {
    /// The link's.
    index: u32,
    /// The address and its prefix length.
    pub(super) net: IpNet,
    /// Whether hosts beyond this link may use it.
    pub(super) global: bool,
    /// Not the first in its subnet.
    pub(super) secondary: bool,
    /// Not to be used for what is new, or perhaps another host's too: it is deprecated, or duplicate
    /// address detection goes on or has failed.
    pub(super) unreliable: bool,
}

impl Netlink {
    /// Opens a socket in `netns`.
    pub(super) async fn open(netns: &Netns) -> io::Result<Self> {
        let socket = netns.run(NetlinkSocket::open).await?;
        Ok(Self(Arc::new(Mutex::new(socket))))
    }

    /// Asks for one thing, or has one changed; `flags` are those beyond `NLM_F_REQUEST`.
    pub(super) async fn request(
        &self,
        message: RouteNetlinkMessage,
        flags: u16,
    ) -> io::Result<Vec<Payload>> {
        self.on_thread(move |socket| socket.request(message, flags))
            .await
    }

    /// Asks for all of a kind.
    pub(super) async fn list(&self, message: RouteNetlinkMessage) -> io::Result<Vec<Payload>> {
        self.on_thread(move |socket| socket.list(&message)).await
    }

    /// Asks for those of a kind that the message's fixed part names; older kernels give all of the kind.
    pub(super) async fn list_some(&self, message: RouteNetlinkMessage) -> io::Result<Vec<Payload>> {
        self.on_thread(move |socket| socket.list_some(&message))
            .await
    }

    /// Asks for all of a kind, if that is no more than so many. `None`: it is more, and the socket lists nothing else from
    /// now on.
    pub(super) async fn list_at_most(
        &self,
        message: RouteNetlinkMessage,
        most: usize,
    ) -> io::Result<Option<Vec<Payload>>> {
        self.on_thread(move |socket| socket.list_at_most(&message, most))
            .await
    }

    async fn on_thread<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut NetlinkSocket) -> io::Result<T> + Send + 'static,
    ) -> io::Result<T> {
        let socket = Arc::clone(&self.0);
        netns::on_thread(move || {
            // Every request begins with a number of its own: what a panic left behind does not matter.
            work(&mut socket.lock().unwrap_or_else(PoisonError::into_inner))
        })
        .await
    }

    /// All links of the namespace, without what IPv6 has to say of them: [`Link::makes_addresses`].
    pub(super) async fn links(&self) -> io::Result<Vec<Link>> {
        // The counters are most of what there is to say of a link. Up to Linux 6.14 the kernel leaves
        // IPv6's settings behind them out as well (`inet6_fill_ifla6_attrs` in net/ipv6/addrconf.c).
        let mut question = LinkMessage::default();
        let mask = LinkAttribute::ExtMask(vec![LinkExtentMask::SkipStats]);
        question.attributes.push(mask);
        let messages = self.list(RouteNetlinkMessage::GetLink(question));
        messages.await?.iter().map(|link| Link::of(link)).collect()
    }

    /// The link of this name.
    pub(super) async fn link_named(&self, name: &str) -> io::Result<Option<Link>> {
        let mut question = LinkMessage::default();
        let name = LinkAttribute::IfName(name.to_owned());
        question.attributes.push(name);
        self.get_link(question).await
    }

    /// The link of this index.
    pub(super) async fn link(&self, index: u32) -> io::Result<Option<Link>> {
        let mut question = LinkMessage::default();
        question.header.index = index;
        self.get_link(question).await
    }

    async fn get_link(&self, question: LinkMessage) -> io::Result<Option<Link>> {
        let answer = self.request(RouteNetlinkMessage::GetLink(question), 0);
        match answer.await {
            Ok(messages) => messages.first().map(|link| Link::of(link)).transpose(),
            Err(error) if errno(&error) == Errno::ENODEV => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Makes a link.
    pub(super) async fn add(&self, message: LinkMessage) -> io::Result<()> {
        let message = RouteNetlinkMessage::NewLink(message);
        let made = self.request(message, NLM_F_CREATE | NLM_F_EXCL);
        made.await.map(drop)
    }

    /// Sends what is left of `change`, if anything is.
    pub(super) async fn apply(&self, change: Change<'_>) -> io::Result<()> {
        if change.is_done() {
            return Ok(());
        }
        self.change(change.into_message()).await
    }

    /// Changes the link whose index `message` has.
    pub(super) async fn change(&self, message: LinkMessage) -> io::Result<()> {
        let is_info = |attribute: &LinkAttribute| matches!(attribute, LinkAttribute::LinkInfo(_));
        // RTM_SETLINK does not look at what belongs to a kind of link (net/core/rtnetlink.c).
        let request = if message.attributes.iter().any(is_info) {
            RouteNetlinkMessage::NewLink(message)
        } else {
            RouteNetlinkMessage::SetLink(message)
        };
        self.request(request, 0).await.map(drop)
    }

    /// Renames a link, which before Linux 6.2 has to be down for that.
    pub(super) async fn rename(&self, link: &Link, name: &str) -> io::Result<()> {
        let index = link.index;
        let named = LinkUnspec::new_with_index(index).name(name).build();
        match self.change(named.clone()).await {
            Err(error) if errno(&error) == Errno::EBUSY => {
                self.set_up(index, false).await?;
                let renamed = self.change(named).await;
                self.set_up(index, link.is_up()).await.and(renamed)
            }
            renamed => renamed,
        }
    }

    /// Sets a link up, or down; not one that is gone.
    pub(super) async fn set_up(&self, index: u32, is_up: bool) -> io::Result<()> {
        let link = LinkUnspec::new_with_index(index);
        let message = if is_up { link.up() } else { link.down() };
        match self.change(message.build()).await {
            Err(error) if errno(&error) == Errno::ENODEV => Ok(()),
            set => set,
        }
    }

    /// Deletes a link, and the other end with it if it is a veth.
    pub(super) async fn delete(&self, index: u32) -> io::Result<()> {
        let message = LinkUnspec::new_with_index(index).build();
        match self.request(RouteNetlinkMessage::DelLink(message), 0).await {
            Err(error) if errno(&error) == Errno::ENODEV => Ok(()),
            deleted => deleted.map(drop),
        }
    }

    /// The addresses of a link.
    pub(super) async fn addresses(&self, index: u32) -> io::Result<Vec<Address>> {
        let mut question = AddressMessage::default();
        question.header.index = index;
        let question = RouteNetlinkMessage::GetAddress(question);
        let messages = self.list_some(question).await?;
        let addresses: io::Result<Vec<_>> = messages
            .iter()
            .map(|address| Address::of(address))
            .collect();
        let addresses = addresses?.into_iter().flatten();
        Ok(addresses.filter(|address| address.index == index).collect())
    }

    /// Gives a link an address, without IPv6's duplicate address detection: who has which address
    /// is the registry's to say.
    pub(super) async fn add_address(&self, index: u32, net: IpNet) -> io::Result<bool> {
        let mut message = address_message(index, net);
        if let IpNet::V6(_) = net {
            message.header.flags |= AddressHeaderFlags::Nodad;
        }
        let message = RouteNetlinkMessage::NewAddress(message);
        match self.request(message, NLM_F_CREATE | NLM_F_EXCL).await {
            Err(error) if errno(&error) == Errno::EEXIST => Ok(false),
            added => added.map(|_| true),
        }
    }

    /// Takes an address off its link.
    pub(super) async fn remove_address(&self, index: u32, net: IpNet) -> io::Result<()> {
        let message = RouteNetlinkMessage::DelAddress(address_message(index, net));
        match self.request(message, 0).await {
            Err(error) if matches!(errno(&error), Errno::EADDRNOTAVAIL | Errno::ENODEV) => Ok(()),
            removed => removed.map(drop),
        }
    }

    /// The number by which links here refer to `netns`, if they ever did.
    pub(super) async fn nsid(&self, netns: &Netns) -> io::Result<Option<i32>> {
        let fd = u32::try_from(netns.as_fd().as_raw_fd()).map_err(io::Error::other)?;
        let mut question = NsidMessage::default();
        question.attributes.push(NsidAttribute::Fd(fd));
        let answer = self.request(RouteNetlinkMessage::GetNsId(question), 0);
        for message in answer.await? {
            let answer = NsidMessage::parse(message.as_slice()).map_err(io::Error::other)?;
            for attribute in answer.attributes {
                if let NsidAttribute::Id(id) = attribute {
                    return Ok((id >= 0).then_some(id));
                }
            }
        }
        Ok(None)
    }
}

fn address_message(index: u32, net: IpNet) -> AddressMessage {
    match net {
        IpNet::V4(net) => AddressMessageBuilder::<Ipv4Addr>::new()
            .index(index)
            .address(net.addr(), net.prefix_len())
            .build(),
        IpNet::V6(net) => AddressMessageBuilder::<Ipv6Addr>::new()
            .index(index)
            .address(net.addr(), net.prefix_len())
            .build(),
    }
}

impl Address {
    /// Reads an address's message. `None`: it is neither IPv4 nor IPv6.
    pub(super) fn of(payload: &[u8]) -> io::Result<Option<Self>> {
        let header = AddressHeader::parse(payload).map_err(malformed)?;
        let (mut local, mut address) = (None, None);
        for attribute in NlasIterator::new(payload.get(header.buffer_len()..).unwrap_or_default()) {
            match AddressAttribute::parse(&attribute.map_err(malformed)?) {
                Ok(AddressAttribute::Local(ip)) => local = Some(ip),
                Ok(AddressAttribute::Address(ip)) => address = Some(ip),
                // A label of bytes that are no text, for example.
                Ok(_) | Err(_) => {}
            }
        }
        // On a point-to-point link the second is the other side's.
        let ip: Option<IpAddr> = local.or(address);
        Ok(ip.and_then(|ip| {
            Some(Self {
                index: header.index,
                net: IpNet::new(ip, header.prefix_len).ok()?,
                global: header.scope == AddressScope::Universe,
                secondary: header.flags.contains(AddressHeaderFlags::Secondary),
                unreliable: header.flags.intersects(
                    AddressHeaderFlags::Deprecated
                        | AddressHeaderFlags::Tentative
                        | AddressHeaderFlags::Dadfailed,
                ),
            })
        }))
    }

    /// An address for tests of what is decided about it.
    #[cfg(test)]
    pub(super) fn sample(net: &str, global: bool, secondary: bool) -> Self {
        Self {
            index: 7,
            net: net.parse().unwrap(),
            global,
            secondary,
            unreliable: false,
        }
    }
}
