//! Which test programs run by themselves, and which beside another.

use std::process::Output;
use std::sync::{Mutex, PoisonError};
use std::thread;

use anyhow::{Result, anyhow};
use cargo_metadata::{MetadataCommand, TargetKind};

use crate::workspace::Workspace;

/// Test programs that mostly wait, and hold nothing to a time that a busy machine could miss; the longest first.
/// Two of them run at a time, every other has the machine to itself.
const TOGETHER: [&str; 9] = [
    "lab_interop",
    "lab_connect",
    "lab_hosts",
    "lab_paths",
    "lab_carried",
    "lab_echoes",
    "lab_upgrade",
    "lab_identity",
    "lab_bad_start",
];

/// The integration tests of the workspace.
pub(super) struct Suites {
    pub(super) alone: Vec<String>,
    pub(super) together: Vec<String>,
}

impl Suites {
    pub(super) fn of(workspace: &Workspace) -> Result<Self> {
        let metadata = MetadataCommand::new()
            .manifest_path(workspace.root().join("Cargo.toml"))
            .no_deps()
            .exec()?;
        let targets = metadata
            .packages
            .into_iter()
            .flat_map(|package| package.targets);
        let tests = targets.filter(|target| target.kind.contains(&TargetKind::Test));
        Ok(Self::split(tests.map(|target| target.name)))
    }

    fn split(tests: impl Iterator<Item = String>) -> Self {
        let place = |name: &String| TOGETHER.iter().position(|other| other == name);
        let (mut together, alone): (Vec<_>, Vec<_>) = tests.partition(|name| place(name).is_some());
        together.sort_by_key(place);
        Self { alone, together }
    }
}

/// Calls `run` with each of these, two at a time, and `show` with what comes of it, one after the other.
pub(super) fn in_pairs(
    names: &[String],
    run: impl Fn(&str) -> Result<Output> + Sync,
    show: impl FnMut(&Output) + Send,
) -> Result<()> {
    let (left, show) = (Mutex::new(names.iter()), Mutex::new(show));
    let lane = || -> Result<()> {
        loop {
            let next = left.lock().unwrap_or_else(PoisonError::into_inner).next();
            let Some(name) = next else {
                return Ok(());
            };
            let output = run(name)?;
            show.lock().unwrap_or_else(PoisonError::into_inner)(&output);
        }
    };
    thread::scope(|scope| {
        let lanes = [scope.spawn(lane), scope.spawn(lane)];
        lanes.into_iter().try_for_each(|lane| {
            lane.join()
                .map_err(|_| anyhow!("a thread that ran tests panicked"))?
        })
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_test_program_runs_once() {
        let workspace = Workspace::find().unwrap();
        let suites = Suites::of(&workspace).unwrap();
        assert_eq!(suites.together, TOGETHER);
        let folder = workspace.root().join("tests/tests");
        for entry in std::fs::read_dir(folder).unwrap() {
            let entry = entry.unwrap().path();
            let name = entry.file_stem().unwrap().to_str().unwrap().to_owned();
            let of = |list: &[String]| list.iter().filter(|other| **other == name).count();
            assert_eq!(of(&suites.alone) + of(&suites.together), 1, "{name}");
        }
    }

    #[test]
    fn pairs_show_each_result_once() {
        let names: Vec<String> = (0..7).map(|name| name.to_string()).collect();
        let run = |name: &str| Ok(std::process::Command::new("echo").arg(name).output()?);
        let mut shown = Vec::new();
        in_pairs(&names, run, |output| {
            shown.push(String::from_utf8_lossy(&output.stdout).trim().to_owned());
        })
        .unwrap();
        shown.sort();
        assert_eq!(shown, names);
    }
}
