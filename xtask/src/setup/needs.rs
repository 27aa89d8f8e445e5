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

use Source::{Cargo, Debian, Rustup, Unpacked};
use Work::{Bench, Build, Demo, Kernels, Lint, Package, Test};

/// The list of [`Need`]s. Where nothing else is said (`if`), the programs that the first word names have to be here.
macro_rules! needs {
    ($($what:literal, $work:expr, $why:literal $(if $found:expr)?, $source:expr;)*) => {
        &[$(Need {
            what: $what,
            why: $why,
            found: needs!(@found $what $(, $found)?),
            source: $source,
            work: &$work,
        }),*]
    };
    (@found $what:literal) => { || are_here($what) };
    (@found $what:literal, $found:expr) => { || $found };
}

/// Everything, in the order in which it is installed.
pub(super) const ALL: &[Need] = needs! {
    "C compiler", [Build], "links the agent and compiles its SQLite"
        if are_here("cc"),
        Debian(&["gcc", "libc6-dev"]);
    "CA certificates", [Build], "Debian's cargo downloads crates over TLS"
        if Path::new("/etc/ssl/certs/ca-certificates.crt").exists(),
        Debian(&["ca-certificates"]);
    "Rust compiler for BPF", [Build], "compiles the datapath"
        if !Toolchain::installed().is_empty(),
        Debian(&DEBIAN_PACKAGES);
    "LLVM 22", [Build], "bpf-linker is built upon it"
        if runs("bpf-linker") || Path::new("/usr/lib/llvm-22/bin/llvm-config").exists(),
        Debian(&["llvm-22-dev", "libpolly-22-dev", "zlib1g-dev", "libzstd-dev"]);
    "bpf-linker", [Build], "links the datapath into one BPF object"
        if runs("bpf-linker"),
        Cargo(BPF_LINKER);
    // The second package brings the definitions that etcd's import.
    "protoc", [Build], "compiles the protocol that etcd speaks"
        if are_here("protoc") && Path::new("/usr/include/google/protobuf/descriptor.proto").exists(),
        Debian(&["protobuf-compiler", "libprotobuf-dev"]);
    "ip, tc", [Demo, Test, Kernels, Bench], "lay out namespaces and links",
        Debian(&["iproute2"]);
    "nsenter", [Demo, Test, Kernels, Bench], "starts agents and tools in namespaces",
        Debian(&["util-linux"]);
    "sysctl, kill", [Demo, Test, Bench], "make namespaces route, end agents in them",
        Debian(&["procps"]);
    "bpftool", [Demo, Test, Kernels], "prints programs and maps",
        Debian(&["bpftool"]);
    "ping", [Demo, Test, Bench], "shows that endpoints reach each other",
        Debian(&["iputils-ping"]);
    "strace", [Test], "makes a disk slow",
        Debian(&["strace"]);
    "faketime", [Test], "makes an agent's clock jump",
        Debian(&["faketime"]);
    "arping", [Test, Bench], "asks for addresses as a host would",
        Debian(&["iputils-arping"]);
    "tcpdump", [Demo, Test], "captures VXLAN packets on the underlay",
        Debian(&["tcpdump"]);
    "tshark", [Test], "decodes what was captured, field by field",
        Debian(&["tshark"]);
    "iperf3", [Demo, Test, Bench], "measures throughput",
        Debian(&["iperf3"]);
    "sockperf", [Bench], "measures latency",
        Debian(&["sockperf"]);
    "trafgen", [Demo, Test, Bench], "sends frames of every shape and floods",
        Debian(&["netsniff-ng"]);
    "ethtool", [Demo, Test, Bench], "switches the underlay's offloads",
        Debian(&["ethtool"]);
    "nft", [Test, Bench], "drops, forwards and translates packets in namespaces of the lab",
        Debian(&["nftables"]);
    "jq", [Demo, Test, Kernels], "reads the JSON of tools in scripts",
        Debian(&["jq"]);
    // Installed, it would start a member on this machine.
    "etcd", [Test, Bench], "is the registry of a cluster",
        Unpacked(&["etcd-server"]);
    "etcdctl", [Test, Bench], "asks the members of that cluster, compacts, moves its leader",
        Debian(&["etcd-client"]);
    // Installed, it would take this machine's own interfaces.
    "dhclient", [Test], "asks for an address in an endpoint",
        Unpacked(&["isc-dhcp-client"]);
    // Installed, likewise.
    "dhcpcd", [Test], "asks for addresses of both families in an endpoint",
        Unpacked(&["dhcpcd-base"]);
    // Installed, likewise.
    "dhcp6c", [Test], "asks for an IPv6 address in an endpoint",
        Unpacked(&["wide-dhcpv6-client"]);
    "dhcp6c's library", [Test], "is not in its package"
        if Path::new(&format!("/usr/lib/{}-linux-gnu/libfl.so.2", std::env::consts::ARCH)).exists(),
        Debian(&["libfl2"]);
    "systemd-networkd", [Test], "asks for addresses and routers in an endpoint; it starts nothing by itself"
        if Path::new("/lib/systemd/systemd-networkd").exists(),
        Debian(&["systemd"]);
    "rdisc6", [Test], "asks for routers in an endpoint",
        Unpacked(&["ndisc6"]);
    // Installed, it would start a Prometheus on this machine.
    "promtool", [Test], "checks metrics and runs the tests of the alert rules",
        Unpacked(&["prometheus"]);
    // Installed, it would start a switch on this machine.
    "ovs-vswitchd, ovs-vsctl", [Test], "is a VXLAN peer that is not Linux' own",
        Unpacked(&["openvswitch-switch", "openvswitch-common"]);
    "ovs-vswitchd's libraries", [Test], "are not in its package"
        if runs("ovs-vswitchd"),
        Debian(&["libbpf1", "libcap-ng0", "libnuma1", "libssl3", "libunbound8", "libxdp1"]);
    "traceroute", [Test], "shows the hops of a way",
        Debian(&["traceroute"]);
    "mtr", [Test], "likewise, and goes on",
        Debian(&["mtr-tiny"]);
    "tracepath", [Test], "finds the longest packet of a way",
        Debian(&["iputils-tracepath"]);
    // Installed, it would start a server on this machine.
    "turnserver, turnutils_natdiscovery", [Test], "says what kind of NAT it is behind",
        Unpacked(&["coturn"]);
    "turnserver's libraries", [Test], "are not in its package"
        if runs("turnserver"),
        Debian(&[
            "libevent-extra-2.1-7", "libevent-openssl-2.1-7", "libevent-pthreads-2.1-7", "libhiredis0.14",
            "libmariadb3", "libpq5", "libsqlite3-0",
        ]);
    "setpriv", [Test], "starts the agent with the capabilities of its service alone",
        Debian(&["util-linux"]);
    "qemu-system-x86_64", [Kernels], "boots other kernels",
        Debian(&["qemu-system-x86"]);
    "busybox", [Test, Kernels], "asks for addresses in endpoints, and is the user space of those kernels",
        Debian(&["busybox-static"]);
    "depmod, modprobe", [Kernels], "say in which order a kernel's modules are loaded",
        Debian(&["kmod"]);
    "cpio", [Kernels], "packs their initramfs",
        Debian(&["cpio"]);
    "clippy for BPF", [Lint], "lints the datapath for its own target"
        if Toolchain::installed().iter().any(Toolchain::has_clippy),
        Debian(&["rust-web-clippy"]);
    "clippy", [Lint], "lints user space"
        if beside_cargo("cargo-clippy"),
        Rustup(&["clippy"]);
    "rustfmt", [Lint], "checks the formatting"
        if beside_cargo("cargo-fmt"),
        Rustup(&["rustfmt"]);
    "cargo-deb", [Package], "makes the Debian package",
        Cargo(CARGO_DEB);
    "dpkg-shlibdeps", [Package], "finds out which libraries the package depends on",
        Debian(&["dpkg-dev"]);
    "lintian", [Package], "checks the package against Debian's rules",
        Debian(&["lintian"]);
    "man", [Package], "renders the manual pages",
        Debian(&["man-db"]);
    "systemd-analyze", [Package], "checks the systemd unit",
        Debian(&["systemd"]);
};

/// Whether these programs, with commas between, are on this machine.
fn are_here(names: &str) -> bool {
    names.split(", ").all(|name| host::program(name).is_some())
}

/// Whether a program is here together with the libraries that it is linked with: a bpf-linker that outlived
/// its LLVM is there, but does not start.
fn runs(name: &str) -> bool {
    host::program(name).is_some_and(|program| host::succeeds(&duct::cmd!(program, "--version")))
}

/// Whether the toolchain that runs us has this program: the ones in cargo's bin folder are rustup's
/// own and are there in any case.
fn beside_cargo(name: &str) -> bool {
    let cargo = std::env::var_os("CARGO")
        .map(PathBuf::from)
        .or_else(|| host::program("cargo"));
    cargo.is_some_and(|cargo| cargo.with_file_name(name).is_file())
}
