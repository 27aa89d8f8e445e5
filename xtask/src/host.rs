//! This machine: which programs it has, and how to act as root on it.

use std::env;
use std::ffi::{OsStr, OsString};
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use duct::Expression;

use crate::workspace::Workspace;

/// Folders of administration tools that a plain user's PATH leaves out.
const SBIN: [&str; 3] = ["/usr/local/sbin", "/usr/sbin", "/sbin"];

/// The user's home folder.
fn home() -> PathBuf {
    env::home_dir().unwrap_or_else(|| PathBuf::from("/"))
}

/// Where cargo keeps what it installs.
pub(crate) fn cargo_home() -> PathBuf {
    env::var_os("CARGO_HOME").map_or_else(|| home().join(".cargo"), PathBuf::from)
}

/// Where rustup keeps its toolchains.
pub(crate) fn rustup_home() -> PathBuf {
    env::var_os("RUSTUP_HOME").map_or_else(|| home().join(".rustup"), PathBuf::from)
}

/// The folder in which packages are unpacked that are not to be installed, one folder each.
pub(crate) fn tools() -> Result<PathBuf> {
    Ok(Workspace::find()?.target().join("tools"))
}

/// Where the programs of those packages are.
fn unpacked() -> Vec<PathBuf> {
    // The last one is where Debian has the ovs-vswitchd that is to be linked into /usr/sbin.
    const FOLDERS: [&str; 5] = [
        "bin",
        "sbin",
        "usr/bin",
        "usr/sbin",
        "usr/lib/openvswitch-switch",
    ];
    let packages = tools().and_then(|tools| Ok(std::fs::read_dir(tools)?));
    packages
        .into_iter()
        .flatten()
        .filter_map(|package| Some(package.ok()?.path()))
        .flat_map(|package| FOLDERS.map(|folder| package.join(folder)))
        .collect()
}

/// The caller's PATH and behind it the folders that may be missing from it.
pub(crate) fn search_path() -> Result<OsString> {
    let path = env::var_os("PATH").unwrap_or_default();
    let folders = env::split_paths(&path)
        .chain([cargo_home().join("bin")])
        .chain(SBIN.map(PathBuf::from))
        .chain(unpacked());
    env::join_paths(folders).context("PATH can't be extended")
}

/// Where a program is, if this machine has it.
pub(crate) fn program(name: &str) -> Option<PathBuf> {
    which::which_in(name, search_path().ok(), "/").ok()
}

/// Whether a command succeeds, whatever it prints.
pub(crate) fn succeeds(command: &Expression) -> bool {
    let outcome = command.stdout_null().stderr_null().unchecked().run();
    outcome.is_ok_and(|output| output.status.success())
}

pub(crate) fn is_root() -> bool {
    nix::unistd::geteuid().is_root()
}

/// Becomes this command: signals and the exit code are its own.
pub(crate) fn exec(line: &[OsString]) -> Result<()> {
    let (program, args) = line.split_first().context("a command has a program")?;
    let error = Command::new(program).args(args).exec();
    Err(error).with_context(|| format!("starting {}", program.display()))
}

/// The command line that runs `command` as root with the variables `vars`: by itself for root,
/// through sudo for others. `env` sets the variables, since sudo's policy may refuse to pass them.
pub(crate) fn as_root<S: AsRef<OsStr>>(
    vars: &[(&str, OsString)],
    command: &[S],
) -> Result<Vec<OsString>> {
    let mut line = vec![OsString::from("env")];
    line.extend(vars.iter().map(|(name, value)| {
        let mut pair = OsString::from(format!("{name}="));
        pair.push(value);
        pair
    }));
    line.extend(command.iter().map(|word| word.as_ref().to_owned()));
    if is_root() {
        return Ok(line);
    }
    let Some(sudo) = program("sudo") else {
        let words: Vec<_> = line.iter().map(|word| word.to_string_lossy()).collect();
        let line = shlex::try_join(words.iter().map(AsRef::as_ref))?;
        bail!("this needs root, and there is no sudo here: run `su - -c \"{line}\"`");
    };
    line.insert(0, sudo.into_os_string());
    Ok(line)
}
