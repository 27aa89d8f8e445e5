//! Removes mappings and flows whose time is over, as the agent asks: programs change these tables, and so only a program may.

use core::mem::offset_of;

use overlay_ebpf::{
    abi::{DropReason, FlowKey, Sweep},
    rule::nat,
};

use crate::{
    frame::{Action, Frame, OnStack},
    maps::{self, FlowOf},
    ports,
};

/// Does what a frame of the agent's says; gives how many went.
#[inline(always)]
pub fn run(frame: &mut Frame) -> Result<Action, DropReason> {
    frame.require(Sweep::OFFSET + size_of::<Sweep>())?;
    let field = |offset| frame.load::<[u8; 4]>(Sweep::OFFSET + offset);
    let [kind, count, start] = [
        field(offset_of!(Sweep, kind))?,
        field(offset_of!(Sweep, count))?,
        field(offset_of!(Sweep, start))?,
    ]
    .map(u32::from_ne_bytes);
    if kind == Sweep::PORTS {
        return Ok(ports::sweep(count, start) as Action);
    }
    let mut removed = 0;
    for index in 0..Sweep::KEYS {
        if index as u32 >= count {
            break;
        }
        let mut key = OnStack([0; size_of::<FlowKey>()]);
        let at = Sweep::OFFSET + offset_of!(Sweep, keys) + index * size_of::<FlowKey>();
        frame.load_into(at, &mut key.0)?;
        let key: FlowKey = bytemuck::must_cast(key.0);
        if end(key, kind == Sweep::EVERY_FLOW) {
            removed += 1;
        }
    }
    Ok(removed)
}

/// Removes a flow whose time is over, or whose mapping's is.
#[inline(always)]
fn end(key: FlowKey, is_forced: bool) -> bool {
    let protocol = key.protocol as u8;
    let flow = FlowOf::of(key);
    let Some(found) = flow.find() else {
        return false;
    };
    let held = found.read();
    let port = maps::port(held.slot).filter(|port| port.epoch() == held.epoch);
    let idle_s = maps::now_s().wrapping_sub(held.used_s);
    if !is_forced && port.is_some() && !nat::is_flow_over(protocol, held.state, idle_s) {
        return false;
    }
    let is_removed = flow.remove();
    if let Some(port) = port
        && is_removed
        && nat::is_established(held.state)
    {
        port.count_established(false);
    }
    is_removed
}
