//! Pins that somebody removed. The programs run on without them, and the maps stay: but the next agent
//! would begin with empty ones.

use std::path::Path;

use aya::{Ebpf, maps::MapData, pin::PinError};
use overlay_ebpf::abi::{map, program};

use super::{
    DatapathError,
    features::{classifier, error_chain},
    map_handle::failed,
    pins::Pins,
};

/// The programs that are pinned.
pub(super) const PROGRAMS: [&str; 5] = [
    program::ENDPOINT_INGRESS,
    program::UNDERLAY_INGRESS,
    program::EXTERNAL_INGRESS,
    program::UPLINK_INGRESS,
    program::PACE,
];

/// The maps that are pinned, by handles that hold them when their pins are gone.
pub(super) struct PinnedMaps(Vec<(&'static str, MapData)>);

impl PinnedMaps {
    /// Takes a handle of each.
    pub(super) fn open(pins: &Pins) -> Result<Self, DatapathError> {
        let open = |name| match MapData::from_pin(pins.map(name)) {
            Ok(map) => Ok((name, map)),
            Err(error) => Err(failed("open", name, &error)),
        };
        map::ALL
            .into_iter()
            .map(open)
            .collect::<Result<_, _>>()
            .map(Self)
    }

    /// Pins those again that have no pin.
    pub(super) fn restore(&self, pins: &Pins) -> Result<(), DatapathError> {
        for (name, map) in &self.0 {
            pin_if_missing(name, &pins.map(name), |path| map.pin(path))?;
        }
        Ok(())
    }
}

/// Pins programs again that have no pin.
pub(super) fn restore_programs(ebpf: &mut Ebpf, pins: &Pins) -> Result<(), DatapathError> {
    for name in PROGRAMS {
        let program = classifier(ebpf, name)?;
        pin_if_missing(name, &pins.program(name), |path| program.pin(path))?;
    }
    Ok(())
}

fn pin_if_missing(
    name: &str,
    path: &Path,
    pin: impl FnOnce(&Path) -> Result<(), PinError>,
) -> Result<(), DatapathError> {
    match path.try_exists() {
        Ok(true) => return Ok(()),
        Ok(false) => {}
        Err(error) => {
            return Err(DatapathError::Kernel {
                what: format!("can't look for the pin of {name}"),
                cause: error.to_string(),
            });
        }
    }
    tracing::warn!(name, "the pin is gone: pinning again");
    pin(path).map_err(|error| DatapathError::Kernel {
        what: format!("can't pin {name} again"),
        cause: error_chain(&error),
    })
}
