//! Retries a start while the registry is away or another node has this one's address.
//!
//! The pinned maps keep forwarding, so the agent can wait. An agent that ran here before waits for the registry,
//! and tells clients so. A first start ends with an error instead: its registry's URL is probably wrong. A
//! registry that is another one, empty or gone counts as away, because the right one may be brought back. Every
//! start waits for an address that may soon be free.

use std::{future::pending, io, os::fd::AsFd as _, sync::Arc, time::Duration};

use anyhow::Context as _;
use axum::Router;
use backon::{ExponentialBuilder, Retryable as _};
use sd_notify::NotifyState;
use tokio::{net::UnixListener, sync::watch, time::Instant};

use super::{
    adopt::AtStart,
    api::{AdoptRegistry, ErrorKind, Operation as _, OperationError},
    connections,
    join::Claimed,
    server::{self, ErrorResponse, route},
};
use crate::{
    config::Config,
    registry::{self, RegistryError},
};

/// Between two tries, from the first to the longest.
const TRIES: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(5));
/// How much longer a service manager is asked to wait at each try: longer than one takes.
pub(super) const EXTENSION: Duration = Duration::from_mins(1);

/// Whether and how a start waits.
pub(super) struct StartupRetry<'a> {
    config: &'a Config,
    /// Where clients are told so meanwhile.
    socket: &'a UnixListener,
    /// The one thing that they can have done meanwhile.
    adoption: &'a Arc<AtStart>,
    /// For the registry too.
    for_registry: bool,
    begun: Instant,
}

impl<'a> StartupRetry<'a> {
    /// Waits if the instance's agent ran here before, with the same registry: the URL of another one may be
    /// wrong, but for another list of etcd's members.
    pub(super) fn new(
        config: &'a Config,
        previous: Option<&registry::RegistrySettings>,
        socket: &'a UnixListener,
        adoption: &'a Arc<AtStart>,
    ) -> Self {
        let url = &config.registry.url;
        let for_registry =
            previous.is_some_and(|previous| previous.url == *url || url.starts_with("etcd://"));
        Self {
            config,
            socket,
            adoption,
            for_registry,
            begun: Instant::now(),
        }
    }

    /// Does `work` until it fails for a reason that time does not mend, or succeeds.
    pub(super) async fn until_done<T, W>(&self, mut work: impl FnMut() -> W) -> anyhow::Result<T>
    where
        W: Future<Output = anyhow::Result<T>>,
    {
        let first = work().await;
        let Err(error) = first else { return first };
        if !self.helps(&error) {
            return Err(error);
        }
        let (reason, told) = watch::channel(self.reason(&error));
        self.tell(&error);
        let tries = ExponentialBuilder::default()
            .with_min_delay(TRIES.0)
            .with_max_delay(TRIES.1)
            .without_max_times();
        let helps = |error: &anyhow::Error| self.helps(error);
        let trying = work.retry(tries).when(helps).notify(|error, _| {
            self.tell(error);
            reason.send_replace(self.reason(error));
        });
        tokio::select! {
            outcome = trying => outcome,
            refused = refuse(self.socket, self.adoption, self.begun, told) => {
                Err(refused.err().unwrap_or_else(|| io::Error::other("it closed")))
                    .context("the agent's socket")
            }
        }
    }

    /// Whether time may mend it.
    fn helps(&self, error: &anyhow::Error) -> bool {
        is_claimed(error) || (self.for_registry && is_away(error))
    }

    /// What is waited for, and why.
    fn reason(&self, error: &anyhow::Error) -> String {
        if is_claimed(error) {
            return format!("{error:#}");
        }
        format!(
            "it needs the registry {} ({error:#}): traffic goes on, and it begins its work when the registry \
             answers",
            self.config.registry.url
        )
    }

    fn tell(&self, error: &anyhow::Error) {
        tracing::warn!(
            error = format_args!("{error:#}"),
            "waiting, the datapath stays as it is"
        );
        let waiting = if is_claimed(error) {
            "waiting for the VTEP's address".to_owned()
        } else {
            format!("waiting for the registry {}", self.config.registry.url)
        };
        ask_for_time(&waiting);
    }
}

/// Asks the service manager not to end a start that takes its time, and tells it why.
pub(super) fn ask_for_time(why: &str) {
    let micros = u32::try_from(EXTENSION.as_micros()).unwrap_or(u32::MAX);
    // Without a service manager there is nobody to tell.
    let _ = sd_notify::notify(&[
        NotifyState::Status(why),
        NotifyState::ExtendTimeoutUsec(micros),
    ]);
}

fn is_claimed(error: &anyhow::Error) -> bool {
    error.is::<Claimed>()
}

fn is_away(error: &anyhow::Error) -> bool {
    error
        .chain()
        .filter_map(|cause| cause.downcast_ref::<RegistryError>())
        .any(|cause| {
            matches!(
                cause,
                RegistryError::Unavailable(_) | RegistryError::Foreign(_)
            )
        })
}

/// Tells every client that the agent waits, and for what; has the registry followed that is there if a
/// client asks for that.
async fn refuse(
    socket: &UnixListener,
    adoption: &Arc<AtStart>,
    begun: Instant,
    reason: watch::Receiver<String>,
) -> io::Result<()> {
    let listener = std::os::unix::net::UnixListener::from(socket.as_fd().try_clone_to_owned()?);
    let adopt = route::<AtStart, AdoptRegistry>();
    let router = Router::new()
        .route(AdoptRegistry::PATH, adopt)
        .with_state(Arc::clone(adoption));
    let router = router.fallback(move || {
        let refusal = format!(
            "the agent has waited for {} s: {}",
            begun.elapsed().as_secs(),
            *reason.borrow()
        );
        async { ErrorResponse(OperationError::new(ErrorKind::Unavailable, refusal)) }
    });
    let listener = UnixListener::from_std(listener)?;
    connections::serve(
        server::Present(listener),
        router,
        server::limits(),
        pending(),
    )
    .await;
    Ok(())
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{
        agent::{api::ShowStatus, client::Client},
        config::Settings,
        platform::Linux,
    };

    fn config(url: &str) -> Config {
        let settings = Settings {
            iface: Some("u0".parse().unwrap()),
            ..Settings::default()
        };
        Config {
            registry: registry::RegistrySettings::new(url.to_owned()),
            ..Config::load(settings, None).unwrap()
        }
    }

    fn adoption(config: &Config) -> Arc<AtStart> {
        let (instance, iface) = (config.instance.clone(), config.iface.clone());
        let platform = Linux::new(instance, iface, None).unwrap();
        Arc::new(AtStart::new(config.clone(), Arc::new(platform)))
    }

    fn away() -> anyhow::Error {
        RegistryError::Unavailable("no route to host".to_owned()).into()
    }

    #[tokio::test]
    async fn an_agent_that_was_here_before_waits_and_says_so_to_whoever_asks() {
        let folder = tempfile::tempdir().unwrap();
        let socket = folder.path().join("a.sock");
        let listener = server::listen(&socket, None).unwrap();
        let config = config("etcd://10.0.0.1:2379");
        let adoption = adoption(&config);
        let startup_retry =
            StartupRetry::new(&config, Some(&config.registry), &listener, &adoption);
        let (asked, was_asked) = watch::channel(false);
        let client = Client::at("a".parse().unwrap(), socket);
        let asking = async {
            let error = client.call(&ShowStatus {}).await.unwrap_err().to_string();
            asked.send_replace(true);
            error
        };
        let work = || async {
            if *was_asked.borrow() {
                Ok(7)
            } else {
                Err(away())
            }
        };
        let (outcome, error) = tokio::join!(startup_retry.until_done(work), asking);
        assert_eq!(outcome.unwrap(), 7);
        assert!(error.contains("etcd://10.0.0.1:2379"), "{error}");
        assert!(error.contains("no route to host"), "{error}");
    }

    #[tokio::test]
    async fn neither_a_first_start_nor_one_that_is_refused_waits() {
        let folder = tempfile::tempdir().unwrap();
        let listener = server::listen(&folder.path().join("a.sock"), None).unwrap();
        let refused = || anyhow::Error::from(RegistryError::Refused("wrong password".to_owned()));
        let previous = registry::RegistrySettings::new("sqlite:///x.db".to_owned());
        for (url, previous, error) in [
            ("etcd://10.0.0.1:2379", None, away as fn() -> anyhow::Error),
            ("sqlite:///y.db", Some(&previous), away),
            ("etcd://10.0.0.1:2379", Some(&previous), refused),
        ] {
            let tries = AtomicUsize::new(0);
            let config = config(url);
            let adoption = adoption(&config);
            let startup_retry = StartupRetry::new(&config, previous, &listener, &adoption);
            let outcome: anyhow::Result<()> = startup_retry
                .until_done(|| async {
                    tries.fetch_add(1, Ordering::Relaxed);
                    Err(error())
                })
                .await;
            assert!(outcome.is_err());
            assert_eq!(tries.into_inner(), 1, "{url}");
        }
    }
}
