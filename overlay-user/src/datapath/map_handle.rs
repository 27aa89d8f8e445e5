//! Opens one map, of a loaded object or by its pin, and checks its shape.

use std::{path::Path, time::Duration};

use aya::{
    Ebpf,
    maps::{Map, MapData, MapError, MapInfo},
};
use nix::time::{ClockId, clock_gettime};
use overlay_ebpf::abi::map;

use super::{DatapathError, features::error_chain, pins::Pins};

/// What went wrong with a map.
pub(super) fn failed(verb: &str, name: &str, error: &MapError) -> DatapathError {
    DatapathError::Kernel {
        what: format!("can't {verb} BPF map {name}"),
        cause: error_chain(error),
    }
}

/// The time of `CLOCK_MONOTONIC`, as the programs read it.
pub(super) fn now() -> Result<Duration, DatapathError> {
    clock_gettime(ClockId::CLOCK_MONOTONIC)
        .map(Duration::from)
        .map_err(|errno| DatapathError::Kernel {
            what: "can't read the clock".to_owned(),
            cause: errno.to_string(),
        })
}

pub(super) fn typed<T: TryFrom<Map, Error = MapError>>(
    ebpf: &mut Ebpf,
    name: &'static str,
) -> Result<T, DatapathError> {
    take(ebpf, name)?
        .try_into()
        .map_err(|error| failed("open", name, &error))
}

pub(super) fn take(ebpf: &mut Ebpf, name: &str) -> Result<Map, DatapathError> {
    ebpf.take_map(name).ok_or_else(|| DatapathError::Kernel {
        what: format!("the BPF object has no map {name}"),
        cause: "it was built from another version".to_owned(),
    })
}

/// Opens a pinned map.
pub(super) fn open_pin(path: &Path, name: &str) -> Result<Map, DatapathError> {
    let data = MapData::from_pin(path).map_err(|error| failed("open the pinned", name, &error))?;
    Map::from_map_data(data).map_err(|error| failed("open the pinned", name, &error))
}

/// What is known of a pinned map; `None`: there is no such pin.
pub(super) fn info(path: &Path, name: &str) -> Result<Option<MapInfo>, DatapathError> {
    if !path.exists() {
        return Ok(None);
    }
    MapInfo::from_pin(path)
        .map(Some)
        .map_err(|error| failed("inspect the pinned", name, &error))
}

/// Refuses a pinned map that has another shape than this version's.
pub(super) fn check_shape(pins: &Pins, name: &str) -> Result<(), DatapathError> {
    let path = pins.map(name);
    let Some(info) = info(&path, name)? else {
        return Ok(());
    };
    let Some((key, value)) = sizes(name) else {
        return Ok(());
    };
    if (info.key_size(), info.value_size()) == (key, value) {
        return Ok(());
    }
    Err(DatapathError::Refused(format!(
        "{} is pinned with keys of {} and values of {} bytes, but this version's have {key} and \
         {value}: something else made it; remove it with `overlay down` and start again",
        path.display(),
        info.key_size(),
        info.value_size(),
    )))
}

/// Bytes of a map's key and value. `None`: there is no such map.
pub(super) fn sizes(name: &str) -> Option<(u32, u32)> {
    let layout = map::LAYOUTS.iter().find(|layout| layout.name == name)?;
    let size = |bytes| u32::try_from(bytes).ok();
    Some((size(layout.key_size)?, size(layout.value_size)?))
}
