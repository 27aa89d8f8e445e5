//! Takes VLAN tags off, and refuses them where none may be.

use overlay_ebpf::abi::DropReason;

use crate::{frame::Frame, packet::Packet};

/// Takes the tag off that an endpoint sent beside its frame.
#[inline(always)]
pub fn untag(frame: &mut Frame) -> Result<(), DropReason> {
    if frame.has_vlan_tag() {
        frame.pop_vlan()?;
    }
    Ok(())
}

/// Refuses a frame with a tag out of a tunnel (RFC 7348 section 6.1), beside it or in it.
#[inline(always)]
pub fn refuse(frame: &Frame, packet: &Packet) -> Result<(), DropReason> {
    if frame.has_vlan_tag() || packet.eth.is_tagged() {
        return Err(DropReason::InnerVlan);
    }
    Ok(())
}
