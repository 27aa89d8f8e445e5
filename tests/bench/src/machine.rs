//! The machine that was measured, without what would tell whose it is.

use std::fmt;

use anyhow::{Context as _, Result};
use procfs::{CpuInfo, Current as _, Meminfo};
use serde::Serialize;

use overlay_lab::process;

/// What figures depend on.
#[derive(Debug, Clone, Serialize)]
pub(super) struct Machine {
    cpu: String,
    cpus: usize,
    /// Whether a hypervisor lies below.
    guest: bool,
    memory_gib: u64,
    kernel: String,
    iperf3: String,
}

impl Machine {
    pub(super) fn look() -> Result<Self> {
        let cpus = CpuInfo::current().context("reading /proc/cpuinfo")?;
        let kernel = nix::sys::utsname::uname().context("asking for the kernel's release")?;
        let memory = Meminfo::current().context("reading /proc/meminfo")?;
        let iperf3 = process::run(
            "asking iperf3 for its version",
            &process::command("iperf3", &["--version"]),
        )?;
        Ok(Self {
            cpu: cpus.model_name(0).unwrap_or("unknown").to_owned(),
            cpus: cpus.num_cores(),
            guest: cpus
                .flags(0)
                .is_some_and(|flags| flags.contains(&"hypervisor")),
            memory_gib: memory.mem_total.next_multiple_of(1 << 30) >> 30,
            kernel: kernel.release().to_string_lossy().into_owned(),
            iperf3: iperf3
                .split_whitespace()
                .nth(1)
                .unwrap_or("unknown")
                .to_owned(),
        })
    }
}

impl fmt::Display for Machine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "{}, {} CPUs{}, {} GiB, Linux {}, iperf3 {}",
            self.cpu,
            self.cpus,
            if self.guest {
                " of a virtual machine"
            } else {
                ""
            },
            self.memory_gib,
            self.kernel,
            self.iperf3,
        )
    }
}
