//! Frames by hand: written to and read from an interface as they are.

use std::{
    net::{Ipv4Addr, SocketAddr, UdpSocket},
    os::fd::{AsRawFd, OwnedFd},
    ptr,
    time::{Duration, Instant},
};

use etherparse::{
    ArpOperation, ArpPacket, EtherType, IpEcn, IpHeaders, IpNumber, Ipv4Header, PacketBuilder,
    SlicedPacket,
};
use nix::{
    errno::Errno,
    net::if_::if_nametoindex,
    sys::{
        socket::{
            AddressFamily, LinkAddr, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrLike,
            bind, recv, send, setsockopt, socket, sockopt,
        },
        time::{TimeVal, TimeValLike},
    },
};

use crate::{netns::Netns, wait::WAIT_TIMEOUT};

/// A MAC's octets.
pub type Mac = [u8; 6];

/// Everyone.
pub const BROADCAST: Mac = [0xff; 6];

/// The MAC that an endpoint with this address has unless it is told otherwise.
pub fn default_mac(ip: &str) -> Mac {
    let [a, b, c, d] = ip.parse::<Ipv4Addr>().unwrap().octets();
    [0x02, 0x42, a, b, c, d]
}

/// Whose a frame says that it is.
#[derive(Debug, Clone, Copy)]
pub struct Party<'a> {
    /// MAC.
    pub mac: Mac,
    /// IPv4 address.
    pub ip: &'a str,
}

impl<'a> Party<'a> {
    /// The endpoint with this address and the MAC that follows from it.
    pub fn at(ip: &'a str) -> Self {
        Self {
            mac: default_mac(ip),
            ip,
        }
    }

    /// The same with another MAC.
    #[must_use]
    pub fn with_mac(self, mac: Mac) -> Self {
        Self { mac, ..self }
    }

    fn octets(self) -> [u8; 4] {
        self.ip.parse::<Ipv4Addr>().unwrap().octets()
    }
}

/// A broadcast ARP request in a frame from `link`: the sender says that it is `sender`.
pub fn arp_request(link: Mac, sender: Party<'_>, target: &str) -> Vec<u8> {
    let target = Party {
        mac: [0; 6],
        ip: target,
    };
    let packet = ArpPacket::new(
        etherparse::ArpHardwareId::ETHERNET,
        EtherType::IPV4,
        ArpOperation::REQUEST,
        &sender.mac,
        &sender.octets(),
        &[0; 6],
        &target.octets(),
    )
    .unwrap();
    let builder = PacketBuilder::ethernet2(link, BROADCAST).arp(packet);
    let mut frame = Vec::new();
    builder.write(&mut frame).unwrap();
    frame
}

/// A UDP datagram over IPv4 in an Ethernet frame.
pub fn udp(from: Party<'_>, to: Party<'_>, ecn: IpEcn, payload: &[u8]) -> Vec<u8> {
    let mut ip = Ipv4Header::new(0, 64, IpNumber::UDP, from.octets(), to.octets()).unwrap();
    ip.ecn = ecn;
    let builder = PacketBuilder::ethernet2(from.mac, to.mac)
        .ip(IpHeaders::Ipv4(ip, etherparse::Ipv4Extensions::default()))
        .udp(5001, 5002);
    let mut frame = Vec::new();
    builder.write(&mut frame, payload).unwrap();
    frame
}

/// The frame with these VLAN tags in front of what it carries, the outermost first.
pub fn tagged(frame: &[u8], tags: &[u16]) -> Vec<u8> {
    let tags = tags.iter().flat_map(|tag| {
        let [high, low] = tag.to_be_bytes();
        [0x81, 0x00, high, low]
    });
    let (addresses, rest) = frame.split_at(12);
    [addresses, &tags.collect::<Vec<u8>>(), rest].concat()
}

/// A VXLAN header (RFC 7348 section 5) with these flags and what it carries.
pub fn vxlan(flags: u8, vni: u32, inner: &[u8]) -> Vec<u8> {
    let [_, high, middle, low] = vni.to_be_bytes();
    [&[flags, 0, 0, 0, high, middle, low, 0], inner].concat()
}

/// The I flag: the VNI is valid.
pub const VNI_IS_VALID: u8 = 0x08;

/// Sends a UDP payload to port 4789 of `to` from `netns`, with `ecn` in the IP header.
pub fn tunnel(netns: &Netns, to: Ipv4Addr, ecn: IpEcn, payload: &[u8]) {
    let socket = netns.enter(|| UdpSocket::bind("0.0.0.0:0").unwrap());
    setsockopt(&socket, sockopt::Ipv4Tos, &i32::from(ecn.value())).unwrap();
    socket
        .send_to(payload, SocketAddr::from((to, 4789)))
        .unwrap();
}

/// What an answer to an ARP request says: who has the address.
pub fn arp_reply(frame: &[u8]) -> Option<(Ipv4Addr, Mac)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(etherparse::NetSlice::Arp(arp)) = packet.net else {
        return None;
    };
    if arp.operation() != ArpOperation::REPLY {
        return None;
    }
    let ip: [u8; 4] = arp.sender_protocol_addr().try_into().ok()?;
    Some((ip.into(), arp.sender_hw_addr().try_into().ok()?))
}

/// The ECN field and the payload of a UDP datagram over IPv4.
pub fn udp_payload(frame: &[u8]) -> Option<(IpEcn, Vec<u8>)> {
    let packet = SlicedPacket::from_ethernet(frame).ok()?;
    let Some(etherparse::NetSlice::Ipv4(ip)) = &packet.net else {
        return None;
    };
    let Some(etherparse::TransportSlice::Udp(udp)) = &packet.transport else {
        return None;
    };
    Some((ip.header().ecn(), udp.payload().to_vec()))
}

/// An interface as frames see it.
#[derive(Debug)]
pub struct RawSocket(OwnedFd);

impl RawSocket {
    /// Opens `ifname` in `netns`.
    pub fn open(netns: &Netns, ifname: &str) -> Self {
        netns.enter(|| {
            let socket = socket(
                AddressFamily::Packet,
                SockType::Raw,
                SockFlag::SOCK_CLOEXEC,
                SockProtocol::EthAll,
            )
            .unwrap();
            bind(socket.as_raw_fd(), &address_of(ifname)).unwrap();
            setsockopt(&socket, sockopt::ReceiveTimeout, &TimeVal::milliseconds(50)).unwrap();
            Self(socket)
        })
    }

    /// Sends a frame.
    pub fn send(&self, frame: &[u8]) {
        let sent = send(self.0.as_raw_fd(), frame, MsgFlags::empty()).unwrap();
        assert_eq!(sent, frame.len());
    }

    /// What `pick` makes of the next frame that it makes anything of.
    #[track_caller]
    pub fn next<T>(&self, pick: impl Fn(&[u8]) -> Option<T>) -> T {
        let deadline = Instant::now() + WAIT_TIMEOUT;
        loop {
            if let Some(found) = self.receive().and_then(|frame| pick(&frame)) {
                return found;
            }
            assert!(Instant::now() < deadline, "no such frame came");
        }
    }

    /// What `pick` makes of the frames that are there already.
    pub fn all<T>(&self, pick: impl Fn(&[u8]) -> Option<T>) -> Vec<T> {
        let mut found = Vec::new();
        let deadline = Instant::now() + Duration::from_secs(1);
        while let Some(frame) = self.receive().filter(|_| Instant::now() < deadline) {
            found.extend(pick(&frame));
        }
        found
    }

    /// The next frame; none within a moment.
    fn receive(&self) -> Option<Vec<u8>> {
        let mut buffer = vec![0; 65_536];
        match recv(self.0.as_raw_fd(), &mut buffer, MsgFlags::empty()) {
            Ok(len) => {
                buffer.truncate(len);
                Some(buffer)
            }
            Err(Errno::EAGAIN | Errno::EINTR) => None,
            Err(error) => panic!("receiving frames: {error}"),
        }
    }
}

fn address_of(ifname: &str) -> LinkAddr {
    let length = libc::socklen_t::try_from(size_of::<libc::sockaddr_ll>()).unwrap();
    let address = libc::sockaddr_ll {
        sll_family: u16::try_from(libc::AF_PACKET).unwrap(),
        sll_protocol: u16::try_from(libc::ETH_P_ALL).unwrap().to_be(),
        sll_ifindex: i32::try_from(if_nametoindex(ifname).unwrap()).unwrap(),
        sll_hatype: 0,
        sll_pkttype: 0,
        sll_halen: 0,
        sll_addr: [0; 8],
    };
    // SAFETY: the pointer is to a whole sockaddr_ll, whose length goes with it.
    let address = unsafe { LinkAddr::from_raw(ptr::from_ref(&address).cast(), Some(length)) };
    address.unwrap()
}
