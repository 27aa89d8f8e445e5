//! What one program leaves for the one that continues.

use overlay_ebpf::abi::EndpointEntry;

use super::with_scratch;

/// Keeps an endpoint's row for the programs that continue.
#[inline(always)]
pub fn keep_endpoint(from: &EndpointEntry) {
    with_scratch(|scratch| scratch.from = *from);
}

/// The row that [`keep_endpoint`] kept for the frame.
#[inline(always)]
pub fn kept_endpoint() -> Option<EndpointEntry> {
    with_scratch(|scratch| scratch.from)
}

/// Keeps a frame's departure time for the program that sends it, nanoseconds of `CLOCK_MONOTONIC`; 0: at once.
#[inline(always)]
pub fn keep_departure(departure_ns: u64) {
    with_scratch(|scratch| scratch.departure_ns = departure_ns);
}

/// The departure time that was kept. `None`: at once.
#[inline(always)]
pub fn departure() -> Option<u64> {
    with_scratch(|scratch| scratch.departure_ns).filter(|departure_ns| *departure_ns != 0)
}
