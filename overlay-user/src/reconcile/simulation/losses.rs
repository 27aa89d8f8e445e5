//! A registry that loses its rows, as a damaged store or an old backup does.

use std::{collections::BTreeMap, time::Duration};

use tokio::time::sleep;

use super::{names::ME, run::Simulation};
use crate::model::{Endpoint, Name};

impl Simulation {
    /// The endpoints that are ready here as the registry has them.
    async fn standing(&self) -> BTreeMap<Name, Endpoint> {
        let view = self.observer.view().await;
        let inner = self.store.lock();
        let row = |name: &Name| {
            let its = inner.state.endpoints.get(name)?;
            let known = view.mirror.endpoint(name)?;
            let is_standing = its.node.as_str() == ME && known.generation() == its.generation;
            is_standing.then(|| (name.clone(), its.clone()))
        };
        view.ready().filter_map(|(name, _)| row(name)).collect()
    }

    /// Those of them whose interfaces are not there any more, after a while.
    async fn gone_of<'a>(&mut self, standing: &'a BTreeMap<Name, Endpoint>) -> Vec<&'a Name> {
        sleep(Duration::from_millis(self.rng.below(4000))).await;
        self.host.with(|kernel| {
            let there = &kernel.ports;
            let gone = standing.keys().filter(|name| !there.contains_key(*name));
            gone.collect()
        })
    }

    /// The registry is put back to what it was some changes ago, while nothing else happens. If most of what
    /// is here was elsewhere then, or something else, nothing goes.
    pub(super) async fn set_back_in_calm(&mut self) {
        // What was done before takes its time.
        sleep(Duration::from_secs(1)).await;
        let standing = self.standing().await;
        let (known_local, _) = self.observer.view().await.mirror.counts();
        let was_away = self.store.lock().is_away;
        let back = self.roll_back();
        let stays = |its: &Endpoint| {
            let inner = self.store.lock();
            inner.state.endpoints.get(&its.name).is_some_and(|row| {
                let generation = its.generation;
                let then = Endpoint {
                    generation,
                    ..row.clone()
                };
                then == *its
            })
        };
        let previous = standing.values().filter(|its| !stays(its)).count();
        let gone = self.gone_of(&standing).await;
        if previous * 2 > known_local && back > 0 && !was_away && !gone.is_empty() {
            let violation = format!("interfaces went with an older state: {gone:?}");
            self.violations.push(violation);
        }
    }

    /// The registry loses most of what it has, for a while: the host keeps its interfaces.
    pub(super) async fn lose(&mut self) {
        sleep(Duration::from_secs(1)).await;
        let standing = self.standing().await;
        let was_away = self.store.lock().is_away;
        let kept = self.rng.within(..2);
        let previous = self.store.change(|inner| inner.lose(kept));
        self.note(|| format!("the registry has lost all endpoints but {kept}"));
        let gone = self.gone_of(&standing).await;
        // One of them is kept, which may have been half of what this host had.
        if gone.len() > standing.len() / 2 && !was_away && kept == 0 {
            let violation = format!("interfaces went with the registry's rows: {gone:?}");
            self.violations.push(violation);
        }
        self.store.change(|inner| inner.restore(previous));
        self.note(|| "the registry has them again".to_owned());
    }
}
