//! The way to etcd: addresses, certificates, user and password. All of it is read from files when a
//! connection is made, and again for a new one when they have changed. No secret is kept, printed or
//! logged.

use std::{
    fs, io,
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use etcd_client::{Certificate, ConnectOptions, Identity, TlsOptions};
use tokio::time::Duration;

use super::super::{RegistryError, RegistrySettings};

/// How long a connection may take to come about.
pub(super) const CONNECT: Duration = Duration::from_secs(2);

/// etcd ends connections that are pinged more often than every 5 s (`--grpc-keepalive-min-time`).
const PING: Duration = Duration::from_secs(6);

/// How long a ping may go unanswered.
const PONG: Duration = Duration::from_secs(3);

/// What tells a file that was changed: device, inode, length, and the time of its last change in
/// seconds and nanoseconds. `None`: it can't be looked at.
type FileState = Option<(u64, u64, u64, i64, i64)>;

/// The state of all files that a connection is made from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fingerprint(Vec<FileState>);

/// Where etcd is and how to show who we are.
#[derive(Debug, Clone)]
pub(super) struct Access {
    /// `host:port`, at least one.
    pub(super) members: Vec<String>,
    ca: Option<PathBuf>,
    /// Certificate and key.
    identity: Option<(PathBuf, PathBuf)>,
    /// User, and the file with the password.
    pub(super) user: Option<(String, PathBuf)>,
}

impl Access {
    /// Takes the settings apart; `members` is what follows `etcd://`. Reads every file once, so that
    /// a missing one is told at once.
    pub(super) fn new(members: &str, settings: &RegistrySettings) -> Result<Self, RegistryError> {
        let members: Vec<String> = members.split(',').map(str::to_owned).collect();
        // Not repeated in the text: it may hold a password.
        if !members.iter().all(|member| is_host_and_port(member)) {
            return refused(
                "registry URL etcd://... is malformed: write etcd://HOST:PORT[,HOST:PORT], the user goes into --etcd-user",
            );
        }
        let identity = pair(
            (&settings.cert, "--etcd-cert"),
            (&settings.key, "--etcd-key"),
        )?;
        let user = pair(
            (&settings.user, "--etcd-user"),
            (&settings.password_file, "--etcd-password-file"),
        )?;
        let access = Self {
            members,
            ca: settings.ca.clone(),
            identity,
            user,
        };
        if let Some((user, _)) = &access.user
            && !access.is_tls()
            && !settings.insecure
        {
            return refused(format!(
                "the password of etcd's user {user} would cross the network in clear: give --etcd-ca, or \
                 --etcd-insecure if nobody else can listen there"
            ));
        }
        access.options(true)?;
        Ok(access)
    }

    /// What the files are like now, without reading them.
    pub(super) fn fingerprint(&self) -> Fingerprint {
        let identity = self.identity.iter().flat_map(|(cert, key)| [cert, key]);
        let password = self.user.iter().map(|(_, file)| file);
        let files = self.ca.iter().chain(identity).chain(password);
        Fingerprint(files.map(|file| state_of(file)).collect())
    }

    /// Whether it is TLS.
    pub(super) const fn is_tls(&self) -> bool {
        self.ca.is_some() || self.identity.is_some()
    }

    /// How to connect, as the files say now; with the login or without one.
    pub(super) fn options(&self, with_login: bool) -> Result<ConnectOptions, RegistryError> {
        let mut options = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(PING, PONG)
            .with_require_leader(true)
            .with_auto_token_refresh(true);
        if self.is_tls() {
            options = options.with_tls(self.tls()?);
        }
        if with_login && let Some((user, file)) = &self.user {
            options = options.with_user(user.as_str(), password(file)?);
        }
        Ok(options)
    }

    /// What to do when members say this. A server that does not like how we come just hangs up, in
    /// TLS 1.3 after the handshake.
    pub(super) fn advice<'a>(&self, said: impl Iterator<Item = &'a str>) -> String {
        let said = said.collect::<Vec<_>>().join(" ").to_lowercase();
        let says = |parts: &[&str]| parts.iter().any(|part| said.contains(part));
        if says(&["invalid peer certificate"]) {
            return "check that --etcd-ca is the authority of its certificate, and that the certificate names this address".to_owned();
        }
        if !says(&[
            "broken pipe",
            "connection closed",
            "connection reset",
            "fatal alert",
        ]) {
            return "start etcd, or mend the way to it".to_owned();
        }
        match &self.identity {
            _ if !self.is_tls() => "if it speaks TLS, give --etcd-ca".to_owned(),
            None => "if it asks for a certificate, give --etcd-cert and --etcd-key".to_owned(),
            Some((cert, _)) => format!(
                "if it runs, it may not accept the certificate in {}: see its log",
                cert.display()
            ),
        }
    }

    /// Certificates or a key that TLS does not take.
    pub(super) fn unusable(&self, why: &str) -> RegistryError {
        let identity = self.identity.iter().flat_map(|(cert, key)| [cert, key]);
        let files: Vec<String> = self
            .ca
            .iter()
            .chain(identity)
            .map(|file| file.display().to_string())
            .collect();
        RegistryError::Refused(format!(
            "etcd's certificates can't be used ({why}): check {}",
            files.join(", ")
        ))
    }

    fn tls(&self) -> Result<TlsOptions, RegistryError> {
        let mut tls = TlsOptions::new();
        tls = match &self.ca {
            Some(ca) => tls.ca_certificate(Certificate::from_pem(certificates(ca)?)),
            // The system's.
            None => tls.with_enabled_roots(),
        };
        if let Some((cert, key)) = &self.identity {
            let identity = Identity::from_pem(certificates(cert)?, private_key(key)?);
            tls = tls.identity(identity);
        }
        Ok(tls)
    }
}

/// Both or neither.
fn pair<A: Clone, B: Clone>(
    (a, flag_a): (&Option<A>, &str),
    (b, flag_b): (&Option<B>, &str),
) -> Result<Option<(A, B)>, RegistryError> {
    match (a, b) {
        (Some(a), Some(b)) => Ok(Some((a.clone(), b.clone()))),
        (None, None) => Ok(None),
        (Some(_), None) => refused(format!("{flag_a} is given without {flag_b}: give both")),
        (None, Some(_)) => refused(format!("{flag_b} is given without {flag_a}: give both")),
    }
}

fn state_of(file: &Path) -> FileState {
    let of = fs::metadata(file).ok()?;
    Some((of.dev(), of.ino(), of.size(), of.mtime(), of.mtime_nsec()))
}

fn is_host_and_port(member: &str) -> bool {
    member.rsplit_once(':').is_some_and(|(host, port)| {
        !host.is_empty()
            && !host.contains(['/', '@', '?', '#'])
            && port.parse::<u16>().is_ok_and(|port| port != 0)
    })
}

fn certificates(file: &Path) -> Result<String, RegistryError> {
    pem(file, "certificate", |label| label == "CERTIFICATE")
}

fn private_key(file: &Path) -> Result<String, RegistryError> {
    pem(file, "private key", |label| label.ends_with("PRIVATE KEY"))
}

/// The file's text if it has such a block.
fn pem(file: &Path, what: &str, is_wanted: fn(&str) -> bool) -> Result<String, RegistryError> {
    let text = read(file, what)?;
    let found = text.lines().any(|line| {
        line.trim_end()
            .strip_prefix("-----BEGIN ")
            .and_then(|line| line.strip_suffix("-----"))
            .is_some_and(is_wanted)
    });
    if found {
        Ok(text)
    } else {
        refused(format!(
            "{} holds no {what} in PEM: name another file",
            file.display()
        ))
    }
}

/// The file's first line.
fn password(file: &Path) -> Result<String, RegistryError> {
    let text = read(file, "password")?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => refused(format!(
            "{} holds no password: write it into the file's first line",
            file.display()
        )),
    }
}

fn read(file: &Path, what: &str) -> Result<String, RegistryError> {
    fs::read_to_string(file).or_else(|error| {
        let why = match error.kind() {
            io::ErrorKind::InvalidData => "it is no text".to_owned(),
            _ => error.to_string(),
        };
        refused(format!(
            "{} can't be read ({why}): it has to hold etcd's {what}, and this user has to be allowed to read it",
            file.display()
        ))
    })
}

fn refused<T>(line: impl Into<String>) -> Result<T, RegistryError> {
    Err(RegistryError::Refused(line.into()))
}

#[cfg(test)]
mod tests {
    use super::*;

    const PASSWORD: &str = "correct horse battery staple";

    fn settings(change: impl FnOnce(&mut RegistrySettings)) -> RegistrySettings {
        let mut settings = RegistrySettings::new("etcd://h:2379".to_owned());
        change(&mut settings);
        settings
    }

    #[track_caller]
    fn refusal(members: &str, settings: &RegistrySettings) -> String {
        let line = Access::new(members, settings).unwrap_err().to_string();
        assert!(!line.contains('\n') && !line.contains("secret"), "{line}");
        line
    }

    #[test]
    fn members_are_hosts_and_ports_and_nothing_else() {
        let plain = settings(|_| ());
        for good in ["h:2379", "10.0.0.1:2379,[fd00::1]:2379", "a.b:1,c:65535"] {
            let access = Access::new(good, &plain).unwrap();
            assert_eq!(access.members.join(","), good);
            assert!(!access.is_tls());
        }
        for bad in [
            "",
            "h",
            "h:0",
            "h:65536",
            "h:1,",
            ":1",
            "root:secret@h:2379",
            "h:2379/secret",
        ] {
            assert!(refusal(bad, &plain).contains("malformed"), "{bad}");
        }
    }

    #[test]
    fn halves_are_refused() {
        let file = || Some(PathBuf::from("/x"));
        for (settings, missing) in [
            (settings(|s| s.cert = file()), "--etcd-key: give both"),
            (settings(|s| s.key = file()), "--etcd-cert: give both"),
            (
                settings(|s| s.user = Some("u".into())),
                "--etcd-password-file: give both",
            ),
            (
                settings(|s| s.password_file = file()),
                "--etcd-user: give both",
            ),
        ] {
            let line = refusal("h:1", &settings);
            assert!(line.ends_with(missing), "{line}");
        }
    }

    #[test]
    fn files_that_do_not_hold_what_they_should_are_named_and_not_quoted() {
        let folder = tempfile::tempdir().unwrap();
        let file = |name: &str, text: &str| {
            let path = folder.path().join(name);
            fs::write(&path, text).unwrap();
            Some(path)
        };
        let missing = Some(folder.path().join("missing"));
        let wrong = file("wrong.pem", "-----BEGIN secret-----\n");
        let empty = file("empty", "\nsecret\n");
        for (settings, expected) in [
            (
                settings(|s| s.ca = missing.clone()),
                "missing can't be read",
            ),
            (
                settings(|s| s.ca = wrong.clone()),
                "wrong.pem holds no certificate",
            ),
            (
                settings(|s| {
                    s.user = Some("u".into());
                    s.password_file = empty.clone();
                    s.insecure = true;
                }),
                "empty holds no password",
            ),
        ] {
            let line = refusal("h:1", &settings);
            assert!(line.contains(expected), "{line}");
        }
    }

    #[test]
    fn a_password_goes_over_tls_or_where_it_is_said_that_nobody_listens() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, "secret\n").unwrap();
        let plain = settings(|s| {
            s.user = Some("u".into());
            s.password_file = Some(path);
        });
        let line = refusal("h:1", &plain);
        assert!(
            line.contains("--etcd-ca") && line.contains("--etcd-insecure"),
            "{line}"
        );
        let told = RegistrySettings {
            insecure: true,
            ..plain
        };
        Access::new("h:1", &told).unwrap();
    }

    #[test]
    fn files_that_are_written_or_replaced_are_noticed() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, "one\n").unwrap();
        let settings = settings(|s| {
            s.user = Some("u".into());
            s.password_file = Some(path.clone());
            s.insecure = true;
        });
        let access = Access::new("h:1", &settings).unwrap();
        let first = access.fingerprint();
        assert_eq!(access.fingerprint(), first);
        let other = folder.path().join("other");
        fs::write(&other, "two\n").unwrap();
        fs::rename(&other, &path).unwrap();
        let second = access.fingerprint();
        assert_ne!(second, first);
        fs::write(&path, "three\n").unwrap();
        assert_ne!(access.fingerprint(), second);
        fs::remove_file(&path).unwrap();
        assert_ne!(access.fingerprint(), second);
    }

    #[test]
    fn nothing_prints_the_password() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("password");
        fs::write(&path, format!("{PASSWORD}\n")).unwrap();
        let settings = settings(|s| {
            s.user = Some("u".into());
            s.password_file = Some(path);
            s.insecure = true;
        });
        let access = Access::new("h:1", &settings).unwrap();
        assert!(!format!("{settings:?} {access:?}").contains("horse"));
        // etcd-client's own type would print it: it must not be kept anywhere.
        assert!(format!("{:?}", access.options(true).unwrap()).contains("horse"));
    }
}
