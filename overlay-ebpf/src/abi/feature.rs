//! What is switched on when the programs are loaded. The verifier takes out what is not, so that it costs nothing.

/// A bit of the global `FEATURES`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u32)]
pub enum Feature {
    /// VXLAN headers with reserved bits set are dropped.
    StrictReserved = 1,
}

impl Feature {
    /// The bit.
    #[must_use]
    #[inline(always)]
    pub const fn bit(self) -> u32 {
        self as u32
    }
}
