//! The underlay while the agent starts and runs: which address the VTEP has, and when that changes.

use std::{net::Ipv4Addr, sync::Arc, time::Duration};

use tokio::{sync::watch, time::Instant};

use crate::{
    model::Node,
    platform::{Linux, Look, PlatformError, Underlay},
    reconcile::watchdog::{Part, Watchdog},
};

/// How often it is looked at.
const INTERVAL: Duration = Duration::from_secs(2);
/// For how long the VTEP's address may be away and is waited for. A DHCP client that renews a lease
/// takes the address off and adds it again, behind those that were left.
const ABSENCE: Duration = Duration::from_secs(5);
/// Between two looks for an address at the start.
const RETRY: Duration = Duration::from_millis(200);

/// The underlay to start with. The VTEP keeps its `previous` address if that is there, or comes back in a
/// moment; otherwise it gets the interface's own.
pub(super) async fn choose(
    platform: &Linux,
    previous: Option<Ipv4Addr>,
) -> Result<Underlay, PlatformError> {
    if let Some(previous) = previous {
        platform.keep_address(previous).await;
    }
    let deadline = Instant::now() + ABSENCE;
    let underlay = loop {
        if let Ok(underlay) = platform.underlay().await {
            break underlay;
        }
        let another = platform.underlay_anew().await;
        if previous.is_none() || Instant::now() >= deadline {
            break another?;
        }
        tokio::time::sleep(RETRY).await;
    };
    platform.keep_address(underlay.ip).await;
    Ok(underlay)
}

/// The VTEP's address went away while the start waited.
#[derive(Debug, thiserror::Error)]
#[error("the underlay changed while the agent waited to start: {0}")]
pub(super) struct Moved(PlatformError);

/// Refuses to go on with an address that is not there any more.
pub(super) async fn check(platform: &Linux) -> Result<(), Moved> {
    match platform.find_underlay().await {
        Ok(Look::Gone(why)) => Err(Moved(why)),
        _ => Ok(()),
    }
}

/// Ends when the underlay is no longer the one that the programs were loaded for, with what it is now.
///
/// A device that is down is waited for, as a pulled cable is. So is one without the VTEP's address; after
/// a while another one of its own is taken. If there is none either, `node` says so to the registry: who
/// has the address now may claim it. A look that fails changes nothing.
pub(super) async fn watch(
    platform: Arc<Linux>,
    loaded: Underlay,
    node: watch::Sender<Node>,
    watchdog: Arc<Watchdog>,
) -> Underlay {
    let whole = node.borrow().clone();
    let (mut gone_since, mut is_lost) = (None, false);
    loop {
        watchdog.turned(Part::Underlay);
        tokio::time::sleep(INTERVAL).await;
        let why = match platform.find_underlay().await {
            Ok(Look::There(now)) if is_same(&now, &loaded) => {
                gone_since = None;
                if std::mem::take(&mut is_lost) {
                    tracing::info!("the underlay is back");
                }
                announce(&node, whole.clone());
                continue;
            }
            Ok(Look::There(now)) => return now,
            Ok(Look::Gone(why)) => {
                let since = *gone_since.get_or_insert_with(Instant::now);
                if since.elapsed() >= ABSENCE {
                    if let Ok(another) = platform.underlay_anew().await {
                        return another;
                    }
                    announce(&node, whole.clone().without_address());
                }
                why
            }
            Ok(Look::Unfit(why)) | Err(why) => why,
        };
        if !std::mem::replace(&mut is_lost, true) {
            tracing::warn!(error = %why, "the underlay is lost");
        }
    }
}

/// The node's record in the registry from now on.
fn announce(node: &watch::Sender<Node>, now: Node) {
    node.send_if_modified(|known| {
        let is_new = *known != now;
        *known = now;
        is_new
    });
}

fn is_same(one: &Underlay, other: &Underlay) -> bool {
    (one.ifindex, one.ip, one.mtu) == (other.ifindex, other.ip, other.mtu)
}
