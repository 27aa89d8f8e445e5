//! Builds a change of a link that contains only what is not so yet.

use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoPortData, InfoPortKind, LinkAttribute,
    LinkFlags, LinkInfo, LinkMessage,
};
use rtnetlink::LinkUnspec;

use super::link::{ISOLATED, Link};

/// A request that sets only the attributes that differ. A link without differences causes neither work
/// nor events.
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

    /// The request for it.
    pub(super) fn into_message(self) -> LinkMessage {
        self.message
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

    /// A port of nothing.
    pub(super) fn free(self) -> Self {
        let already = self.link.controller.is_none();
        self.unless(already, LinkAttribute::Controller(0))
    }

    /// The bridge that it is a port of.
    pub(super) fn controller(self, index: u32) -> Self {
        let already = self.link.controller == Some(index);
        self.unless(already, LinkAttribute::Controller(index))
    }

    /// As a bridge's port, kept apart from all others.
    pub(super) fn isolated(self) -> Self {
        let port = &self.link.bridge_port;
        let already = ISOLATED.iter().all(|setting| port.contains(setting));
        let attribute = LinkAttribute::LinkInfo(vec![
            LinkInfo::PortKind(InfoPortKind::Bridge),
            LinkInfo::PortData(InfoPortData::BridgePort(ISOLATED.to_vec())),
        ]);
        self.unless(already, attribute)
    }

    /// No IPv6 addresses but those that somebody gives it.
    pub(super) fn without_addresses(self) -> Self {
        let already = !self.link.makes_addresses;
        let mode = AfSpecInet6::AddrGenMode(In6AddrGenMode::None);
        let attribute = LinkAttribute::AfSpecUnspec(vec![AfSpecUnspec::Inet6(vec![mode])]);
        self.unless(already, attribute)
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
