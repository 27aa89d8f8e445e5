//! Holds what the registry has lost or states wrongly, as it was before.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::Instant;

use super::{Lost, Reconciler, View, mirror::Absent, sync::CHUNK, vet};
use crate::model::{Delta, Endpoint, Name, RegistryChange, Rejected, RowId, Snapshot};

/// How long a delta may be behind the reading that left out what it removes.
const GRACE: Duration = Duration::from_secs(2);

/// What an earlier agent knew of the registry beside what that says.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Handover {
    /// What is held though the registry has left it out, with the networks and nodes that it needs.
    pub held: Snapshot,
    /// The older state of the registry that is not believed: its revision, its networks and nodes.
    pub doubted: Snapshot,
    /// What stands in the places of rows that can't be read or break a rule.
    pub unfollowed: Snapshot,
}

/// What is done about a registry that has less than is known of it.
#[derive(Debug, Default)]
pub(super) struct Adoption {
    /// What an earlier agent has left, until it is taken in.
    handover: Option<Handover>,
    /// Whether the next reading is believed whatever it leaves out.
    pub(super) is_asked_for: bool,
    /// Whether it was told that endpoints are withheld.
    has_told_withheld: bool,
}

impl View {
    /// What the next agent has to know.
    #[must_use]
    pub fn handover(&self) -> Handover {
        Handover {
            held: self.mirror.held(),
            doubted: self.mirror.doubted(),
            unfollowed: self.mirror.in_places_of(self.rejected.keys()),
        }
    }

    /// Why changes are refused: the registry is out of reach, or is not followed; and since when.
    #[must_use]
    pub fn refusal(&self) -> Option<Lost> {
        let withheld = || {
            Some(Lost {
                reason: self.withheld_reason(),
                since: self.withheld_for_long()?,
                is_foreign: true,
            })
        };
        self.lost.clone().or_else(withheld)
    }

    /// Whether the kernel is what the registry says, and the registry is believed.
    #[must_use]
    pub fn is_ready(&self) -> bool {
        self.applied > 0 && self.errors.is_empty() && self.withheld_since.is_none()
    }

    /// Whether there is a [`Self::refusal`].
    #[must_use]
    pub fn refuses(&self) -> bool {
        self.lost.is_some() || self.withheld_for_long().is_some()
    }

    /// Whether the store in reach, if one is, is the one that is followed.
    #[must_use]
    pub fn is_followed(&self) -> bool {
        match &self.lost {
            Some(lost) => !lost.is_foreign,
            None => self.withheld_for_long().is_none(),
        }
    }

    fn withheld_for_long(&self) -> Option<Instant> {
        self.withheld_since.filter(|since| since.elapsed() >= GRACE)
    }

    fn withheld_reason(&self) -> String {
        let withheld = self.mirror.withheld();
        let is_local = |name: &&Name| {
            let known = self.mirror.endpoint(name);
            known.is_some_and(|known| known.is_local())
        };
        let local = withheld.iter().filter(is_local).count();
        let (known_local, known_remote) = self.mirror.counts();
        format!(
            "the registry has lost {} of the {} endpoints that this host knows, {local} of its own, or has \
             them as they once were: they are held as they are and traffic goes on; put a backup back that \
             has them, or see what `overlay registry adopt` would remove",
            withheld.len(),
            known_local + known_remote,
        )
    }
}

impl Reconciler {
    /// Notes whether endpoints are held that the registry does not have, and tells it if that lasts.
    pub(super) fn tell_of_withheld(&mut self, view: &mut View) {
        let is_over = view.mirror.withheld().is_empty();
        if !is_over && !view.mirror.is_withholding() {
            self.reader.verify_withheld(view.mirror.withheld_version());
        }
        if is_over != view.withheld_since.is_none() {
            view.withheld_since = (!is_over).then(Instant::now);
            if is_over {
                // Networks and nodes that the reading left out were held too.
                self.start_over();
            }
        }
        let lasts = view.withheld_for_long().is_some();
        if lasts == self.adoption.has_told_withheld {
            return;
        }
        self.adoption.has_told_withheld = lasts;
        if lasts {
            let reason = view.withheld_reason();
            tracing::warn!(%reason, "the registry is not followed");
            self.events.tell(RegistryChange::Lost { reason });
        } else {
            tracing::info!("the registry is followed again");
            self.events.tell(RegistryChange::Restored);
        }
    }

    /// Holds what the host had in the places of a reading's rows that are not followed; notes them, if it was
    /// of the whole.
    pub(super) async fn hold_rejected(&mut self, rejected: Vec<Rejected>, is_whole: bool) {
        let mut view = self.view.write().await;
        for rejected in &rejected {
            view.mirror.hold(&rejected.row);
        }
        if is_whole {
            let previous = std::mem::take(&mut view.rejected);
            view.rejected = note(rejected, &previous);
        }
    }

    /// Takes rows out of a delta that are not followed, and notes them.
    pub(super) async fn vet(&mut self, delta: &mut Delta) {
        let mut rejected = std::mem::take(&mut delta.rejected);
        vet::networks(&mut delta.networks, &mut rejected);
        vet::nodes(&mut delta.nodes, &self.own_node(), &mut rejected);
        let view = self.view.read().await;
        vet::objects(&mut delta.objects, view.mirror.kinds(), &mut rejected);
        let Delta {
            networks,
            endpoints,
            ..
        } = delta;
        let network = |endpoint: &Endpoint| {
            let new = networks.iter().find(|network| network.vni == endpoint.vni);
            new.or_else(|| view.mirror.network(endpoint.vni))
        };
        vet::endpoints(endpoints, network, &mut rejected);
        let has_news = !rejected.is_empty() || !view.rejected.is_empty();
        drop(view);
        if has_news {
            let mut view = self.view.write().await;
            forget_rejected(&mut view.rejected, delta);
            let noted = note(rejected, &view.rejected);
            view.rejected.extend(noted);
        }
    }

    /// Whether the reading left out so much that it is not believed, unless somebody has said so.
    pub(super) async fn is_suspicious(&mut self) -> bool {
        if self.adoption.is_asked_for {
            return false;
        }
        let view = self.view.read().await;
        let (mut position, mut absent) = (0, Absent::default());
        while !view.mirror.count_absent(&mut position, CHUNK, &mut absent) {}
        absent.is_suspicious() || view.mirror.is_withholding()
    }

    /// The same loop; it knows what an earlier agent of this boot did.
    #[must_use]
    pub fn after(mut self, handover: Handover) -> Self {
        self.adoption.handover = Some(handover);
        self
    }

    /// Takes in what the earlier agent knew: its interfaces are known by now.
    pub(super) async fn recall(&mut self) {
        let Some(handover) = self.adoption.handover.take() else {
            return;
        };
        self.change(|mirror, on_fact| {
            mirror.recall(handover.unfollowed, on_fact);
            mirror.withhold_again(handover.held, handover.doubted, on_fact);
        })
        .await;
        self.applier.readings.has_older = true;
    }

    /// The store is to be followed as it is now, whatever it does not have.
    pub(super) fn adopt(&mut self) {
        self.adoption.is_asked_for = true;
        self.start_over();
    }
}

/// By row; those that were not known before are logged.
fn note(rejected: Vec<Rejected>, previous: &BTreeMap<RowId, String>) -> BTreeMap<RowId, String> {
    let mut noted = BTreeMap::new();
    for Rejected { row, why } in rejected {
        if previous.get(&row) != Some(&why) {
            tracing::warn!(%row, %why, "a row of the registry is left out");
        }
        noted.insert(row, why);
    }
    noted
}

/// Rows that the delta replaces or removes are no longer left out.
fn forget_rejected(rejected: &mut BTreeMap<RowId, String>, delta: &Delta) {
    for vni in delta.named_networks() {
        rejected.remove(&RowId::Network(vni));
    }
    for name in delta.named_nodes() {
        rejected.remove(&RowId::Node(name.clone()));
    }
    for name in delta.named_endpoints() {
        rejected.remove(&RowId::Endpoint(name.clone()));
    }
    for id in delta.named_objects() {
        rejected.remove(&RowId::Object(id.clone()));
    }
}
