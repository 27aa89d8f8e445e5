//! The kinds of objects that this binary knows.

use super::{
    dhcp::Dhcp,
    outside::{Block, Float, Pool, SharedAddress, Snat},
    outside_history::OutsideHistory,
    qos::{Qos, QosBinding},
    resource::KnownKind,
    router::{Route, Router, RouterPort},
};

/// Every one of them.
pub const KINDS: &[KnownKind] = &[
    KnownKind::of::<Router>(),
    KnownKind::of::<RouterPort>(),
    KnownKind::of::<Route>(),
    KnownKind::of::<Float>(),
    KnownKind::of::<Pool>(),
    KnownKind::of::<Snat>(),
    KnownKind::of::<SharedAddress>(),
    KnownKind::of::<Block>(),
    KnownKind::of::<OutsideHistory>(),
    KnownKind::of::<Dhcp>(),
    KnownKind::of::<Qos>(),
    KnownKind::of::<QosBinding>(),
];
