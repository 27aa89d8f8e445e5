//! Installing: apt-get for Debian packages, rustup for components, cargo for programs from crates.io.

use std::ffi::OsString;

use anyhow::{Result, anyhow, bail};
use duct::Expression;

use super::needs::{Need, Program, Source};
use super::unpack::unpack;
use crate::build::DEBIAN_PACKAGES;
use crate::host;
use crate::progress;

/// Brings everything of `missing`; each kind of source is asked once.
pub(super) fn install(missing: &[&Need]) -> Result<()> {
    let mut packages = Vec::new();
    let mut components = Vec::new();
    let mut unpacked = Vec::new();
    let mut programs = Vec::new();
    for need in missing {
        match need.source {
            Source::Debian(names) => packages.extend_from_slice(names),
            Source::Rustup(names) => components.extend_from_slice(names),
            Source::Unpacked(names) => unpacked.extend_from_slice(names),
            Source::Cargo(program) => programs.push(program),
        }
    }
    if !packages.is_empty() {
        debian(&packages)?;
    }
    if !components.is_empty() {
        rustup(&components)?;
    }
    for package in unpacked {
        unpack(package, &host::tools()?.join(package))?;
    }
    for program in programs {
        cargo_install(&program)?;
    }
    Ok(())
}

/// Reads the package lists anew.
pub(crate) fn refresh_package_lists() -> Result<()> {
    progress::quietly("setup: apt-get update", &apt_get(&["update"])?)
}

fn debian(packages: &[&str]) -> Result<()> {
    let list = packages.join(" ");
    if host::program("apt-get").is_none() {
        if DEBIAN_PACKAGES
            .iter()
            .any(|package| packages.contains(package))
        {
            bail!(
                "this is not a Debian (no apt-get), so the BPF compiler has to come from rustup: run \
                 `rustup toolchain install nightly --profile minimal --component rust-src && cargo \
                 install cargo-binstall && cargo binstall --no-confirm bpf-linker`"
            );
        }
        bail!(
            "this is not a Debian (no apt-get): install what Debian calls `{list}` with the system's \
             own package manager"
        );
    }
    let by_hand = by_hand(&list);

    let mut install = vec!["install", "--yes", "--no-install-recommends"];
    install.extend_from_slice(packages);
    let install = apt_get(&install).map_err(|_| {
        anyhow!("installing {list} needs root, and there is no sudo here: run `{by_hand}`")
    })?;

    // A fresh machine has no lists, an old one has lists of packages that are gone by now.
    let mut refreshed = false;
    if !known(packages) {
        refresh_package_lists()?;
        refreshed = true;
    }
    let what = format!("setup: apt-get install ({} packages)", packages.len());
    let mut outcome = progress::quietly(&what, &install);
    if outcome.is_err() && !refreshed {
        refresh_package_lists()?;
        outcome = progress::quietly(&what, &install);
    }
    outcome.map_err(|error| {
        eprintln!("{error:#}");
        anyhow!("apt-get can't install everything (see above): when that is mended run `{by_hand}`")
    })
}

/// What the user types where we can't.
fn by_hand(packages: &str) -> String {
    let line = format!("apt-get update && apt-get install --yes {packages}");
    match (host::is_root(), host::program("sudo")) {
        (true, _) => line,
        (false, Some(_)) => format!("sudo sh -c '{line}'"),
        (false, None) => format!("su - -c '{line}'"),
    }
}

/// Whether apt has heard of all of them.
fn known(packages: &[&str]) -> bool {
    let args = [&["show", "--no-all-versions"], packages].concat();
    host::succeeds(&duct::cmd("apt-cache", args))
}

/// apt-get as root. It asks nothing and waits for another apt-get that is at work.
fn apt_get(args: &[&str]) -> Result<Expression> {
    let vars = [("DEBIAN_FRONTEND", OsString::from("noninteractive"))];
    let line = [
        &["apt-get", "--quiet", "--option", "DPkg::Lock::Timeout=300"],
        args,
    ]
    .concat();
    let line = host::as_root(&vars, &line)?;
    if !host::is_root() {
        // Lets sudo ask for its password now rather than under a spinner.
        duct::cmd!("sudo", "--validate").run()?;
    }
    let (program, args) = line
        .split_first()
        .ok_or_else(|| anyhow!("an empty command"))?;
    Ok(duct::cmd(program, args))
}

fn rustup(components: &[&str]) -> Result<()> {
    let list = components.join(" ");
    let args = [&["component", "add"], components].concat();
    progress::quietly(
        &format!("setup: rustup component add {list}"),
        &duct::cmd("rustup", args),
    )
    .map_err(|error| {
        eprintln!("{error:#}");
        anyhow!("rustup can't add a component (see above): run `rustup component add {list}`")
    })
}

/// Builds a program from crates.io into cargo's own bin folder.
fn cargo_install(program: &Program) -> Result<()> {
    let Program {
        name,
        version,
        options,
        vars,
    } = program;
    let mut args = vec!["install", name, "--version", version];
    args.extend_from_slice(options);
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    // The build folder of the workspace must not become this build's.
    let build = vars.iter().fold(
        duct::cmd(cargo, &args).env_remove("CARGO_TARGET_DIR"),
        |build, (name, value)| build.env(name, value),
    );
    let what = format!("setup: cargo install {name} (a minute or two)");
    progress::quietly(&what, &build).map_err(|error| {
        eprintln!("{error:#}");
        anyhow!("{name} can't be built (see above): when that is mended run `{program}`")
    })
}
