//! The kinds of objects that this binary knows.

use super::{
    resource::KnownKind,
    router::{Route, Router, RouterPort},
};

/// Every one of them.
pub const KINDS: &[KnownKind] = &[
    KnownKind::of::<Router>(),
    KnownKind::of::<RouterPort>(),
    KnownKind::of::<Route>(),
];
