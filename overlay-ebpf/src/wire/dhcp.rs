//! Who speaks DHCP, by its ports (RFC 2131 section 4.1, RFC 8415 section 7.2).

/// Who sends a packet.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Neither: it is another protocol's, or a relay's.
    None,
    /// A client, to servers.
    Client,
    /// A server, to a client.
    Server,
}

/// UDP ports in front of the header, source and destination; order of the wire.
const fn ports(source: u16, destination: u16) -> u32 {
    let ([a, b], [c, d]) = (source.to_be_bytes(), destination.to_be_bytes());
    u32::from_ne_bytes([a, b, c, d])
}

const CLIENT_V4: u32 = ports(68, 67);
const SERVER_V4: u32 = ports(67, 68);
const CLIENT_V6: u32 = ports(546, 547);
const SERVER_V6: u32 = ports(547, 546);

/// Who sends an IPv4 packet with these ports, source and destination, order of the wire.
#[must_use]
#[inline(always)]
pub const fn role_v4(ports: [u8; 4]) -> Role {
    match u32::from_ne_bytes(ports) {
        CLIENT_V4 => Role::Client,
        SERVER_V4 => Role::Server,
        _ => Role::None,
    }
}

/// The same for IPv6.
#[must_use]
#[inline(always)]
pub const fn role_v6(ports: [u8; 4]) -> Role {
    match u32::from_ne_bytes(ports) {
        CLIENT_V6 => Role::Client,
        SERVER_V6 => Role::Server,
        _ => Role::None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ports_tell_who_speaks() {
        for (ports, v4, v6) in [
            ([0, 68, 0, 67], Role::Client, Role::None),
            ([0, 67, 0, 68], Role::Server, Role::None),
            ([2, 34, 2, 35], Role::None, Role::Client),
            ([2, 35, 2, 34], Role::None, Role::Server),
            ([0, 67, 0, 67], Role::None, Role::None),
            ([0x30, 0x39, 0, 67], Role::None, Role::None),
        ] {
            assert_eq!((role_v4(ports), role_v6(ports)), (v4, v6), "{ports:?}");
        }
    }
}
