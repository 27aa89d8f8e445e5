//! Translates between an endpoint's own address and the external one that it has for itself (RFC 3022 section 2.1).

use overlay_ebpf::{
    abi::DropReason,
    wire::{icmp, ipv4},
};

use crate::{
    exit::{self, Translated},
    frame::{Frame, Side, Translation, Transport},
};

/// Gives a packet of an endpoint's the external address for its source.
#[inline(always)]
pub fn translate_out(
    frame: &mut Frame,
    transport: &Transport,
    own: [u8; 4],
    external: [u8; 4],
) -> Result<Translated, DropReason> {
    let translation = Translation::of_address(Side::Source, own, external);
    translate_error(frame, transport, &translation)?;
    exit::translate(frame, transport, &translation)
}

/// Gives a packet from outside the endpoint's own address for its destination.
#[inline(always)]
pub fn translate_in(
    frame: &mut Frame,
    transport: &Transport,
    external: [u8; 4],
    own: [u8; 4],
) -> Result<(), DropReason> {
    let translation = Translation::of_address(Side::Destination, external, own);
    translate_error(frame, transport, &translation)?;
    frame.translate(transport, &translation)
}

/// What an ICMP error quotes went the other way.
#[inline(always)]
fn translate_error(
    frame: &mut Frame,
    transport: &Transport,
    translation: &Translation,
) -> Result<(), DropReason> {
    if transport.protocol != ipv4::ICMP
        || !transport.is_first
        || !icmp::is_error(frame.icmp_kind(transport)?)
    {
        return Ok(());
    }
    let turned = translation.turned();
    let quoted = frame.quoted(transport)?;
    let quoted_ip = match turned.side {
        Side::Source => quoted.source,
        Side::Destination => quoted.destination,
    };
    if quoted_ip != turned.from.ip {
        return Ok(());
    }
    frame.translate_quoted(transport, &quoted, &turned)
}
