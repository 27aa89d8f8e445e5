//! TCP (RFC 9293).

pub use network_types::tcp::TcpHdr;
