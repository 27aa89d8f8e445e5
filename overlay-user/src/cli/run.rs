//! `overlay run`: the agent.

use std::path::PathBuf;

use clap::Args;

use crate::{
    config::{Config, ConfigError, LogSetting, RegistryFlags, Settings},
    model::Name,
};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay run --iface eth0 --vni 42
  overlay run --iface eth0 --registry sqlite:///srv/overlay/registry.db --node h1
  overlay --instance h1 run --iface u1 --local-ip 10.0.0.1
  overlay run --iface eth0 --registry etcd://10.0.0.1:2379,10.0.0.2:2379,10.0.0.3:2379 \\
      --etcd-ca /etc/overlay/ca.pem --etcd-user overlay --etcd-password-file /etc/overlay/password
  overlay --log json run --iface eth0 --metrics :9090
  OVERLAY_IFACE=eth0 OVERLAY_VNI=42,43 overlay run
  overlay run --config /etc/overlay.toml

Secrets are files that other users can't read; no flag, variable or log holds one. A configuration file has the flags' names as keys, with _ for -:
  iface = \"eth0\"
  vni = [42, 43]
  registry = \"sqlite:///var/lib/overlay/registry.db\"
  socket_group = \"overlay\"

A flag beats the environment, both beat the file. The agent is ready when systemd is told so and
`overlay status` says it.";

/// The flags of `run`.
#[derive(Debug, Args)]
pub struct RunArgs {
    #[command(flatten)]
    settings: Settings,
    /// A TOML file with any of these settings
    #[arg(long, value_name = "FILE", env = "OVERLAY_CONFIG")]
    config: Option<PathBuf>,
    #[command(flatten)]
    registry: RegistryFlags,
}

impl RunArgs {
    /// The agent's configuration: these flags, the two that every verb has, the file, the defaults.
    pub fn config(
        self,
        instance: Option<Name>,
        log: Option<LogSetting>,
    ) -> Result<Config, ConfigError> {
        let flags = Settings {
            instance,
            log: log.unwrap_or_default(),
            ..self.settings
        };
        Config::load(flags.with_registry(self.registry), self.config.as_deref())
    }
}
