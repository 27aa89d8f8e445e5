//! Parses the BPF object, sets its globals and capacities, loads and pins its programs.

use std::fs;

use aya::{Ebpf, EbpfLoader, include_bytes_aligned, programs::SchedClassifier};
use overlay_ebpf::abi::{Feature, global, map};

use super::{
    DatapathError, DatapathSettings,
    features::{self, DecapFlags, classifier, error_chain},
    pins::{Pins, unpin},
    tables::set_capacities,
};

/// The BPF object: an ELF file with the programs, their maps and BTF.
pub static OBJECT: &[u8] = include_bytes_aligned!(env!("OVERLAY_BPF_OBJECT"));

/// The same, with programs that tell what decided over a frame's way.
pub static TRACE_OBJECT: &[u8] = include_bytes_aligned!(env!("OVERLAY_BPF_TRACE_OBJECT"));

/// The global that aya-log's macros ask before they do anything.
const LOG_LEVEL: &str = "AYA_LOG_LEVEL";
const LOG_OFF: u8 = 0;
/// `aya_log_common::Level::Debug`.
const LOG_DEBUG: u8 = 4;

/// Parses the object as the probes want it: without an instance, and silent.
pub(super) fn parse_for_probes() -> Result<Ebpf, DatapathError> {
    parse(
        EbpfLoader::new().override_global(LOG_LEVEL, &LOG_OFF, true),
        OBJECT,
    )
}

fn parse(loader: &mut EbpfLoader<'_>, object: &[u8]) -> Result<Ebpf, DatapathError> {
    loader.load(object).map_err(|error| DatapathError::Kernel {
        what: "can't load the BPF object".to_owned(),
        cause: error_chain(&error),
    })
}

/// Parses the object for this instance: its globals, capacities and pinned maps.
pub(super) fn open(
    settings: &DatapathSettings,
    pins: &Pins,
    decap: DecapFlags,
) -> Result<Ebpf, DatapathError> {
    open_object(OBJECT, settings, pins, decap)
}

/// The same with the object whose programs tell what decided over a frame's way.
pub(super) fn open_traced(
    settings: &DatapathSettings,
    pins: &Pins,
    decap: DecapFlags,
) -> Result<Ebpf, DatapathError> {
    let silent = DatapathSettings {
        log_drops: false,
        ..settings.clone()
    };
    open_object(TRACE_OBJECT, &silent, pins, decap)
}

fn open_object(
    object: &[u8],
    settings: &DatapathSettings,
    pins: &Pins,
    decap: DecapFlags,
) -> Result<Ebpf, DatapathError> {
    let vtep_ip = u32::from_ne_bytes(settings.vtep_ip.octets());
    let vtep_port = settings.vtep_port.to_be();
    let features = if settings.strict_reserved {
        Feature::StrictReserved.bit()
    } else {
        0
    };
    let log_level = if settings.log_drops {
        LOG_DEBUG
    } else {
        LOG_OFF
    };
    let mut loader = EbpfLoader::new();
    loader
        .override_global(global::UNDERLAY_IFINDEX, &settings.underlay_ifindex, true)
        .override_global(global::VTEP_IP_BE, &vtep_ip, true)
        .override_global(global::VTEP_PORT_BE, &vtep_port, true)
        .override_global(global::FEATURES, &features, true)
        .override_global(global::DECAP_FLAGS_IPV4, &decap.ipv4, true)
        .override_global(global::DECAP_FLAGS_IPV6, &decap.ipv6, true)
        .override_global(LOG_LEVEL, &log_level, true);
    set_capacities(&mut loader, settings);
    for name in map::ALL {
        loader.map_pin_path(name, pins.map(name));
    }
    parse(&mut loader, object)
}

/// The id that the kernel gave to a program of the object.
pub(super) fn program_id(ebpf: &mut Ebpf, name: &str) -> Result<u32, DatapathError> {
    let info = classifier(ebpf, name)?.info();
    info.map(|info| info.id())
        .map_err(|error| features::failed("look at", name, &error))
}

/// Loads a program into the kernel.
pub(super) fn load<'a>(
    ebpf: &'a mut Ebpf,
    name: &str,
) -> Result<&'a mut SchedClassifier, DatapathError> {
    let program: &mut SchedClassifier = classifier(ebpf, name)?;
    program
        .load()
        .map_err(|error| features::failed("load", name, &error))?;
    Ok(program)
}

/// Loads a program and pins it over an older version's pin.
pub(super) fn load_and_pin(ebpf: &mut Ebpf, pins: &Pins, name: &str) -> Result<(), DatapathError> {
    let program = load(ebpf, name)?;
    let pin = pins.program(name);
    let fresh = pins.program(&format!("{name}-new"));
    unpin(&fresh)?;
    program.pin(&fresh).map_err(|error| DatapathError::Kernel {
        what: format!("can't pin BPF program {name}"),
        cause: error_chain(&error),
    })?;
    fs::rename(&fresh, &pin).map_err(|error| DatapathError::Kernel {
        what: format!("can't pin BPF program {name}"),
        cause: error.to_string(),
    })
}
