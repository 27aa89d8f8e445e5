//! Tells the agent where its BPF objects are, for
//! `aya::include_bytes_aligned!(env!("OVERLAY_BPF_OBJECT"))`.
//!
//! The objects need a compiler of their own, so `cargo xtask build` makes them beforehand.

use std::env;
use std::path::{Path, PathBuf};

/// What names another object than the one that `cargo xtask build` leaves, and the latter's file.
const OBJECTS: [(&str, &str); 2] = [
    ("OVERLAY_BPF_OBJECT", "overlay.bpf.o"),
    ("OVERLAY_BPF_TRACE_OBJECT", "overlay-trace.bpf.o"),
];

fn main() {
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    for (variable, file) in OBJECTS {
        println!("cargo::rerun-if-env-changed={variable}");
        let object = env::var_os(variable).map_or_else(|| built_object(file), PathBuf::from);
        println!("cargo::rerun-if-changed={}", object.display());
        if object.is_file() {
            println!("cargo::rustc-env={variable}={}", object.display());
        } else {
            println!(
                "cargo::error=there is no BPF object at {}: run `cargo xtask build`",
                object.display()
            );
        }
    }
}

/// Where `cargo xtask build` puts an object.
fn built_object(file: &str) -> PathBuf {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let workspace = package.parent().unwrap_or(Path::new("."));
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    workspace.join(target).join("bpf").join(file)
}
