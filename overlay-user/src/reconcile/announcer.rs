//! Announces addresses that moved to another MAC to this host's endpoints.
//!
//! An endpoint uses an entry of its neighbour cache for half a minute or longer before it asks again. A gratuitous
//! ARP or an unsolicited neighbour advertisement updates it at once. It is sent after the rows that the next
//! frames need are written.

use std::{collections::BTreeSet, time::Duration};

use tokio::time::Instant;

use crate::model::{
    Mac, NeighborKey,
    fair::{FairMap, FairQueue},
};

/// Addresses whose rows went and whose previous MAC is remembered: an endpoint that is made anew goes
/// first, and comes in a change of its own.
const REMEMBERED: usize = 8192;
/// Addresses that wait to be announced; those of one network as [`FairQueue`] says. An address that
/// finds no place is asked for again when its entry has grown old.
const WAITING: usize = 4096;
/// How often addresses are announced while some wait.
pub(super) const INTERVAL: Duration = Duration::from_millis(50);
/// Frames after which the others wait for the next time: some 5000 a second, whatever changes.
pub(super) const FRAMES: usize = 256;

/// What is remembered of addresses, and what is yet to be announced.
#[derive(Debug)]
pub(super) struct Announcer {
    /// MACs of addresses that nobody has any more, by the time of that.
    previous: FairMap<NeighborKey, (Instant, Mac)>,
    /// Each is looked up when its turn comes: however often it changed, its last MAC is told once.
    waiting: FairQueue<NeighborKey>,
    is_waiting: BTreeSet<NeighborKey>,
    next: Instant,
}

impl Announcer {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            previous: FairMap::default(),
            waiting: FairQueue::new(WAITING),
            is_waiting: BTreeSet::new(),
            next: now,
        }
    }

    /// Whether the MAC that an address has, or gets, is another than was last known of it.
    pub(super) fn is_other(&self, key: &NeighborKey, mac: Mac) -> bool {
        let previous = self.previous.get(key);
        previous.is_some_and(|(_, (_, previous))| previous != mac)
    }

    /// An address that had one MAC has another now, or none.
    pub(super) fn note(
        &mut self,
        key: NeighborKey,
        before: Option<Mac>,
        after: Option<Mac>,
        now: Instant,
    ) {
        let is_changed = match (before, after) {
            (Some(before), Some(after)) => before != after,
            (None, Some(after)) => {
                let is_other = self.is_other(&key, after);
                self.previous.remove(&key);
                is_other
            }
            (Some(before), None) => {
                self.previous.insert(key, key.vni, (now, before));
                if self.previous.len() > REMEMBERED
                    && let Some((_, first)) = self.previous.first_of_largest()
                {
                    let first = *first;
                    self.previous.remove(&first);
                }
                false
            }
            (None, None) => false,
        };
        if is_changed && !self.is_waiting.contains(&key) && self.waiting.push(key.vni, key) {
            self.is_waiting.insert(key);
        }
    }

    /// Whether it remembers the previous MAC of any address.
    pub(super) fn remembers_any(&self) -> bool {
        !self.previous.is_empty()
    }

    /// Puts the next announcement off until then.
    pub(super) fn set_next(&mut self, next: Instant) {
        self.next = next;
    }

    /// When there is something to announce.
    pub(super) fn next(&self) -> Option<Instant> {
        (!self.waiting.is_empty()).then_some(self.next)
    }

    pub(super) fn pop(&mut self) -> Option<NeighborKey> {
        let key = self.waiting.pop()?;
        self.is_waiting.remove(&key);
        Some(key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::Vni;

    fn key(vni: u32, last: u16) -> NeighborKey {
        let [high, low] = last.to_be_bytes();
        NeighborKey {
            vni: Vni::try_from(vni).unwrap(),
            ip: [7, 7, high, low].into(),
        }
    }

    fn mac(last: u8) -> Mac {
        Mac::try_from([2, 0x42, 7, 7, 7, last]).unwrap()
    }

    fn drain(announcer: &mut Announcer) -> Vec<NeighborKey> {
        std::iter::from_fn(|| announcer.pop()).collect()
    }

    #[test]
    fn an_address_that_comes_to_another_mac_is_announced_and_no_other() {
        let now = Instant::now();
        let steps: [(&[_], bool); 6] = [
            (&[(None, Some(mac(1)))], false),
            (&[(Some(mac(1)), Some(mac(1)))], false),
            (&[(Some(mac(1)), None)], false),
            (&[(Some(mac(1)), Some(mac(2)))], true),
            (&[(Some(mac(1)), None), (None, Some(mac(1)))], false),
            (&[(Some(mac(1)), None), (None, Some(mac(2)))], true),
        ];
        for (steps, is_announced) in steps {
            let mut announcer = Announcer::new(now);
            for (before, after) in steps {
                announcer.note(key(42, 3), *before, *after, now);
            }
            assert_eq!(announcer.next().is_some(), is_announced, "{steps:?}");
            let count = drain(&mut announcer).len();
            assert_eq!(count, usize::from(is_announced), "{steps:?}");
        }
    }

    #[test]
    fn however_often_an_address_changes_it_waits_once() {
        let now = Instant::now();
        let mut announcer = Announcer::new(now);
        for _ in 0..10 {
            announcer.note(key(42, 3), Some(mac(1)), Some(mac(2)), now);
            announcer.note(key(42, 3), Some(mac(2)), Some(mac(1)), now);
        }
        assert_eq!(drain(&mut announcer), [key(42, 3)]);
        announcer.note(key(42, 3), Some(mac(1)), Some(mac(2)), now);
        assert_eq!(drain(&mut announcer), [key(42, 3)]);
    }

    #[test]
    fn a_network_whose_addresses_all_change_keeps_none_of_another_from_being_announced() {
        let now = Instant::now();
        let mut announcer = Announcer::new(now);
        announcer.note(key(43, 1), Some(mac(1)), None, now);
        let many = u16::try_from(2 * REMEMBERED).unwrap();
        for last in 0..many {
            announcer.note(key(42, last), Some(mac(1)), None, now);
        }
        assert_eq!(announcer.previous.len(), REMEMBERED);
        for last in 0..many {
            announcer.note(key(42, last), None, Some(mac(2)), now);
        }
        assert!(announcer.waiting.len() < WAITING);
        announcer.note(key(43, 1), None, Some(mac(2)), now);
        assert!(drain(&mut announcer)[..2].contains(&key(43, 1)));
    }
}
