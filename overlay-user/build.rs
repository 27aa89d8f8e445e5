//! Tells the agent where its BPF object is, for
//! `aya::include_bytes_aligned!(env!("OVERLAY_BPF_OBJECT"))`.
//!
//! The object needs a compiler of its own, so `cargo xtask build` makes it beforehand.

use std::env;
use std::path::{Path, PathBuf};

/// Names another object than the one that `cargo xtask build` leaves.
const OBJECT: &str = "OVERLAY_BPF_OBJECT";

fn main() {
    println!("cargo::rerun-if-env-changed={OBJECT}");
    println!("cargo::rerun-if-env-changed=CARGO_TARGET_DIR");
    let object = env::var_os(OBJECT).map_or_else(built_object, PathBuf::from);
    println!("cargo::rerun-if-changed={}", object.display());
    if object.is_file() {
        println!("cargo::rustc-env={OBJECT}={}", object.display());
    } else {
        println!(
            "cargo::error=there is no BPF object at {}: run `cargo xtask build`",
            object.display()
        );
    }
}

/// Where `cargo xtask build` puts the object.
fn built_object() -> PathBuf {
    let package = PathBuf::from(env::var_os("CARGO_MANIFEST_DIR").unwrap_or_default());
    let workspace = package.parent().unwrap_or(Path::new("."));
    let target = env::var_os("CARGO_TARGET_DIR").map_or_else(|| "target".into(), PathBuf::from);
    workspace.join(target).join("bpf/overlay.bpf.o")
}
