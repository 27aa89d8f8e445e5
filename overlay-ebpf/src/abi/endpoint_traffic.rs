//! `endpoint_traffic`: what an endpoint of this host sent and received, by its id.

use super::Traffic;

impl Traffic {
    /// Slots of the `endpoint_traffic` array. Slot 0 is nobody's, and endpoints with ids beyond the last are not
    /// counted one by one. For each CPU they take 256 KiB.
    pub const ENDPOINT_SLOTS: u16 = 8192;
}
