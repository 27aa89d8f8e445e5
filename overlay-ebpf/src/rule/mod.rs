//! Pure decisions: no packet, no map, no clock.

pub mod departure;
pub mod ecn;
pub mod flow;
pub mod gro;
pub mod icmp;
pub mod miss;
pub mod mtu;
pub mod nat;
pub mod nptv6;
pub mod punt;
pub mod route;
pub mod sample;
pub mod sender;
pub mod source;
pub mod volume;
