//! The table of what the verbs need beside a Rust toolchain.

use std::fmt;
use std::path::{Path, PathBuf};

use super::Work;
use crate::build::{DEBIAN_PACKAGES, Toolchain};
use crate::host;

/// One thing that has to be on the machine.
pub(super) struct Need {
    /// What it is.
    pub(super) what: &'static str,
    /// What we do with it.
    pub(super) why: &'static str,
    /// Whether it is here. Looks at files: this runs before every verb.
    pub(super) found: fn() -> bool,
    /// Where it comes from.
    pub(super) source: Source,
    /// What it is needed for.
    pub(super) work: &'static [Work],
}

/// Where a missing thing comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Source {
    /// Debian packages.
    Debian(&'static [&'static str]),
    /// Components of the rustup toolchain in use.
    Rustup(&'static [&'static str]),
    /// Debian packages whose programs run without being installed, see [`super::unpack()`].
    Unpacked(&'static [&'static str]),
    /// A program from crates.io.
    Cargo(Program),
}

/// A program that cargo builds and installs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Program {
    /// The package on crates.io.
    pub(super) name: &'static str,
    /// Its version: another may need a newer compiler.
    pub(super) version: &'static str,
    /// More words for `cargo install`.
    pub(super) options: &'static [&'static str],
    /// Variables that its build reads.
    pub(super) vars: &'static [(&'static str, &'static str)],
}

impl fmt::Display for Program {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (name, value) in self.vars {
            write!(f, "{name}={value} ")?;
        }
        write!(f, "cargo install {} --version {}", self.name, self.version)?;
        self.options
            .iter()
            .try_for_each(|word| write!(f, " {word}"))
    }
}

/// Links the BPF object, upon Debian's LLVM.
const BPF_LINKER: Program = Program {
    name: "bpf-linker",
    version: "0.13.0",
    options: &["--no-default-features", "--features", "llvm-22"],
    vars: &[("LLVM_PREFIX", "/usr/lib/llvm-22")],
};

/// Makes Debian packages.
const CARGO_DEB: Program = Program {
    name: "cargo-deb",
    version: "3.8.0",
    options: &["--locked"],
    vars: &[],
};

impl fmt::Display for Source {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Debian(packages) => write!(f, "apt-get install {}", packages.join(" ")),
            Self::Rustup(components) => write!(f, "rustup component add {}", components.join(" ")),
            Self::Unpacked(packages) => write!(f, "apt-get download {}", packages.join(" ")),
            Self::Cargo(program) => write!(f, "{program}"),
        }
    }
}

use Work::{Bench, Build, Demo, Kernels, Lint, Package, Test};

/// Everything, in the order in which it is installed.
pub(super) const ALL: &[Need] = &[
    Need {
        what: "C compiler",
        why: "links the agent and compiles its SQLite",
        found: || host::program("cc").is_some(),
        source: Source::Debian(&["gcc", "libc6-dev"]),
        work: &[Build],
    },
    Need {
        what: "CA certificates",
        why: "Debian's cargo downloads crates over TLS",
        found: || Path::new("/etc/ssl/certs/ca-certificates.crt").exists(),
        source: Source::Debian(&["ca-certificates"]),
        work: &[Build],
    },
    Need {
        what: "Rust compiler for BPF",
        why: "compiles the datapath",
        found: || !Toolchain::installed().is_empty(),
        source: Source::Debian(&DEBIAN_PACKAGES),
        work: &[Build],
    },
    Need {
        what: "LLVM 22",
        why: "bpf-linker is built upon it",
        found: || bpf_linker_runs() || Path::new("/usr/lib/llvm-22/bin/llvm-config").exists(),
        source: Source::Debian(&[
            "llvm-22-dev",
            "libpolly-22-dev",
            "zlib1g-dev",
            "libzstd-dev",
        ]),
        work: &[Build],
    },
    Need {
        what: "bpf-linker",
        why: "links the datapath into one BPF object",
        found: bpf_linker_runs,
        source: Source::Cargo(BPF_LINKER),
        work: &[Build],
    },
    Need {
        what: "protoc",
        why: "compiles the protocol that etcd speaks",
        found: || {
            // The second package brings the definitions that etcd's import.
            host::program("protoc").is_some()
                && Path::new("/usr/include/google/protobuf/descriptor.proto").exists()
        },
        source: Source::Debian(&["protobuf-compiler", "libprotobuf-dev"]),
        work: &[Build],
    },
    Need {
        what: "ip, tc",
        why: "lay out namespaces and links",
        found: || host::program("ip").is_some() && host::program("tc").is_some(),
        source: Source::Debian(&["iproute2"]),
        work: &[Demo, Test, Kernels, Bench],
    },
    Need {
        what: "nsenter",
        why: "starts agents and tools in namespaces",
        found: || host::program("nsenter").is_some(),
        source: Source::Debian(&["util-linux"]),
        work: &[Demo, Test, Kernels, Bench],
    },
    Need {
        what: "sysctl, kill",
        why: "make namespaces route, end agents in them",
        found: || host::program("sysctl").is_some() && host::program("kill").is_some(),
        source: Source::Debian(&["procps"]),
        work: &[Demo, Test, Bench],
    },
    Need {
        what: "bpftool",
        why: "prints programs and maps",
        found: || host::program("bpftool").is_some(),
        source: Source::Debian(&["bpftool"]),
        work: &[Demo, Test, Kernels],
    },
    Need {
        what: "ping",
        why: "shows that endpoints reach each other",
        found: || host::program("ping").is_some(),
        source: Source::Debian(&["iputils-ping"]),
        work: &[Demo, Test, Bench],
    },
    Need {
        what: "strace",
        why: "makes a disk slow",
        found: || host::program("strace").is_some(),
        source: Source::Debian(&["strace"]),
        work: &[Test],
    },
    Need {
        what: "faketime",
        why: "makes an agent's clock jump",
        found: || host::program("faketime").is_some(),
        source: Source::Debian(&["faketime"]),
        work: &[Test],
    },
    Need {
        what: "arping",
        why: "asks for addresses as a host would",
        found: || host::program("arping").is_some(),
        source: Source::Debian(&["iputils-arping"]),
        work: &[Test, Bench],
    },
    Need {
        what: "tcpdump",
        why: "captures VXLAN packets on the underlay",
        found: || host::program("tcpdump").is_some(),
        source: Source::Debian(&["tcpdump"]),
        work: &[Demo, Test],
    },
    Need {
        what: "tshark",
        why: "decodes what was captured, field by field",
        found: || host::program("tshark").is_some(),
        source: Source::Debian(&["tshark"]),
        work: &[Test],
    },
    Need {
        what: "iperf3",
        why: "measures throughput",
        found: || host::program("iperf3").is_some(),
        source: Source::Debian(&["iperf3"]),
        work: &[Demo, Test, Bench],
    },
    Need {
        what: "sockperf",
        why: "measures latency",
        found: || host::program("sockperf").is_some(),
        source: Source::Debian(&["sockperf"]),
        work: &[Bench],
    },
    Need {
        what: "trafgen",
        why: "sends frames of every shape and floods",
        found: || host::program("trafgen").is_some(),
        source: Source::Debian(&["netsniff-ng"]),
        work: &[Demo, Test, Bench],
    },
    Need {
        what: "ethtool",
        why: "switches the underlay's offloads",
        found: || host::program("ethtool").is_some(),
        source: Source::Debian(&["ethtool"]),
        work: &[Demo, Test, Bench],
    },
    Need {
        what: "nft",
        why: "drops and forwards packets in namespaces of the lab",
        found: || host::program("nft").is_some(),
        source: Source::Debian(&["nftables"]),
        work: &[Test],
    },
    Need {
        what: "jq",
        why: "reads the JSON of tools in scripts",
        found: || host::program("jq").is_some(),
        source: Source::Debian(&["jq"]),
        work: &[Demo, Test, Kernels],
    },
    Need {
        what: "etcd",
        why: "is the registry of a cluster",
        found: || host::program("etcd").is_some(),
        // Installed, it would start a member on this machine.
        source: Source::Unpacked(&["etcd-server"]),
        work: &[Test, Bench],
    },
    Need {
        what: "etcdctl",
        why: "asks the members of that cluster, compacts, moves its leader",
        found: || host::program("etcdctl").is_some(),
        source: Source::Debian(&["etcd-client"]),
        work: &[Test, Bench],
    },
    Need {
        what: "promtool",
        why: "checks metrics and runs the tests of the alert rules",
        found: || host::program("promtool").is_some(),
        // Installed, it would start a Prometheus on this machine.
        source: Source::Unpacked(&["prometheus"]),
        work: &[Test],
    },
    Need {
        what: "ovs-vswitchd, ovs-vsctl",
        why: "is a VXLAN peer that is not Linux' own",
        found: || host::program("ovs-vswitchd").is_some() && host::program("ovs-vsctl").is_some(),
        // Installed, it would start a switch on this machine.
        source: Source::Unpacked(&["openvswitch-switch", "openvswitch-common"]),
        work: &[Test],
    },
    Need {
        what: "ovs-vswitchd's libraries",
        why: "are not in its package",
        found: || runs("ovs-vswitchd"),
        source: Source::Debian(&[
            "libbpf1",
            "libcap-ng0",
            "libnuma1",
            "libssl3",
            "libunbound8",
            "libxdp1",
        ]),
        work: &[Test],
    },
    Need {
        what: "setpriv",
        why: "starts the agent with the capabilities of its service alone",
        found: || host::program("setpriv").is_some(),
        source: Source::Debian(&["util-linux"]),
        work: &[Test],
    },
    Need {
        what: "qemu-system-x86_64",
        why: "boots other kernels",
        found: || host::program("qemu-system-x86_64").is_some(),
        source: Source::Debian(&["qemu-system-x86"]),
        work: &[Kernels],
    },
    Need {
        what: "busybox",
        why: "is the user space of those kernels",
        found: || host::program("busybox").is_some(),
        source: Source::Debian(&["busybox-static"]),
        work: &[Kernels],
    },
    Need {
        what: "cpio",
        why: "packs their initramfs",
        found: || host::program("cpio").is_some(),
        source: Source::Debian(&["cpio"]),
        work: &[Kernels],
    },
    Need {
        what: "clippy for BPF",
        why: "lints the datapath for its own target",
        found: || Toolchain::installed().iter().any(Toolchain::has_clippy),
        source: Source::Debian(&["rust-web-clippy"]),
        work: &[Lint],
    },
    Need {
        what: "clippy",
        why: "lints user space",
        found: || beside_cargo("cargo-clippy"),
        source: Source::Rustup(&["clippy"]),
        work: &[Lint],
    },
    Need {
        what: "rustfmt",
        why: "checks the formatting",
        found: || beside_cargo("cargo-fmt"),
        source: Source::Rustup(&["rustfmt"]),
        work: &[Lint],
    },
    Need {
        what: "cargo-deb",
        why: "makes the Debian package",
        found: || host::program("cargo-deb").is_some(),
        source: Source::Cargo(CARGO_DEB),
        work: &[Package],
    },
    Need {
        what: "dpkg-shlibdeps",
        why: "finds out which libraries the package depends on",
        found: || host::program("dpkg-shlibdeps").is_some(),
        source: Source::Debian(&["dpkg-dev"]),
        work: &[Package],
    },
    Need {
        what: "lintian",
        why: "checks the package against Debian's rules",
        found: || host::program("lintian").is_some(),
        source: Source::Debian(&["lintian"]),
        work: &[Package],
    },
    Need {
        what: "man",
        why: "renders the manual pages",
        found: || host::program("man").is_some(),
        source: Source::Debian(&["man-db"]),
        work: &[Package],
    },
    Need {
        what: "systemd-analyze",
        why: "checks the systemd unit",
        found: || host::program("systemd-analyze").is_some(),
        source: Source::Debian(&["systemd"]),
        work: &[Package],
    },
];

/// A bpf-linker that outlived its LLVM is there, but does not start.
fn bpf_linker_runs() -> bool {
    runs("bpf-linker")
}

/// Whether a program is here together with the libraries that it is linked with.
fn runs(name: &str) -> bool {
    host::program(name).is_some_and(|program| {
        let asked = duct::cmd!(program, "--version")
            .stdout_null()
            .stderr_null()
            .unchecked()
            .run();
        asked.is_ok_and(|output| output.status.success())
    })
}

/// Whether the toolchain that runs us has this program: the ones in cargo's bin folder are rustup's
/// own and are there in any case.
fn beside_cargo(name: &str) -> bool {
    let cargo = std::env::var_os("CARGO")
        .map(PathBuf::from)
        .or_else(|| host::program("cargo"));
    cargo.is_some_and(|cargo| cargo.with_file_name(name).is_file())
}
