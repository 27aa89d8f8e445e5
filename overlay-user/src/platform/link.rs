//! A link as the kernel describes it.
//!
//! The kernel's strings are bytes: each attribute is read by itself, and one that does not parse is
//! left out. So an owner of a namespace can't make its links unreadable by what it writes on them.

use std::io;

use netlink_packet_core::{DecodeError, Emitable as _, NlasIterator, ParseableParametrized as _};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoVxlan, LinkAttribute, LinkFlags, LinkHeader, LinkInfo, LinkLayerType, LinkXdp, XdpAttached,
};

/// A bridge port that passes nothing on to other ports and takes nothing from them: `isolated`
/// keeps two such ports apart. The others keep the bridge's own frames from them too.
pub(super) const ISOLATED: [InfoBridgePort; 5] = [
    InfoBridgePort::Isolated(true),
    InfoBridgePort::Learning(false),
    InfoBridgePort::UnicastFlood(false),
    InfoBridgePort::MulticastFlood(false),
    InfoBridgePort::BroadcastFlood(false),
];

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
    /// Of a bridge's port: the settings of [`ISOLATED`] that it has.
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

/// What is not as the protocol says is an error of the one answer.
pub(super) fn malformed(error: DecodeError) -> io::Error {
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

#[cfg(test)]
mod tests {
    use netlink_packet_core::{DefaultNla, Emitable as _};

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
