//! One etcd on this machine, its data on the machine's disk.

use std::time::Duration;

use anyhow::Result;
use tempfile::TempDir;

use crate::usage::Usage;
use overlay_lab::Netns;
use overlay_lab::interrupt;
use overlay_lab::process::{self, Running};

const PORT: u16 = 2379;
/// Bytes: a million endpoints fit, which etcd's default of 2 GiB would not hold.
const QUOTA: u64 = 8 << 30;

/// A member that is a cluster by itself. Ends when it goes.
pub(super) struct Etcd {
    process: Running,
    address: String,
    _folder: TempDir,
}

impl Etcd {
    /// Starts it in a namespace, at one of its addresses; returns when it answers.
    pub(super) fn start(netns: &Netns, ip: &str) -> Result<Self> {
        const LIMIT: Duration = Duration::from_secs(30);
        let folder = super::folder()?;
        let [data, quota] = [folder.path().display().to_string(), QUOTA.to_string()];
        let address = format!("{ip}:{PORT}");
        let clients = format!("http://{address}");
        let process = Running::start(
            "etcd",
            &netns.line(&[
                "etcd",
                "--data-dir",
                &data,
                "--quota-backend-bytes",
                &quota,
                "--listen-client-urls",
                &clients,
                "--advertise-client-urls",
                &clients,
                "--logger",
                "zap",
                "--log-level",
                "error",
            ]),
        )?;
        let etcd = Self {
            process,
            address,
            _folder: folder,
        };
        let health = netns.line(&[
            "etcdctl",
            "--endpoints",
            &etcd.address,
            "endpoint",
            "health",
        ]);
        interrupt::wait_until("etcd answers", LIMIT, || {
            etcd.process.check()?;
            Ok(process::run("etcdctl", &health).is_ok())
        })?;
        Ok(etcd)
    }

    pub(super) fn url(&self) -> String {
        format!("etcd://{}", self.address)
    }

    /// What it takes of the machine.
    pub(super) fn usage(&self) -> Result<Usage> {
        Usage::of(self.process.pid()?)
    }
}
