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
use netlink_packet_core::{
    DecodeError, Emitable as _, NLM_F_CREATE, NLM_F_EXCL, NlasIterator, Parseable as _,
    ParseableParametrized as _,
};
use netlink_packet_route::{
    RouteNetlinkMessage,
    address::{AddressAttribute, AddressHeader, AddressHeaderFlags, AddressMessage, AddressScope},
    link::{
        AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind,
        InfoPortData, InfoVxlan, LinkAttribute, LinkExtentMask, LinkFlags, LinkHeader, LinkInfo,
        LinkLayerType, LinkMessage, LinkXdp, XdpAttached,
    },
    nsid::{NsidAttribute, NsidMessage},
};
use nix::errno::Errno;
use rtnetlink::{AddressMessageBuilder, LinkUnspec};

use super::{
    errno,
    link_change::{Change, ISOLATED},
    netlink_socket::{NetlinkSocket, Payload},
    netns::{self, Netns},
};

/// A route netlink socket in one namespace; closed when dropped.
///
/// The kernel does the work of a request while it is sent, under a lock that all namespaces share. So
/// requests are made on threads of their own.
#[derive(Debug, Clone)]
pub(super) struct Netlink(Arc<Mutex<NetlinkSocket>>);

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
    /// Whether a native XDP program is attached.
    pub(super) has_xdp: bool,
    /// Of a VXLAN device.
    pub(super) vxlan: Option<Vxlan>,
    /// Of a bridge's port: the settings of [`Change::isolated`] that it has.
    pub(super) bridge_port: Vec<InfoBridgePort>,
    /// Whether the kernel gives it IPv6 addresses of its own accord. Not known from a listing.
    pub(super) makes_addresses: bool,
    /// Whether the host speaks IPv6 on it.
    pub(super) has_ipv6: bool,
}

/// A VXLAN device's settings.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Vxlan {
    /// UDP port that it listens on, host byte order.
    pub(super) port: u16,
    /// Whether it takes the tunnel's key from each packet.
    pub(super) external: bool,
    /// Whether it learns MACs from what it receives.
    pub(super) learning: bool,
    /// Whether it receives nothing but the VNIs that it was given (Linux 5.18).
    pub(super) vnifilter: bool,
}

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
    pub(super) doubtful: bool,
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

    async fn list(&self, message: RouteNetlinkMessage) -> io::Result<Vec<Payload>> {
        self.on_thread(move |socket| socket.list(&message)).await
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
        let messages = self
            .on_thread(move |socket| socket.list_some(&question))
            .await?;
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

/// What is not as the protocol says is an error of the one answer.
fn malformed(error: DecodeError) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, error)
}

impl Link {
    /// Whether `ip link set up` was said.
    pub(super) fn is_up(&self) -> bool {
        self.flags.contains(LinkFlags::Up)
    }

    /// Whether it is up, has a carrier, and the kernel has followed that.
    pub(super) fn can_send(&self) -> bool {
        self.flags.contains(LinkFlags::Up | LinkFlags::Running)
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
                        InfoVxlan::Learning(learning) => vxlan.learning = learning,
                        InfoVxlan::Vnifilter(vnifilter) => vxlan.vnifilter = vnifilter,
                        _ => {}
                    }
                }
                self.vxlan = Some(vxlan);
            }
            LinkInfo::PortData(InfoPortData::BridgePort(mut settings)) => {
                settings.retain(|setting| ISOLATED.contains(setting));
                self.bridge_port = settings;
            }
            _ => {}
        }
    }
}

impl Link {
    fn take_family(&mut self, family: AfSpecUnspec) {
        let AfSpecUnspec::Inet6(settings) = family else {
            return;
        };
        for setting in settings {
            match setting {
                AfSpecInet6::AddrGenMode(mode) => {
                    self.makes_addresses = mode != In6AddrGenMode::None;
                }
                AfSpecInet6::DevConf(settings) => self.has_ipv6 = settings.disable_ipv6 == 0,
                _ => {}
            }
        }
    }
}

impl Link {
    /// Reads a link's message.
    pub(super) fn of(payload: &[u8]) -> io::Result<Self> {
        let header = LinkHeader::parse(payload).map_err(malformed)?;
        let mut link = Self {
            index: header.index,
            flags: header.flags,
            layer: header.link_layer_type,
            ..Self::default()
        };
        let family = header.interface_family;
        for attribute in NlasIterator::new(payload.get(header.buffer_len()..).unwrap_or_default()) {
            let attribute = attribute.map_err(malformed)?;
            match attribute.kind() {
                libc::IFLA_IFNAME => link.name = text(attribute.value()),
                libc::IFLA_IFALIAS => link.alias = Some(text(attribute.value())),
                _ => {
                    if let Ok(attribute) = LinkAttribute::parse_with_param(&attribute, family) {
                        link.take(attribute);
                    }
                }
            }
        }
        Ok(link)
    }

    fn take(&mut self, attribute: LinkAttribute) {
        match attribute {
            LinkAttribute::Mtu(mtu) => self.mtu = mtu,
            LinkAttribute::Address(address) => self.address = address,
            LinkAttribute::Controller(index) => self.controller = Some(index),
            LinkAttribute::Link(index) => self.peer = Some(index),
            LinkAttribute::LinkNetNsId(id) => self.peer_nsid = Some(id),
            LinkAttribute::GsoMaxSize(size) => self.gso_max_size = Some(size),
            LinkAttribute::GsoIpv4MaxSize(size) => self.gso_ipv4_max_size = Some(size),
            LinkAttribute::Xdp(settings) => {
                self.has_xdp = settings.iter().any(|setting| {
                    let native = [XdpAttached::Driver, XdpAttached::Multiple];
                    matches!(setting, LinkXdp::Attached(mode) if native.contains(mode))
                });
            }
            LinkAttribute::LinkInfo(infos) => {
                for info in infos {
                    self.take_info(info);
                }
            }
            LinkAttribute::AfSpecUnspec(families) => {
                for family in families {
                    self.take_family(family);
                }
            }
            _ => {}
        }
    }
}

/// A string of the kernel, which ends with a zero. Bytes that are no UTF-8 become U+FFFD, which no
/// name and no alias of ours has.
fn text(bytes: &[u8]) -> String {
    let end = bytes.iter().position(|byte| *byte == 0);
    let bytes = bytes.get(..end.unwrap_or(bytes.len())).unwrap_or_default();
    String::from_utf8_lossy(bytes).into_owned()
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
                doubtful: header.flags.intersects(
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
            doubtful: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use netlink_packet_core::DefaultNla;

    use super::*;

    fn link(attributes: &[DefaultNla]) -> Link {
        let mut payload = vec![0; 16];
        payload[4..8].copy_from_slice(&7_u32.to_ne_bytes());
        let mut tail = vec![0; attributes.buffer_len()];
        attributes.emit(&mut tail);
        payload.extend(tail);
        Link::of(&payload).unwrap()
    }

    #[test]
    fn a_link_with_strings_that_are_no_text_is_read_all_the_same() {
        const ALT_IFNAME: u16 = 53;
        let read = link(&[
            DefaultNla::new(libc::IFLA_IFNAME, b"et\xffh0\0".to_vec()),
            DefaultNla::new(ALT_IFNAME, b"\xff\0".to_vec()),
            DefaultNla::new(libc::IFLA_IFALIAS, b"\xff".to_vec()),
            DefaultNla::new(libc::IFLA_MTU, 1450_u32.to_ne_bytes().to_vec()),
        ]);
        assert_eq!((read.index, read.mtu), (7, 1450));
        assert_eq!(read.name, "et\u{fffd}h0");
        assert_eq!(read.alias.as_deref(), Some("\u{fffd}"));
    }

    #[test]
    fn an_attribute_of_the_wrong_length_is_left_out() {
        let read = link(&[
            DefaultNla::new(libc::IFLA_MTU, vec![1]),
            DefaultNla::new(libc::IFLA_IFNAME, b"eth0\0".to_vec()),
        ]);
        assert_eq!((read.mtu, read.name.as_str()), (0, "eth0"));
    }
}
