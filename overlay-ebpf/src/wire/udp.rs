//! UDP (RFC 768).

pub use network_types::udp::UdpHdr;

/// Bytes of the header.
pub const LEN: usize = UdpHdr::LEN;

/// An outer header. The checksum is 0, as RFC 7348 section 5 recommends over IPv4.
/// `source_port` and `len` in host byte order, `destination_port` in that of the wire.
#[must_use]
#[inline(always)]
pub const fn outer(source_port: u16, destination_port: [u8; 2], len: u16) -> UdpHdr {
    UdpHdr {
        src: source_port.to_be_bytes(),
        dst: destination_port,
        len: len.to_be_bytes(),
        check: [0; 2],
    }
}
