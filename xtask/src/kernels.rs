//! `cargo xtask test --kernels`: the same programs on the kernels that Debian ships.
//!
//! Each kernel boots in QEMU to an initramfs that holds busybox, iproute2, bpftool, the agent, some
//! tests and the modules that they need. kernels/guest.sh is what runs in there; its report
//! comes back over a serial port of its own, the kernel's messages go to another.

mod image;
mod initramfs;
mod machine;

use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};
use cargo_metadata::Message;

use crate::build;
use crate::host;
use crate::setup::{self, Work};
use crate::test::Tally;
use crate::workspace::{Profile, Workspace};
use image::Kernel;
use initramfs::Initramfs;

/// Debian's names for the newest kernel of a series.
///
/// 6.1 has no tcx, so the programs attach to clsact there; 6.12 has it.
const KERNELS: [&str; 2] = ["linux-image-cloud-amd64", "linux-image-6.12-cloud-amd64"];

/// Modules that the tests need where they are not built in; modprobe's dependencies come along.
const MODULES: [&str; 7] = [
    "veth",
    "vxlan",
    "bridge",
    "sch_ingress",
    "sch_fq",
    "cls_bpf",
    "ipv6",
];

/// The host's programs that guest.sh and the tests call beside busybox's. dash, since busybox's own
/// shell prefers its applets to the programs of the same name.
const PROGRAMS: [&str; 7] = ["dash", "ip", "tc", "bpftool", "nsenter", "jq", "ping"];

/// Tests of the package overlay-tests that need neither cargo nor tools that the guest has not: the
/// table tests, and the upgrade from an older object, which another hook takes where there is no tcx.
const TESTS: [&str; 2] = ["programs", "hosts"];

const INIT: &str = include_str!("kernels/init.sh");
const GUEST: &str = include_str!("kernels/guest.sh");

/// Runs the guest's tests on every kernel; false if not all of them passed.
pub(crate) fn run(workspace: &Workspace, tally: &mut Tally) -> Result<bool> {
    setup::ensure(Work::Kernels)?;
    build::object(workspace)?;
    let tests = binaries(workspace)?;
    let agent = workspace.agent(Profile::Debug);
    let folder = workspace.target().join("kernels");

    let mut passed = true;
    for package in KERNELS {
        let kernel = Kernel::fetch(&folder, package)?;
        println!("\nkernel {} ({package})", kernel.release);
        let initrd = pack(&folder, &kernel, &agent, &tests)?;
        let log = folder.join(format!("{}.log", kernel.release));
        if let Err(error) = machine::boot(&kernel.image, &initrd, &log, tally) {
            println!("kernel {}: {error:#}", kernel.release);
            passed = false;
        }
    }
    Ok(passed)
}

/// Builds the agent and the tests, with the choice of packages that `cargo xtask test` has too; gives
/// the tests' binaries.
fn binaries(workspace: &Workspace) -> Result<Vec<(String, PathBuf)>> {
    let mut line = vec!["build", "--workspace", "--bin", "overlay"];
    line.extend(TESTS.iter().flat_map(|test| ["--test", test]));
    line.extend(["--message-format", "json-render-diagnostics"]);
    let command = workspace.cargo(&line)?.stdout_capture().unchecked();
    let output = command.run()?;
    if !output.status.success() {
        bail!("building the agent and its tests failed (see above)");
    }
    let mut tests = Vec::new();
    for message in Message::parse_stream(&*output.stdout) {
        if let Message::CompilerArtifact(artifact) = message?
            && TESTS.contains(&artifact.target.name.as_str())
            && let Some(binary) = artifact.executable
        {
            tests.push((artifact.target.name, binary.into_std_path_buf()));
        }
    }
    if tests.len() != TESTS.len() {
        let (built, wanted) = (tests.len(), TESTS.join(", "));
        bail!("cargo built {built} of the tests {wanted}");
    }
    Ok(tests)
}

/// Packs everything that one kernel needs and gives the archive.
fn pack(
    folder: &Path,
    kernel: &Kernel,
    agent: &Path,
    tests: &[(String, PathBuf)],
) -> Result<PathBuf> {
    let mut initramfs = Initramfs::new(&folder.join(format!("{}.root", kernel.release)))?;
    initramfs.script("init", INIT)?;
    initramfs.script("guest.sh", GUEST)?;
    for name in PROGRAMS.into_iter().chain(["busybox"]) {
        let path = host::program(name).with_context(|| format!("there is no {name} here"))?;
        initramfs.program(&path, name)?;
    }
    initramfs.program(agent, "overlay")?;
    for (name, test) in tests {
        initramfs.program(test, name)?;
    }
    for module in kernel.modules(&MODULES)? {
        initramfs.module(&module)?;
    }
    let archive = folder.join(format!("{}.cpio", kernel.release));
    initramfs.pack(&archive)?;
    Ok(archive)
}
