//! A registry that loses its rows, as a damaged store or an old backup does.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::sleep;

use super::world::{ME, World};
use crate::model::Name;

impl World {
    /// The registry loses most of what it has, for a while: the host keeps its interfaces.
    pub(super) async fn lose(&mut self) {
        // What was done before takes its time.
        sleep(Duration::from_secs(1)).await;
        let standing = {
            let view = self.observer.view().await;
            let inner = self.store.lock();
            let is_standing = |name: &&Name| {
                let its = inner.state.endpoints.get(*name);
                let known = view.mirror.endpoint(name);
                its.zip(known).is_some_and(|(its, known)| {
                    its.node.as_str() == ME && known.generation() == its.generation
                })
            };
            let names = view.ports.keys().filter(is_standing);
            names.cloned().collect::<BTreeSet<Name>>()
        };
        let was_away = self.store.lock().is_away;
        let kept = self.dice.within(..2);
        let former = self.store.change(|inner| inner.lose(kept));
        self.note(|| format!("the registry has lost all endpoints but {kept}"));
        sleep(Duration::from_millis(self.dice.below(4000))).await;
        let there = self.host.with(|kernel| {
            let ports = kernel.ports.keys().cloned();
            ports.collect::<BTreeSet<Name>>()
        });
        // One of them is kept, which may have been half of what this host had.
        let gone = standing.difference(&there).count();
        if gone > standing.len() / 2 && !was_away && kept == 0 {
            let gone = standing.difference(&there);
            self.violations.push(format!(
                "interfaces went with the registry's rows: {:?}",
                gone.collect::<Vec<_>>()
            ));
        }
        self.store.change(|inner| inner.restore(former));
        self.note(|| "the registry has them again".to_owned());
    }
}
