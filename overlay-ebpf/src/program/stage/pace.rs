//! Has the queue of an interface hold what departs late: the limits of endpoints become the shape of what they send.

use crate::{
    frame::{Action, Frame, PASS},
    maps,
};

/// Further ahead than any limit lets a frame wait, nanoseconds: a queue drops what is to wait longer (`horizon` of
/// tc-fq(8)).
const HORIZON: u64 = 2_000_000_000;

/// Hands a frame's departure time to the queue. All frames pass.
#[inline(always)]
pub fn run(frame: &mut Frame) -> Action {
    if let Some(secret) = maps::voucher()
        && let Some(departure_ns) = frame.take_departure(secret)
        && departure_ns < maps::now() + HORIZON
    {
        frame.depart_at(departure_ns);
    }
    PASS
}
