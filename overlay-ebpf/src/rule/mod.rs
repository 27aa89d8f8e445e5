//! Pure decisions: no packet, no map, no clock.

pub mod ecn;
pub mod flow;
pub mod source;
