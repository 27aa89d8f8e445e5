//! Where the registry is, and what opens it. Secrets are files: no flag, variable, record or log
//! ever holds one.

use std::{
    fs, io,
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf, absolute},
    str::FromStr,
};

use serde::Deserialize;

use super::{ConfigError, DEFAULT_REGISTRY, Settings, value::Port};
use crate::registry::RegistrySettings;

/// What a URL looks like, for messages.
pub(super) const URL_FORMS: &str = "sqlite:///PATH or etcd://HOST:PORT[,HOST:PORT]";

/// Where the registry is: `sqlite:///PATH` or `etcd://HOST:PORT[,HOST:PORT]`.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub struct RegistryUrl(pub(super) String);

impl RegistryUrl {
    fn is_etcd(&self) -> bool {
        self.0.starts_with("etcd://")
    }
}

impl FromStr for RegistryUrl {
    type Err = ConfigError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (scheme, rest) = text.split_once("://").unwrap_or(("", text));
        let is_understood = match scheme {
            "sqlite" => rest.starts_with('/') && !rest.ends_with('/') && !rest.contains('\0'),
            // A password may be behind this sign, or before it.
            _ if rest.contains('@') => return Err(ConfigError::RegistrySecret),
            "etcd" => rest.split(',').all(is_host_and_port),
            _ => false,
        };
        if is_understood {
            return Ok(Self(text.to_owned()));
        }
        Err(ConfigError::Registry(match scheme {
            "" | "sqlite" => text.to_owned(),
            _ => format!("{scheme}://..."),
        }))
    }
}

impl TryFrom<String> for RegistryUrl {
    type Error = ConfigError;

    fn try_from(text: String) -> Result<Self, Self::Error> {
        text.parse()
    }
}

fn is_host_and_port(member: &str) -> bool {
    member.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty() && !host.contains('/') && Port::from_str(port).is_ok()
    })
}

/// The flags that name a registry and what opens it: of `run`, and of the verbs that need no agent.
#[derive(Debug, Clone, Default, PartialEq, Eq, clap::Args)]
#[command(next_help_heading = "The registry")]
pub struct RegistryFlags {
    /// Where the registry is.
    #[arg(
        long,
        value_name = "URL",
        env = "OVERLAY_REGISTRY",
        hide_env_values = true,
        help = "Where the registry is: sqlite:///PATH or etcd://HOST:PORT[,HOST:PORT] \
                [default: sqlite:///var/lib/overlay/registry.db]"
    )]
    pub registry: Option<RegistryUrl>,
    /// PEM file of the CA that signed etcd's certificates; with it the connection is TLS
    #[arg(long, value_name = "FILE", env = "OVERLAY_ETCD_CA")]
    pub etcd_ca: Option<PathBuf>,
    /// PEM file of the certificate to show to etcd; needs --etcd-key
    #[arg(long, value_name = "FILE", env = "OVERLAY_ETCD_CERT")]
    pub etcd_cert: Option<PathBuf>,
    /// PEM file of that certificate's private key, which others may not read
    #[arg(long, value_name = "FILE", env = "OVERLAY_ETCD_KEY")]
    pub etcd_key: Option<PathBuf>,
    /// The user to log in to etcd as; needs --etcd-password-file
    #[arg(long, value_name = "USER", env = "OVERLAY_ETCD_USER")]
    pub etcd_user: Option<String>,
    /// File that holds that user's password, which others may not read
    #[arg(long, value_name = "FILE", env = "OVERLAY_ETCD_PASSWORD_FILE")]
    pub etcd_password_file: Option<PathBuf>,
    /// Send that password without TLS, for everybody on the way to read [default: false]
    #[arg(
        long,
        value_name = "BOOL",
        env = "OVERLAY_ETCD_INSECURE",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "true"
    )]
    pub etcd_insecure: Option<bool>,
}

impl RegistryFlags {
    /// The registry that they name. `None`: they name none.
    pub fn named(self) -> Result<Option<RegistrySettings>, ConfigError> {
        if self == Self::default() {
            return Ok(None);
        }
        registry(&Settings::default().with_registry(self)).map(Some)
    }
}

impl Settings {
    /// The same with what `flags` say about the registry.
    #[must_use]
    pub fn with_registry(self, flags: RegistryFlags) -> Self {
        Self {
            registry: flags.registry,
            etcd_ca: flags.etcd_ca,
            etcd_cert: flags.etcd_cert,
            etcd_key: flags.etcd_key,
            etcd_user: flags.etcd_user,
            etcd_password_file: flags.etcd_password_file,
            etcd_insecure: flags.etcd_insecure,
            ..self
        }
    }
}

/// The way that `settings` name. The files are there and readable, and no secret is open to
/// others; what they hold is looked at when the registry is opened.
pub(super) fn registry(settings: &Settings) -> Result<RegistrySettings, ConfigError> {
    let url = settings
        .registry
        .clone()
        .unwrap_or_else(|| RegistryUrl(DEFAULT_REGISTRY.to_owned()));
    let Settings {
        etcd_ca: ca,
        etcd_cert: cert,
        etcd_key: key,
        etcd_user: user,
        etcd_password_file: password_file,
        etcd_insecure: insecure,
        ..
    } = settings;
    let given = [
        ("--etcd-ca", ca.is_some()),
        ("--etcd-cert", cert.is_some()),
        ("--etcd-key", key.is_some()),
        ("--etcd-user", user.is_some()),
        ("--etcd-password-file", password_file.is_some()),
        ("--etcd-insecure", *insecure == Some(true)),
    ];
    for (flag, other) in [(1, 2), (2, 1), (3, 4), (4, 3)] {
        if let (Some(&(flag, true)), Some(&(other, false))) = (given.get(flag), given.get(other)) {
            return Err(ConfigError::Incomplete { flag, other });
        }
    }
    if let Some(&(flag, _)) = given.iter().find(|(_, is_given)| *is_given)
        && !url.is_etcd()
    {
        return Err(ConfigError::NotEtcd(flag));
    }
    let public = |flag, file: &Option<PathBuf>| file.as_deref().map(|file| readable(flag, file));
    let secret = |flag, file: &Option<PathBuf>| file.as_deref().map(|file| private(flag, file));
    let named = RegistrySettings::new(url.0);
    Ok(RegistrySettings {
        ca: public("--etcd-ca", ca).transpose()?,
        cert: public("--etcd-cert", cert).transpose()?,
        key: secret("--etcd-key", key).transpose()?,
        user: user.clone(),
        password_file: secret("--etcd-password-file", password_file).transpose()?,
        insecure: insecure.unwrap_or(false),
        quarantine: settings.quarantine.map_or(named.quarantine, |q| q.0),
        ..named
    })
}

/// The file's absolute path: `overlay down` may run in another folder.
fn readable(flag: &'static str, file: &Path) -> Result<PathBuf, ConfigError> {
    let path = || file.to_owned();
    let failed = |cause: io::Error| ConfigError::Credential {
        flag,
        path: path(),
        cause,
    };
    let metadata = fs::File::open(file)
        .and_then(|file| file.metadata())
        .map_err(failed)?;
    if !metadata.is_file() {
        return Err(failed(io::Error::other("it is not a file")));
    }
    absolute(file).map_err(failed)
}

/// The same for a file that others may not read.
fn private(flag: &'static str, file: &Path) -> Result<PathBuf, ConfigError> {
    let path = readable(flag, file)?;
    let mode = fs::metadata(file)
        .map_err(|cause| ConfigError::Credential {
            flag,
            path: path.clone(),
            cause,
        })?
        .permissions()
        .mode();
    let of_others = mode & 0o007;
    if of_others != 0 {
        return Err(ConfigError::Exposed { flag, path });
    }
    Ok(path)
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;

    use super::*;

    fn settings(folder: &TempDir, mode: u32) -> Settings {
        let file = |name: &str| {
            let path = folder.path().join(name);
            fs::write(&path, "hunter2\n").unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
            Some(path)
        };
        let flags = RegistryFlags {
            registry: Some("etcd://10.0.0.1:2379".parse().unwrap()),
            etcd_ca: file("ca.pem"),
            etcd_cert: file("cert.pem"),
            etcd_key: file("key.pem"),
            etcd_user: Some("overlay".to_owned()),
            etcd_password_file: file("password"),
            etcd_insecure: None,
        };
        Settings::default().with_registry(flags)
    }

    fn refused(settings: &Settings) -> String {
        let line = registry(settings).unwrap_err().to_string();
        assert!(!line.contains('\n') && !line.contains("hunter2"), "{line}");
        line
    }

    #[test]
    fn urls_are_checked_for_their_form() {
        for good in [
            "sqlite:///a",
            "sqlite:///var/lib/x@y.db",
            "etcd://h:2379",
            "etcd://a:1,b:2",
            "etcd://[::1]:2379",
        ] {
            assert!(good.parse::<RegistryUrl>().is_ok(), "{good}");
        }
        for bad in [
            "",
            "x.db",
            "sqlite://x.db",
            "sqlite:///",
            "sqlite:///a/",
            "etcd://",
            "etcd://h",
            "etcd://h:0",
            "etcd://a:1,",
            "etcd://h:2379/x",
            "http://h",
        ] {
            let line = bad.parse::<RegistryUrl>().unwrap_err().to_string();
            assert!(line.contains(URL_FORMS), "{bad}: {line}");
        }
    }

    #[test]
    fn a_url_that_may_hold_a_secret_is_refused_and_not_repeated() {
        for url in [
            "etcd://root:hunter2@10.0.0.1:2379",
            "etcd://10.0.0.1:2379,root:hunter2@10.0.0.2:2379",
            "root:hunter2@10.0.0.1:2379",
            "http://root:hunter2@10.0.0.1",
            "etcd://root:hunter2",
        ] {
            let line = url.parse::<RegistryUrl>().unwrap_err().to_string();
            assert!(!line.contains("hunter2"), "{line}");
            if url.contains('@') {
                assert!(line.contains("--etcd-password-file"), "{line}");
            }
        }
    }

    #[test]
    fn the_files_are_named_and_their_contents_are_not_kept() {
        let folder = tempfile::tempdir().unwrap();
        let access = registry(&settings(&folder, 0o600)).unwrap();
        assert_eq!(access.password_file, Some(folder.path().join("password")));
        assert_eq!(access.user.as_deref(), Some("overlay"));
        let written = format!("{access:?} {}", serde_json::to_string(&access).unwrap());
        assert!(!written.contains("hunter2"), "{written}");
    }

    #[test]
    fn a_secret_that_others_can_read_is_refused() {
        let folder = tempfile::tempdir().unwrap();
        let line = refused(&settings(&folder, 0o644));
        assert!(
            line.starts_with("--etcd-key: ") && line.contains("chmod o= "),
            "{line}"
        );
        let settings = Settings {
            etcd_cert: None,
            etcd_key: None,
            ..settings(&folder, 0o604)
        };
        assert!(refused(&settings).starts_with("--etcd-password-file: "));
        registry(&self::settings(&folder, 0o640)).unwrap();
    }

    #[test]
    fn a_file_that_is_missing_or_none_is_named_with_its_flag() {
        let folder = tempfile::tempdir().unwrap();
        for (path, why) in [
            (folder.path().join("nowhere"), "No such file"),
            (folder.path().to_owned(), "not a file"),
        ] {
            let settings = Settings {
                etcd_ca: Some(path.clone()),
                ..settings(&folder, 0o600)
            };
            let line = refused(&settings);
            assert!(line.starts_with("--etcd-ca: "), "{line}");
            assert!(line.contains(&path.display().to_string()), "{line}");
            assert!(line.contains(why), "{line}");
        }
    }

    #[test]
    fn half_a_pair_names_the_other_half() {
        let folder = tempfile::tempdir().unwrap();
        for (settings, flag, other) in [
            (
                Settings {
                    etcd_key: None,
                    ..settings(&folder, 0o600)
                },
                "--etcd-cert",
                "--etcd-key",
            ),
            (
                Settings {
                    etcd_user: None,
                    ..settings(&folder, 0o600)
                },
                "--etcd-password-file",
                "--etcd-user",
            ),
        ] {
            let line = refused(&settings);
            assert!(line.starts_with(flag) && line.contains(other), "{line}");
        }
    }

    #[test]
    fn a_file_has_no_use_for_credentials() {
        let folder = tempfile::tempdir().unwrap();
        let settings = Settings {
            registry: None,
            ..settings(&folder, 0o600)
        };
        let line = refused(&settings);
        assert!(
            line.contains("--etcd-ca") && line.contains("etcd://"),
            "{line}"
        );
    }
}
