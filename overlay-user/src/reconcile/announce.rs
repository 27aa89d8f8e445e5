//! Announces addresses that moved to the endpoints of this host.

use std::collections::BTreeMap;

use tokio::time::Instant;

use super::{
    Reconciler,
    announcer::{FRAMES, INTERVAL},
    apply::Applier,
    mirror::Mirror,
    plan::ChangeSet,
};
use crate::model::{Endpoint, Name, NeighborKey, NeighborRow, Vni};

impl Applier {
    /// Learns from a change that is being carried out which addresses come to another MAC.
    pub(super) fn note_neighbors(&mut self, mirror: &Mirror, changes: &ChangeSet, now: Instant) {
        for (key, before) in changes.neighbors.rows() {
            // Most rows of a reading are new, and nothing is remembered of them.
            if before.is_none() && !self.announcer.remembers_any() {
                continue;
            }
            let after = self
                .desired(mirror)
                .row::<NeighborRow>(*key)
                .map(|row| row.mac);
            let before = before.map(|row| row.mac);
            self.announcer.note(*key, before, after, now);
        }
    }

    /// Whether endpoints here may remember another MAC of one of the endpoint's addresses.
    pub(super) fn is_misremembered(&self, endpoint: &Endpoint) -> bool {
        let vni = endpoint.vni;
        let is_other = |ip| {
            self.announcer
                .is_other(&NeighborKey { vni, ip }, endpoint.mac)
        };
        endpoint.ips().any(is_other)
    }

    /// Tells endpoints here of addresses that came to another MAC, as many as it is time for. Gives
    /// how many addresses that were.
    pub(super) fn announce(&mut self, mirror: &Mirror, now: Instant) -> u64 {
        if self.announcer.next().is_none_or(|next| now < next) {
            return 0;
        }
        self.announcer.set_next(now + INTERVAL);
        // Frames that follow the announcement have to find their rows.
        if self.writer.is_writing() {
            return 0;
        }
        let listeners = self.listeners(mirror);
        let (mut announced, mut frames) = (0, 0);
        while frames < FRAMES
            && let Some(key) = self.announcer.pop()
        {
            let Some(row) = self.desired(mirror).row::<NeighborRow>(key) else {
                continue;
            };
            let owner = mirror.by_ip(key.vni, key.ip).map(|known| known.name());
            let others = listeners.get(&key.vni).into_iter().flatten();
            for (_, ifindex) in others.filter(|(name, _)| Some(*name) != owner) {
                let told = self
                    .writer
                    .on_datapath(|datapath| datapath.announce(*ifindex, key.ip, row.mac));
                if let Err(error) = told {
                    tracing::debug!(%error, ip = %key.ip, "not announced: it is asked for later");
                }
                frames += 1;
            }
            announced += 1;
        }
        announced
    }

    /// The endpoints of this host by network, with the indexes of their interfaces.
    fn listeners<'a>(&self, mirror: &'a Mirror) -> BTreeMap<Vni, Vec<(&'a Name, u32)>> {
        let mut listeners: BTreeMap<_, Vec<_>> = BTreeMap::new();
        for known in mirror.local_endpoints() {
            if let Some(ifindex) = self.host.endpoints.ifindex(known.name()) {
                let network = listeners.entry(known.vni()).or_default();
                network.push((known.name(), ifindex));
            }
        }
        listeners
    }
}

impl Reconciler {
    /// Announces what it is time for.
    pub(super) async fn announce(&mut self, now: Instant) {
        if self.applier.announcer.next().is_some() {
            let view = self.view.read().await;
            self.counters.announced += self.applier.announce(&view.mirror, now);
        }
    }
}
