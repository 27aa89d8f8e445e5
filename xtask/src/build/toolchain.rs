//! The toolchain that compiles the BPF object.
//!
//! bpfel-unknown-none is a tier 3 target: rustup ships no `core` for it. Either a nightly toolchain
//! builds `core` from its sources, or Debian's rustc-web brings one that is built already. Whether a
//! toolchain and the bpf-linker fit together shows only when they link something, so each candidate
//! has to build a small program before it is chosen.

use std::ffi::OsString;
use std::fmt::{self, Write as _};
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use duct::Expression;

use crate::host;
use crate::progress;
use crate::workspace::{Workspace, without_package_variables, write_if_changed};

const TARGET: &str = "bpfel-unknown-none";

/// Debian's packages put their toolchain here; PATH would find rustup's first.
const DEBIAN_RUSTC: &str = "/usr/bin/rustc";
const DEBIAN_CARGO: &str = "/usr/bin/cargo";
const DEBIAN_CLIPPY: &str = "/usr/bin/cargo-clippy";
/// The packages that they come from.
pub(crate) const DEBIAN_PACKAGES: [&str; 3] = ["rustc-web", "libstd-rust-web-dev-bpf", "cargo-web"];
const DEBIAN_CORE: &str = "/usr/lib/rustlib/bpfel-unknown-none/lib";

/// The smallest program that needs `core` and the linker.
const PROBE_MANIFEST: &str = r#"[package]
name = "probe"
version = "0.0.0"
edition = "2024"

[workspace]
"#;
const PROBE_PROGRAM: &str = r#"#![no_std]
#![no_main]

#[unsafe(no_mangle)]
#[unsafe(link_section = "classifier")]
extern "C" fn probe() -> i32 {
    core::hint::black_box(Some(0)).unwrap_or(1)
}

#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    loop {}
}
"#;

/// A compiler that has what it takes to build for [`TARGET`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Toolchain {
    /// A nightly of rustup with the rust-src component; the name as rustup knows it.
    Rustup(String),
    /// Debian's rustc-web, cargo-web and libstd-rust-web-dev-bpf.
    Debian,
}

impl fmt::Display for Toolchain {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Rustup(name) => write!(f, "rustup's {name} with -Z build-std=core"),
            Self::Debian => write!(f, "Debian's rustc-web ({DEBIAN_RUSTC})"),
        }
    }
}

impl Toolchain {
    /// The toolchains that are here, in the order in which they are tried.
    pub(crate) fn installed() -> Vec<Self> {
        let mut nightlies: Vec<String> = fs::read_dir(host::rustup_home().join("toolchains"))
            .into_iter()
            .flatten()
            .flatten()
            .filter(|entry| {
                let parts = ["bin/rustc", "lib/rustlib/src/rust/library/core/Cargo.toml"];
                parts.iter().all(|part| entry.path().join(part).exists())
            })
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter(|name| name.starts_with("nightly"))
            .collect();
        nightlies.sort();

        let debian = [DEBIAN_RUSTC, DEBIAN_CARGO, DEBIAN_CORE]
            .iter()
            .all(|f| Path::new(f).exists());
        nightlies
            .into_iter()
            .map(Self::Rustup)
            .chain(debian.then_some(Self::Debian))
            .collect()
    }

    /// The first toolchain that really builds for the target. The answer is kept until one of the
    /// programs that it depends on changes.
    pub(crate) fn choose(workspace: &Workspace) -> Result<Self> {
        let installed = Self::installed();
        let record = workspace.bpf_target().join("toolchain");
        let recorded = fs::read_to_string(&record).unwrap_or_default();
        for toolchain in &installed {
            if recorded == toolchain.fingerprint(&installed)? {
                return Ok(toolchain.clone());
            }
        }

        for toolchain in &installed {
            match toolchain.probe(workspace) {
                Ok(()) => {
                    let chosen = toolchain.fingerprint(&installed)?;
                    write_if_changed(&record, chosen.as_bytes())?;
                    return Ok(toolchain.clone());
                }
                Err(error) => eprintln!("{toolchain} is of no use: {error:#}"),
            }
        }
        bail!(
            "no Rust toolchain here builds for {TARGET}: run `apt-get install {}`, or give rustup's \
             nightly a bpf-linker that is built upon the same LLVM",
            DEBIAN_PACKAGES.join(" ")
        )
    }

    /// Whether clippy comes with it.
    pub(crate) fn has_clippy(&self) -> bool {
        match self {
            Self::Rustup(_) => self.folder().join("cargo-clippy").is_file(),
            Self::Debian => Path::new(DEBIAN_CLIPPY).is_file(),
        }
    }

    /// `cargo SUBCOMMAND` for the BPF target with this toolchain; `args` pick what to build.
    pub(crate) fn cargo(
        &self,
        workspace: &Workspace,
        subcommand: &str,
        args: &[&str],
    ) -> Result<Expression> {
        let mut line: Vec<OsString> = match self {
            Self::Rustup(name) => vec!["rustup".into(), "run".into(), name.into(), "cargo".into()],
            // cargo would find rustup's cargo-clippy in front of its own.
            Self::Debian if subcommand == "clippy" => vec![DEBIAN_CLIPPY.into()],
            Self::Debian => vec![DEBIAN_CARGO.into()],
        };
        line.extend([subcommand, "--release", "--target", TARGET].map(OsString::from));
        line.extend([
            "--target-dir".into(),
            workspace.bpf_target().into_os_string(),
        ]);
        if matches!(self, Self::Rustup(_)) {
            line.extend(["-Z", "build-std=core"].map(OsString::from));
        }
        line.extend(args.iter().map(OsString::from));

        let (program, args) = line.split_first().context("a command has a program")?;
        let command = duct::cmd(program, args)
            .dir(workspace.root())
            .env("PATH", host::search_path()?)
            .env("CARGO_ENCODED_RUSTFLAGS", rustflags(workspace))
            // bpf-linker optimises the whole program; what rustc did before would only be lost.
            .env("CARGO_PROFILE_RELEASE_LTO", "off")
            .env("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "1")
            .env("CARGO_PROFILE_RELEASE_OPT_LEVEL", "3")
            .env("CARGO_PROFILE_RELEASE_DEBUG", "2")
            .env("CARGO_PROFILE_RELEASE_PANIC", "abort")
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("RUSTC_WRAPPER")
            .env_remove("RUSTC_WORKSPACE_WRAPPER");
        let command = match self {
            Self::Rustup(_) => command.env_remove("CARGO").env_remove("RUSTC"),
            Self::Debian => command
                .env("CARGO", DEBIAN_CARGO)
                .env("RUSTC", DEBIAN_RUSTC)
                .env("RUSTC_BOOTSTRAP", "1"),
        };
        Ok(without_package_variables(command))
    }

    /// Builds a small program; fails as the datapath would.
    fn probe(&self, workspace: &Workspace) -> Result<()> {
        let folder = workspace.bpf_target().join("probe");
        let manifest = folder.join("Cargo.toml");
        write_if_changed(&manifest, PROBE_MANIFEST.as_bytes())?;
        write_if_changed(&folder.join("src/main.rs"), PROBE_PROGRAM.as_bytes())?;
        let manifest = manifest
            .to_str()
            .context("the target folder's name is not UTF-8")?;
        let command = self.cargo(workspace, "build", &["--manifest-path", manifest])?;
        progress::quietly(&format!("trying {self} for the BPF object"), &command)
    }

    /// Where the toolchain's programs are.
    fn folder(&self) -> PathBuf {
        match self {
            Self::Rustup(name) => host::rustup_home()
                .join("toolchains")
                .join(name)
                .join("bin"),
            Self::Debian => PathBuf::from("/usr/bin"),
        }
    }

    /// Names this choice among `installed` and the state of every program that it rests on.
    fn fingerprint(&self, installed: &[Self]) -> Result<String> {
        let mut text = format!("{self}\n");
        let compilers = installed
            .iter()
            .map(|toolchain| toolchain.folder().join("rustc"));
        for program in compilers.chain(host::program("bpf-linker")) {
            let state =
                fs::metadata(&program).with_context(|| format!("reading {}", program.display()))?;
            let changed = state
                .modified()?
                .duration_since(std::time::UNIX_EPOCH)?
                .as_secs();
            writeln!(text, "{} {changed} {}", program.display(), state.len())?;
        }
        Ok(text)
    }
}

/// The folder where a build leaves what it linked.
pub(super) fn artifacts(workspace: &Workspace) -> PathBuf {
    workspace.bpf_target().join(TARGET).join("release")
}

/// Flags in cargo's own encoding, which a blank in a path does not break. BTF comes from the debug
/// information; it names sources by where they are in the checkout, not on this machine, so that one
/// commit makes one object. Version 3 of the instruction set has 32-bit arithmetic and jumps (Linux 5.1);
/// loads and stores of packets and maps need no alignment, which without the second flag LLVM would
/// buy byte by byte: together they make the programs a third shorter.
fn rustflags(workspace: &Workspace) -> String {
    let linker = host::program("bpf-linker").unwrap_or_else(|| PathBuf::from("bpf-linker"));
    let linker = format!("linker={}", linker.display());
    let checkout = format!("{}/=", workspace.root().display());
    let registry = format!("{}/registry/src/=", host::cargo_home().display());
    let paths = [
        "--remap-path-prefix",
        &checkout,
        "--remap-path-prefix",
        &registry,
    ];
    let code = "-C debuginfo=2 -C link-arg=--btf -C target-cpu=v3 -C \
                link-arg=--cpu-features=+allows-misaligned-mem-access";
    let code = code.split(' ').chain(["-C", &linker]);
    let words: Vec<&str> = paths.into_iter().chain(code).collect();
    words.join("\x1f")
}
