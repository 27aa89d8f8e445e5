//! The underlay device while the agent runs.

use std::{sync::Arc, time::Duration};

use anyhow::bail;

use crate::{
    platform::{Linux, Underlay},
    reconcile::watchdog::{Part, Watchdog},
};

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_secs(2);

/// Ends with an error when the underlay is no longer the one that the programs were loaded for: a
/// service manager then starts the agent anew. A device that is down or has lost its address for a
/// while is waited for, as a pulled cable is.
pub(super) async fn watch(
    platform: Arc<Linux>,
    loaded: Underlay,
    watchdog: Arc<Watchdog>,
) -> anyhow::Result<()> {
    let mut is_lost = false;
    loop {
        watchdog.turned(Part::Underlay);
        tokio::time::sleep(INTERVAL).await;
        match platform.underlay().await {
            Ok(now)
                if (now.ifindex, now.ip, now.mtu) == (loaded.ifindex, loaded.ip, loaded.mtu) =>
            {
                if std::mem::take(&mut is_lost) {
                    tracing::info!("the underlay is back");
                }
            }
            Ok(now) => bail!(
                "the underlay changed: it was interface {} with {} and MTU {}, and is {} with {} and \
                 MTU {}: start the agent again",
                loaded.ifindex,
                loaded.ip,
                loaded.mtu,
                now.ifindex,
                now.ip,
                now.mtu
            ),
            Err(error) => {
                if !std::mem::replace(&mut is_lost, true) {
                    tracing::warn!(%error, "the underlay is lost");
                }
            }
        }
    }
}
