//! Route netlink in one namespace: links and addresses as this crate needs them.
//!
//! Errors are the kernel's, as [`io::Error`]; the caller knows what was tried. Removing what is
//! gone already succeeds.

use std::{io, net::IpAddr};

use futures_util::TryStreamExt;
use ipnet::IpNet;
use netlink_packet_route::{
    AddressFamily,
    address::{AddressAttribute, AddressHeaderFlags, AddressMessage, AddressScope},
    link::{
        InfoData, InfoKind, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkInfo,
        LinkLayerType, LinkMessage,
    },
};
use nix::errno::Errno;
use rtnetlink::{Error, Handle, LinkUnspec};
use tokio::{runtime, task::AbortHandle};

use super::{errno, netns::Netns};
use crate::model::Name;

/// A route netlink socket in one namespace; closed when dropped.
#[derive(Debug)]
pub(super) struct Netlink {
    handle: Handle,
    connection: AbortHandle,
}

impl Drop for Netlink {
    fn drop(&mut self) {
        self.connection.abort();
    }
}

/// A link as the kernel tells.
#[derive(Debug, Clone, Default)]
pub(super) struct Link {
    /// Unique in its namespace.
    pub(super) index: u32,
    /// Unique too.
    pub(super) name: String,
    /// "veth", "vxlan" and so on; physical ones have none.
    pub(super) kind: Option<InfoKind>,
    /// `IFF_*`.
    pub(super) flags: LinkFlags,
    /// `ARPHRD_*`.
    pub(super) layer: LinkLayerType,
    /// Bytes.
    pub(super) mtu: u32,
    /// As many octets as the layer has.
    pub(super) address: Vec<u8>,
    /// What was written on it.
    pub(super) alias: Option<String>,
    /// Where it is a port, for example a bridge.
    pub(super) controller: Option<u32>,
    /// Of a veth: the other end's index.
    pub(super) peer: Option<u32>,
    /// Of a veth: the other end's namespace as this one numbers it; `None` if it is the same.
    pub(super) peer_nsid: Option<i32>,
    /// Longest packet that leaves segmentation to the device, bytes.
    pub(super) gso_max_size: Option<u32>,
    /// The same for IPv4, where the kernel has it apart (Linux 6.3).
    pub(super) gso_ipv4_max_size: Option<u32>,
    /// Of a VXLAN device.
    pub(super) vxlan: Option<Vxlan>,
}

/// A VXLAN device's settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Vxlan {
    /// UDP port that it listens on, host byte order.
    pub(super) port: u16,
    /// Whether it takes the tunnel's key from each packet.
    pub(super) external: bool,
}

/// An address of a link.
#[derive(Debug, Clone)]
pub(super) struct Address {
    /// The address and its prefix length.
    pub(super) net: IpNet,
    /// Whether hosts beyond this link may use it.
    pub(super) global: bool,
    /// Not the first in its subnet.
    pub(super) secondary: bool,
    /// Set by an administrator, not by autoconfiguration.
    pub(super) permanent: bool,
    message: AddressMessage,
}

impl Netlink {
    /// Opens a socket in `netns`.
    pub(super) async fn open(netns: &Netns) -> io::Result<Self> {
        let runtime = runtime::Handle::current();
        let (connection, handle, _) = netns
            .run(move || {
                let _registers_the_socket = runtime.enter();
                rtnetlink::new_connection()
            })
            .await?;
        Ok(Self {
            handle,
            connection: tokio::spawn(connection).abort_handle(),
        })
    }

    /// For what other files ask of the kernel.
    pub(super) fn handle(&self) -> &Handle {
        &self.handle
    }

    /// All links of the namespace.
    pub(super) async fn links(&self) -> io::Result<Vec<Link>> {
        let messages: Vec<_> = self
            .handle
            .link()
            .get()
            .set_filter_mask(AddressFamily::Unspec, vec![LinkExtentMask::SkipStats])
            .execute()
            .try_collect()
            .await
            .map_err(kernel)?;
        Ok(messages.into_iter().map(Link::from).collect())
    }

    /// The link of this name.
    pub(super) async fn link_named(&self, name: &str) -> io::Result<Option<Link>> {
        let request = self.handle.link().get().match_name(name);
        first(request.execute().try_next().await)
    }

    /// The link of this index.
    pub(super) async fn link(&self, index: u32) -> io::Result<Option<Link>> {
        let request = self.handle.link().get().match_index(index);
        first(request.execute().try_next().await)
    }

    /// Makes a link.
    pub(super) async fn add(&self, message: LinkMessage) -> io::Result<()> {
        self.handle
            .link()
            .add(message)
            .execute()
            .await
            .map_err(kernel)
    }

    /// Sends what is left of `change`, if anything is.
    pub(super) async fn apply(&self, change: Change<'_>) -> io::Result<()> {
        if change.is_done() {
            return Ok(());
        }
        self.change(change.message).await
    }

    /// Changes the link whose index `message` has.
    pub(super) async fn change(&self, message: LinkMessage) -> io::Result<()> {
        let request = self.handle.link().change(message);
        request.execute().await.map_err(kernel)
    }

    /// Deletes a link, and the other end with it if it is a veth.
    pub(super) async fn delete(&self, index: u32) -> io::Result<()> {
        match self
            .handle
            .link()
            .del(index)
            .execute()
            .await
            .map_err(kernel)
        {
            Err(error) if errno(&error) == Errno::ENODEV => Ok(()),
            deleted => deleted,
        }
    }

    /// The addresses of a link.
    pub(super) async fn addresses(&self, index: u32) -> io::Result<Vec<Address>> {
        let request = self.handle.address().get().set_link_index_filter(index);
        let messages: Vec<_> = request.execute().try_collect().await.map_err(kernel)?;
        Ok(messages.into_iter().filter_map(Address::new).collect())
    }

    /// Gives a link an address, without IPv6's duplicate address detection: who has which address
    /// is the registry's to say.
    pub(super) async fn add_address(&self, index: u32, net: IpNet) -> io::Result<()> {
        let mut request = self
            .handle
            .address()
            .add(index, net.addr(), net.prefix_len());
        if let IpNet::V6(_) = net {
            request.message_mut().header.flags |= AddressHeaderFlags::Nodad;
        }
        match request.execute().await.map_err(kernel) {
            Err(error) if errno(&error) == Errno::EEXIST => Ok(()),
            added => added,
        }
    }

    /// Takes an address off its link.
    pub(super) async fn remove_address(&self, address: Address) -> io::Result<()> {
        let request = self.handle.address().del(address.message);
        match request.execute().await.map_err(kernel) {
            Err(error) if matches!(errno(&error), Errno::EADDRNOTAVAIL | Errno::ENODEV) => Ok(()),
            removed => removed,
        }
    }

    /// The number by which links here refer to the namespace `name`, if they ever did.
    pub(super) async fn nsid(&self, name: &Name) -> io::Result<Option<i32>> {
        let request = self.handle.link().get_netns_id(name.as_str());
        request.execute().await.map_err(kernel)
    }
}

fn first(reply: Result<Option<LinkMessage>, Error>) -> io::Result<Option<Link>> {
    match reply.map_err(kernel) {
        Ok(message) => Ok(message.map(Link::from)),
        Err(error) if errno(&error) == Errno::ENODEV => Ok(None),
        Err(error) => Err(error),
    }
}

pub(super) fn kernel(error: Error) -> io::Error {
    match error {
        Error::NetlinkError(message) => message.to_io(),
        other => io::Error::other(other.to_string()),
    }
}

impl Link {
    /// Whether `ip link set up` was said.
    pub(super) fn is_up(&self) -> bool {
        self.flags.contains(LinkFlags::Up)
    }

    /// Whether this is one end of a veth pair.
    pub(super) fn is_veth(&self) -> bool {
        self.kind == Some(InfoKind::Veth)
    }

    fn take_info(&mut self, info: LinkInfo) {
        match info {
            LinkInfo::Kind(kind) => self.kind = Some(kind),
            LinkInfo::Data(InfoData::Vxlan(settings)) => {
                let mut vxlan = Vxlan::default();
                for setting in settings {
                    match setting {
                        InfoVxlan::Port(port) => vxlan.port = port,
                        InfoVxlan::CollectMetadata(external) => vxlan.external = external,
                        _ => {}
                    }
                }
                self.vxlan = Some(vxlan);
            }
            _ => {}
        }
    }
}

/// What a link shall be; holds only that in which it isn't yet, so that a link that is right
/// already causes neither work nor events.
#[derive(Debug)]
pub(super) struct Change<'a> {
    link: &'a Link,
    message: LinkMessage,
}

impl<'a> Change<'a> {
    /// A change of `link` to nothing yet.
    pub(super) fn of(link: &'a Link) -> Self {
        Self {
            link,
            message: LinkUnspec::new_with_index(link.index).build(),
        }
    }

    /// Whether the link is that way already.
    pub(super) fn is_done(&self) -> bool {
        self.message.attributes.is_empty() && self.message.header.change_mask.is_empty()
    }

    fn unless(mut self, already: bool, attribute: LinkAttribute) -> Self {
        if !already {
            self.message.attributes.push(attribute);
        }
        self
    }

    /// The alias.
    pub(super) fn alias(self, alias: String) -> Self {
        let already = self.link.alias.as_ref() == Some(&alias);
        self.unless(already, LinkAttribute::IfAlias(alias))
    }

    /// The hardware address.
    pub(super) fn address(self, address: [u8; 6]) -> Self {
        let already = self.link.address == address;
        self.unless(already, LinkAttribute::Address(address.to_vec()))
    }

    /// The MTU, bytes.
    pub(super) fn mtu(self, mtu: u32) -> Self {
        let already = self.link.mtu == mtu;
        self.unless(already, LinkAttribute::Mtu(mtu))
    }

    /// The bridge that it is a port of.
    pub(super) fn controller(self, index: u32) -> Self {
        let already = self.link.controller == Some(index);
        self.unless(already, LinkAttribute::Controller(index))
    }

    /// At most `size` bytes in packets that are segmented later.
    pub(super) fn limit_gso(self, size: u32) -> Self {
        let within = |now: Option<u32>| now.is_none_or(|now| now <= size);
        let (any, ipv4) = (self.link.gso_max_size, self.link.gso_ipv4_max_size);
        self.unless(within(any), LinkAttribute::GsoMaxSize(size))
            .unless(within(ipv4), LinkAttribute::GsoIpv4MaxSize(size))
    }

    /// These flags on.
    pub(super) fn flags(mut self, flags: LinkFlags) -> Self {
        let missing = flags - self.link.flags;
        self.message.header.flags |= missing;
        self.message.header.change_mask |= missing;
        self
    }

    /// Down.
    pub(super) fn down(mut self) -> Self {
        self.message.header.change_mask |= self.link.flags & LinkFlags::Up;
        self
    }
}

impl From<LinkMessage> for Link {
    fn from(message: LinkMessage) -> Self {
        let mut link = Self {
            index: message.header.index,
            flags: message.header.flags,
            layer: message.header.link_layer_type,
            ..Self::default()
        };
        for attribute in message.attributes {
            match attribute {
                LinkAttribute::IfName(name) => link.name = name,
                LinkAttribute::Mtu(mtu) => link.mtu = mtu,
                LinkAttribute::Address(address) => link.address = address,
                LinkAttribute::IfAlias(alias) => link.alias = Some(alias),
                LinkAttribute::Controller(index) => link.controller = Some(index),
                LinkAttribute::Link(index) => link.peer = Some(index),
                LinkAttribute::LinkNetNsId(id) => link.peer_nsid = Some(id),
                LinkAttribute::GsoMaxSize(size) => link.gso_max_size = Some(size),
                LinkAttribute::GsoIpv4MaxSize(size) => link.gso_ipv4_max_size = Some(size),
                LinkAttribute::LinkInfo(infos) => {
                    for info in infos {
                        link.take_info(info);
                    }
                }
                _ => {}
            }
        }
        link
    }
}

impl Address {
    /// `None`: neither IPv4 nor IPv6.
    fn new(message: AddressMessage) -> Option<Self> {
        let (mut local, mut address) = (None, None);
        for attribute in &message.attributes {
            match attribute {
                AddressAttribute::Local(ip) => local = Some(*ip),
                AddressAttribute::Address(ip) => address = Some(*ip),
                _ => {}
            }
        }
        // On a point-to-point link the second is the other side's.
        let ip: IpAddr = local.or(address)?;
        let header = &message.header;
        Some(Self {
            net: IpNet::new(ip, header.prefix_len).ok()?,
            global: header.scope == AddressScope::Universe,
            secondary: header.flags.contains(AddressHeaderFlags::Secondary),
            permanent: header.flags.contains(AddressHeaderFlags::Permanent),
            message,
        })
    }

    /// An address for tests of what is decided about it.
    #[cfg(test)]
    pub(super) fn sample(net: &str, global: bool, secondary: bool) -> Self {
        Self {
            net: net.parse().unwrap(),
            global,
            secondary,
            permanent: true,
            message: AddressMessage::default(),
        }
    }
}
