//! Operations on dropped packets, with the names of their endpoints and hosts: `overlay drops`.

use std::collections::{BTreeMap, BTreeSet};

use crate::agent::service::{Agent, named, names_of};
use crate::{
    agent::{
        api::{
            CountDrops, DropsView, ErrorKind, OperationError, ShowDrops, drop_counts, drop_samples,
            endpoint_drop_counts,
        },
        server::{Handle, Outcome},
    },
    datapath::{Datapath, DatapathError},
    model::{DroppedFrame, Name, PortCounts},
    reconcile::View,
};

/// Everything that the datapath keeps of drops.
type Kept = (
    BTreeMap<&'static str, u64>,
    Vec<DroppedFrame>,
    BTreeMap<u32, PortCounts>,
);

impl Handle<CountDrops> for Agent {
    async fn handle(&self, _: CountDrops) -> Outcome<CountDrops> {
        let drops = self.maps.ask(Datapath::drops).await?;
        Ok(drops.into_iter().map(named).collect())
    }
}

impl Handle<ShowDrops> for Agent {
    async fn handle(&self, filter: ShowDrops) -> Outcome<ShowDrops> {
        let wanted = match &filter.endpoint {
            Some(endpoint) => Some(interface_of(&*self.observer.view().await, endpoint)?),
            None => None,
        };
        let (counts, frames, endpoints) = self.maps.ask(read).await?;
        let names = names_of(&*self.observer.view().await);
        Ok(DropsView {
            endpoint: filter.endpoint,
            reasons: match wanted {
                Some(ifindex) => {
                    let counts = endpoints.get(&ifindex).cloned().unwrap_or_default();
                    endpoint_drop_counts(&counts.drops)
                }
                None => drop_counts(counts),
            },
            samples: drop_samples(frames, wanted, &names),
        })
    }
}

impl Agent {
    /// What was counted of each endpoint of this host, by its interface; of this interface's alone. `None`: the
    /// kernel does not say.
    pub(in crate::agent) async fn port_counts(
        &self,
        only: Option<u32>,
    ) -> Option<BTreeMap<u32, PortCounts>> {
        let counts = self.maps.ask(move |datapath| datapath.port_counts(only));
        counts.await.ok()
    }
}

fn read(datapath: &dyn Datapath) -> Result<Kept, DatapathError> {
    let counts = datapath.drops()?;
    let occurred: BTreeSet<&str> = counts
        .iter()
        .filter(|(_, packets)| **packets > 0)
        .map(|(reason, _)| *reason)
        .collect();
    let frames = datapath.dropped_frames(&occurred)?;
    Ok((counts, frames, datapath.port_counts(None)?))
}

/// The host-side interface of an endpoint of this host.
fn interface_of(view: &View, endpoint: &Name) -> Result<u32, OperationError> {
    if let Some(ifindex) = view.ifindex(endpoint) {
        return Ok(ifindex);
    }
    let known = view.mirror.endpoint(endpoint);
    Err(match known {
        Some(known) if !known.is_local() => OperationError::new(
            ErrorKind::Refused,
            format_args!(
                "endpoint {endpoint} lives on {}: what is dropped of it that host counts, ask there",
                known.to_endpoint().node
            ),
        ),
        Some(_) => OperationError::new(
            ErrorKind::Refused,
            format_args!(
                "endpoint {endpoint} does not stand: `overlay endpoint show {endpoint}` says why"
            ),
        ),
        None => OperationError::new(
            ErrorKind::NotFound,
            format_args!("this host knows no endpoint {endpoint}: see `overlay endpoint ls`"),
        ),
    })
}
