//! The programs that others continue with.
//!
//! The kernel empties a program array with its last pin or descriptor. So each start makes and pins one of its own,
//! under the next number, before it attaches anything, and removes those of earlier starts once no program runs that
//! continues with them.

use std::path::PathBuf;

use aya::{
    Ebpf,
    maps::{Map, MapData, MapError, ProgramArray},
};
use overlay_ebpf::abi::{CALLS, Call};

use super::{
    DatapathError,
    features::{self, classifier, error_chain},
    map_handle::{failed, take},
    pins::{Pins, unpin},
};

/// This start's array, and the handle that holds it when its pin is gone.
pub(super) struct Calls {
    map: MapData,
    pin: PathBuf,
    /// Whether those of earlier starts are gone.
    is_alone: bool,
}

impl Calls {
    /// Loads the programs, fills the array, and pins it.
    pub(super) fn load(ebpf: &mut Ebpf, pins: &Pins) -> Result<Self, DatapathError> {
        let Map::ProgramArray(map) = load(ebpf)? else {
            return Err(failed("open", CALLS, &MapError::KeyNotFound));
        };
        let last = pins.calls()?.into_iter().max().unwrap_or(0);
        let calls = Self {
            map,
            pin: pins.call(last + 1),
            is_alone: false,
        };
        calls.restore()?;
        Ok(calls)
    }

    /// Pins the array if somebody removed the pin.
    pub(super) fn restore(&self) -> Result<(), DatapathError> {
        if self.pin.exists() {
            return Ok(());
        }
        self.map
            .pin(&self.pin)
            .map_err(|error| DatapathError::Kernel {
                what: format!("can't pin BPF map {CALLS}"),
                cause: error_chain(&error),
            })
    }

    /// Whether arrays of earlier starts may be there.
    pub(super) fn has_others(&self) -> bool {
        !self.is_alone
    }

    /// Removes the arrays of earlier starts, whose programs run nowhere any more.
    pub(super) fn retire_others(&mut self, pins: &Pins) -> Result<(), DatapathError> {
        let others = pins.calls()?.into_iter().map(|number| pins.call(number));
        for pin in others.filter(|pin| *pin != self.pin) {
            unpin(&pin)?;
        }
        self.is_alone = true;
        Ok(())
    }
}

/// Loads the programs that others continue with, and gives the array of them: it is empty once nobody holds it.
pub(super) fn load(ebpf: &mut Ebpf) -> Result<Map, DatapathError> {
    let mut map = take(ebpf, CALLS)?;
    let mut array: ProgramArray<&mut MapData> = (&mut map)
        .try_into()
        .map_err(|error| failed("open", CALLS, &error))?;
    for (call, name) in Call::ALL {
        let program = classifier(ebpf, name)?;
        program
            .load()
            .map_err(|error| features::failed("load", name, &error))?;
        let program = program
            .fd()
            .map_err(|error| features::failed("look at", name, &error))?;
        array
            .set(call.slot(), program, 0)
            .map_err(|error| failed("write to", CALLS, &error))?;
    }
    Ok(map)
}
