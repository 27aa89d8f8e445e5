//! Decapsulates: recognises tunnel packets, checks their outer headers, and removes them.

use overlay_ebpf::{
    abi::{DropReason, Feature},
    rule::ecn,
    wire::{
        eth,
        ipv4::{self, Ipv4Hdr},
        ipv6::Ipv6Hdr,
        udp::{self, UdpHdr},
        vxlan::{self, INNER_L3, VxlanHdr},
    },
};

use crate::{
    frame::{Frame, IPV6_IS_LONGER, Tunnel},
    maps,
    packet::{L3, Packet},
};

/// Where the outer UDP header begins.
const OUTER_UDP: usize = eth::LEN + ipv4::LEN;
/// Where the VXLAN header begins.
const VXLAN: usize = OUTER_UDP + udp::LEN;
/// Where the inner frame begins.
const INNER: usize = VXLAN + vxlan::LEN;

/// Whether the frame is a tunnel packet for this VTEP, or the first fragment of one. Others pass untouched,
/// those of a VLAN among them; a tag that names none is no reason (IEEE 802.1Q section 6.9).
#[inline(always)]
pub fn is_ours(frame: &mut Frame) -> Result<bool, DropReason> {
    if frame.protocol() != eth::IPV4
        || !frame.is_for_this_host()
        || (frame.has_vlan_tag() && frame.vlan() != 0)
    {
        return Ok(false);
    }
    if frame.require(VXLAN).is_err() {
        return Ok(false);
    }
    let ip = frame.header::<Ipv4Hdr>(eth::LEN)?;
    if ip.proto != ipv4::UDP
        || u32::from_ne_bytes(ip.dst_addr) != u32::from_ne_bytes(maps::vtep_ip())
    {
        return Ok(false);
    }
    if ip.vihl != ipv4::NO_OPTIONS {
        return refuse_options(frame, ip);
    }
    // Only a first fragment has the ports; later ones come to nothing in the kernel without it.
    if ipv4::is_fragment(ip) && !ipv4::is_first_fragment(ip) {
        return Ok(false);
    }
    Ok(is_our_port(frame.header::<UdpHdr>(OUTER_UDP)?.dst))
}

/// What the outer headers of a packet that [`is_ours`] say, once they are found sound.
#[inline(always)]
pub fn parse(frame: &mut Frame) -> Result<Tunnel, DropReason> {
    if frame.has_vlan_tag() {
        frame.pop_vlan()?;
    }
    frame.require(INNER_L3)?;
    let ip = frame.header::<Ipv4Hdr>(eth::LEN)?;
    let is_fragment = ipv4::is_fragment(ip);
    check_outer(frame, ip, frame.header::<UdpHdr>(OUTER_UDP)?)?;
    // A UDP checksum other than zero may be left unverified (RFC 7348 section 5): the inner
    // packet has its own.
    let header = frame.header::<VxlanHdr>(VXLAN)?;
    if !vxlan::has_vni(header) {
        return Err(DropReason::VxlanFlags);
    }
    if maps::has(Feature::StrictReserved) && vxlan::has_reserved_bits(header) {
        return Err(DropReason::VxlanReserved);
    }
    Ok(Tunnel {
        sender: ip.src_addr,
        vni: vxlan::vni(header),
        inner: eth::Header::parse(frame.header(INNER)?),
        ecn: ip.tos & ipv4::ECN_MASK,
        is_fragment,
    })
}

/// Takes the outer headers off, after their congestion mark went over to the inner packet.
#[inline(always)]
pub fn unpack(frame: &mut Frame, tunnel: &Tunnel, packet: &Packet) -> Result<(), DropReason> {
    let own = packet.ecn(frame)?;
    let mut retyped = 0;
    let flags = match packet.l3 {
        L3::Ipv4 => {
            let merged = ecn::decapsulate(tunnel.ecn, own)?;
            if merged != own {
                ipv4::set_ecn(frame.header_mut(INNER_L3)?, merged);
            }
            maps::decap_flags_ipv4()
        }
        L3::Ipv6 => {
            let merged = ecn::decapsulate(tunnel.ecn, own)?;
            if merged != own {
                let ip = frame.header_mut::<Ipv6Hdr>(INNER_L3)?;
                let [version_class, class_flow, ..] = ip.version_class_flow;
                ip.set_ecn(merged);
                let [_, changed, ..] = ip.version_class_flow;
                frame.mend_sum([version_class, class_flow], [version_class, changed]);
            }
            let flags = maps::decap_flags_ipv6();
            // Without them the frame's protocol would stay stale, the veth's queue would take it for
            // IPv4, and its aggregates would get no further.
            if flags == 0 && frame.retype_as_ipv6() {
                retyped = IPV6_IS_LONGER;
            }
            flags
        }
        L3::Arp | L3::Other => 0,
    };
    frame.shrink_from_tunnel(retyped, flags)?;
    tunnel.inner.emit(frame.header_mut(0)?);
    Ok(())
}

/// The outer IP header's checksum is right, and the lengths agree with each other and with the
/// frame. Of an aggregate the kernel wrote the lengths, and they need not fit 16 bits.
#[inline(always)]
fn check_outer(frame: &Frame, ip: &Ipv4Hdr, udp: &UdpHdr) -> Result<(), DropReason> {
    if !ipv4::has_valid_checksum(ip) {
        return Err(DropReason::OuterMalformed);
    }
    if frame.gso_size() != 0 {
        return Ok(());
    }
    let ip_len = u32::from(u16::from_be_bytes(ip.tot_len));
    let udp_len = u32::from(u16::from_be_bytes(udp.len));
    let least = (udp::LEN + vxlan::LEN + eth::LEN) as u32;
    // Of a fragment the UDP length is the whole packet's.
    if udp_len < least
        || (udp_len + ipv4::LEN as u32 > ip_len && !ipv4::is_fragment(ip))
        || ip_len + eth::LEN as u32 > frame.len()
    {
        return Err(DropReason::OuterMalformed);
    }
    Ok(())
}

/// A packet with IP options is nobody's business but the kernel's, unless it is for our port.
#[inline(always)]
fn refuse_options(frame: &Frame, ip: &Ipv4Hdr) -> Result<bool, DropReason> {
    let header_len = usize::from(ip.vihl & 0x0f) * 4;
    let port = eth::LEN + header_len + core::mem::offset_of!(UdpHdr, dst);
    match frame.load::<[u8; 2]>(port) {
        Ok(port) if is_our_port(port) => Err(DropReason::OuterOptions),
        _ => Ok(false),
    }
}

#[inline(always)]
fn is_our_port(port: [u8; 2]) -> bool {
    u16::from_ne_bytes(port) == u16::from_ne_bytes(maps::vtep_port())
}
