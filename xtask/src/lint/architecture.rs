//! The architecture as tables: allowed imports, allowed crates, files with unsafe code.

/// A crate of ours: where its root module is, and the name that other crates call it by.
pub(super) struct Crate {
    /// What the tables call it.
    pub(super) name: &'static str,
    /// The folder of its root module.
    pub(super) folder: &'static str,
    /// Its name in paths; the BPF object is a binary and has none.
    pub(super) extern_name: Option<&'static str>,
}

/// The crates whose inner structure has rules. A folder inside another comes first.
pub(super) const CRATES: [Crate; 3] = [
    Crate {
        name: "program",
        folder: "overlay-ebpf/src/program/",
        extern_name: None,
    },
    Crate {
        name: "ebpf",
        folder: "overlay-ebpf/src/",
        extern_name: Some("overlay_ebpf"),
    },
    Crate {
        name: "user",
        folder: "overlay-user/src/",
        extern_name: Some("overlay_user"),
    },
];

/// The imports that are allowed. Modules are `crate::module`; a module's own files may import each other,
/// and roots (lib.rs, main.rs) may import everything.
///
/// `traits:MODULE` are the items that the module's mod.rs itself defines: traits and their types. What it
/// only passes on from its files is an implementation. `*` is everything: the place where things are put
/// together.
pub(super) const IMPORTS: [(&str, &str); 25] = [
    ("ebpf::abi", ""),
    ("ebpf::wire", ""),
    ("ebpf::rule", "ebpf::abi ebpf::wire"),
    ("program::frame", "ebpf::abi ebpf::wire"),
    (
        "program::packet",
        "program::frame ebpf::rule ebpf::wire ebpf::abi",
    ),
    ("program::step", "program::frame ebpf::abi"),
    // A tail call takes the frame along.
    (
        "program::maps",
        "program::frame ebpf::rule ebpf::abi ebpf::wire",
    ),
    ("program::probe", "program::frame ebpf::abi"),
    (
        "program::refusal",
        "program::frame program::maps ebpf::rule ebpf::abi",
    ),
    (
        "program::exit",
        "program::frame program::maps ebpf::rule ebpf::abi",
    ),
    (
        "program::ports",
        "program::frame program::maps ebpf::rule ebpf::abi",
    ),
    (
        "program::sweep",
        "program::frame program::maps program::ports ebpf::rule ebpf::abi",
    ),
    (
        "program::stage",
        "program::frame program::packet program::step program::maps program::refusal program::exit program::ports ebpf::rule ebpf::wire ebpf::abi",
    ),
    (
        "program::ping",
        // The way of an endpoint's frames, which it is to take: stages put together.
        "program::frame program::maps program::stage ebpf::rule ebpf::wire ebpf::abi",
    ),
    (
        "program::pipeline",
        // The order of the stages, and nothing else.
        "program::frame program::packet program::step program::maps program::refusal program::exit program::stage program::ping ebpf::rule ebpf::wire ebpf::abi",
    ),
    ("user::model", ""),
    ("user::registry", "user::model"),
    ("user::platform", "user::model"),
    // Echoes are made in the datapath and read by the programs; flows the other way round.
    (
        "user::datapath",
        "user::model ebpf::abi ebpf::rule ebpf::wire",
    ),
    (
        "user::reconcile",
        // The registry's rules are pure: what is written is held to them, and what is read.
        "user::model traits:user::registry user::registry::rules traits:user::platform traits:user::datapath",
    ),
    ("user::integration", "user::model"),
    // The registry's settings are a part of the configuration.
    ("user::config", "user::model traits:user::registry"),
    ("user::observe", "user::model user::agent::client"),
    (
        "user::cli",
        // The words that commands are made of, and the client with what it sends and gets.
        "user::model user::agent::client user::agent::api user::config user::observe",
    ),
    ("user::agent", "*"),
];

/// Modules whose files are kept apart from each other: one network function each, put together by
/// the root alone.
pub(super) const KEPT_APART: [&str; 1] = ["program::stage"];

/// Crates that few may name, and the folders that may.
pub(super) const WRAPPED_CRATES: [(&str, &[&str]); 7] = [
    (
        "aya",
        &[
            "overlay-user/src/datapath/",
            "overlay-ebpf/src/abi/",
            // Table tests run programs, the benchmark watches a map: neither has an agent's part.
            "tests/",
        ],
    ),
    ("aya_log", &["overlay-user/src/datapath/"]),
    ("rtnetlink", &["overlay-user/src/platform/"]),
    ("netlink_packet_route", &["overlay-user/src/platform/"]),
    ("netlink_sys", &["overlay-user/src/platform/"]),
    ("ethtool", &["overlay-user/src/platform/"]),
    (
        // Elsewhere its values go by the model's name, its operations by the agent's.
        "overlay_api",
        &[
            "overlay-user/api/",
            "overlay-user/src/agent/",
            "overlay-user/src/integration/",
            "overlay-user/src/model/",
        ],
    ),
];

/// Files that may contain `unsafe`.
pub(super) const UNSAFE: [&str; 19] = [
    // Says to aya that its map types are plain old data.
    "overlay-ebpf/src/abi/mod.rs",
    // Reads and writes packets between checked bounds.
    "overlay-ebpf/src/program/frame.rs",
    // Leaves words in a frame's context.
    "overlay-ebpf/src/program/frame/departure.rs",
    // Takes packets to and from the kernel's tunnel device.
    "overlay-ebpf/src/program/frame/slow_path.rs",
    // Has the kernel mend the checksums of what is translated.
    "overlay-ebpf/src/program/frame/translate.rs",
    // Map values are memory that the kernel shares.
    "overlay-ebpf/src/program/maps.rs",
    // The same, of what is counted of drops.
    "overlay-ebpf/src/program/maps/drops.rs",
    // The same, of what the agent is to answer.
    "overlay-ebpf/src/program/maps/punt.rs",
    // The same, of what several CPUs change at once.
    "overlay-ebpf/src/program/maps/nat.rs",
    // The same, of packets in fragments.
    "overlay-ebpf/src/program/maps/fragments.rs",
    // The same, of a CPU's own.
    "overlay-ebpf/src/program/maps/hop.rs",
    // Instructions that `core` does not offer.
    "overlay-ebpf/src/program/maps/atomic.rs",
    // Some of it several CPUs change at the same time.
    "overlay-ebpf/src/program/maps/meter.rs",
    // The same, of what is told of a look-up.
    "overlay-ebpf/src/program/maps/trace.rs",
    // Names of functions that the verifier looks at by themselves.
    "overlay-ebpf/src/program/stage/meter.rs",
    // Names of sections and symbols that the loader expects.
    "overlay-ebpf/src/program/main.rs",
    // Makes a system call that aya does not offer.
    "overlay-user/src/datapath/batch.rs",
    // Makes one system call where aya makes many.
    "overlay-user/src/datapath/query.rs",
    // Makes a packet socket's address, for which nix has no safe constructor.
    "tests/lab/src/frame.rs",
];

/// Longest file without its tests, lines.
pub(super) const LONGEST_FILE: usize = 600;
