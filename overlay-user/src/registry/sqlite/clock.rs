//! The time since the boot: it goes on during suspend, and nobody can set it. All who share the file
//! are on one machine, so they agree on it.

use std::{fs, sync::OnceLock, time::Duration};

use nix::time::{ClockId, clock_gettime};

use super::super::RegistryError;

/// A moment: milliseconds after the boot of this name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct BootTime {
    pub(super) boot: &'static str,
    pub(super) ms: i64,
}

impl BootTime {
    /// Now.
    pub(super) fn now() -> Result<Self, RegistryError> {
        let since_boot = clock_gettime(ClockId::CLOCK_BOOTTIME).map_err(|error| {
            RegistryError::Unavailable(format!("this machine has no boot-time clock ({error})"))
        })?;
        Ok(Self {
            boot: boot_id()?,
            ms: milliseconds(Duration::from(since_boot)),
        })
    }

    /// So much later.
    pub(super) fn after(self, time: Duration) -> Self {
        Self {
            ms: self.ms.saturating_add(milliseconds(time)),
            ..self
        }
    }

    /// So much earlier.
    pub(super) fn before(self, time: Duration) -> Self {
        Self {
            ms: self.ms.saturating_sub(milliseconds(time)),
            ..self
        }
    }
}

pub(super) fn milliseconds(time: Duration) -> i64 {
    i64::try_from(time.as_millis()).unwrap_or(i64::MAX)
}

/// The kernel's name for this boot.
fn boot_id() -> Result<&'static str, RegistryError> {
    static BOOT: OnceLock<String> = OnceLock::new();
    const FILE: &str = "/proc/sys/kernel/random/boot_id";
    if let Some(boot) = BOOT.get() {
        return Ok(boot);
    }
    let boot = fs::read_to_string(FILE).map_err(|error| {
        RegistryError::Unavailable(format!(
            "{FILE} can't be read ({error}): mount /proc for this process"
        ))
    })?;
    Ok(BOOT.get_or_init(|| boot.trim().to_owned()))
}
