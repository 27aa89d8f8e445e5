//! `external`: the VXLAN device that does what the programs can't.

/// The slots of `external`.
#[derive(Debug)]
pub struct External;

impl External {
    /// The device's interface index; 0: there is none.
    pub const IFINDEX: u32 = 0;
    /// What a packet carries that is left to the device: random, never 0, chosen once. Nobody else knows it.
    pub const VOUCHER: u32 = 1;
    /// How many there are.
    pub const SLOTS: u32 = 2;
}
