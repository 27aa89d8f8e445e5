//! What a process takes of the machine.

use anyhow::{Context as _, Result};
use procfs::process::Process;

/// At one moment, since the process's start.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Usage {
    /// Seconds of CPU time, in user space and in the kernel.
    pub(crate) cpu_s: f64,
    /// Resident now, MiB.
    pub(crate) resident_mib: f64,
    /// Resident at most, MiB.
    pub(crate) peak_mib: f64,
}

impl Usage {
    pub(crate) fn of(pid: u32) -> Result<Self> {
        let pid = i32::try_from(pid).context("a process id out of range")?;
        let process = Process::new(pid).context("looking at a measured process")?;
        let stat = process.stat()?;
        let status = process.status()?;
        let mib = |kib: Option<u64>| {
            let kib = kib.context("the kernel does not tell a process's memory")?;
            anyhow::Ok(f64::from(u32::try_from(kib)?) / 1024.0)
        };
        let ticks = u32::try_from(stat.utime + stat.stime)?;
        let ticks_per_second = u32::try_from(procfs::ticks_per_second())?;
        Ok(Self {
            cpu_s: f64::from(ticks) / f64::from(ticks_per_second),
            resident_mib: mib(status.vmrss)?,
            peak_mib: mib(status.vmhwm)?,
        })
    }
}
