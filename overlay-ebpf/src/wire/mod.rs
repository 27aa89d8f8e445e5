//! Header codecs: the structures of `network-types` and what the overlay needs to know about them.
//!
//! Nothing here reads a packet: a header comes in by value and goes out by value, so nothing can
//! panic or run past an end. Multi-byte fields are byte arrays in the order of the wire; where a
//! function takes or gives a number, it is in host byte order.

pub mod arp;
pub mod checksum;
pub mod dhcp;
pub mod echo;
pub mod eth;
pub mod icmp;
pub mod icmpv6;
pub mod ipv4;
pub mod ipv6;
pub mod tcp;
pub mod udp;
pub mod vxlan;
