//! Assigns a slot of `traffic` to each network with endpoints on this host.

use std::collections::{BTreeMap, BTreeSet};

use overlay_ebpf::abi;

use crate::model::Vni;

/// Slots by network. A network has one while it has a port here; those that find none free are not
/// counted.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct TrafficSlots {
    taken: BTreeMap<Vni, u16>,
    ports: BTreeMap<u32, Vni>,
}

impl TrafficSlots {
    /// How many networks can have one.
    pub(super) const CAPACITY: u16 = abi::Traffic::SLOTS - 1;

    /// What an earlier agent gave out, of which only slots with ports are kept.
    pub(super) fn restore(
        networks: impl IntoIterator<Item = (Vni, u16)>,
        ports: impl IntoIterator<Item = (u32, Vni)>,
    ) -> Self {
        let ports: BTreeMap<u32, Vni> = ports.into_iter().collect();
        let with_ports: BTreeSet<Vni> = ports.values().copied().collect();
        let mut seen = BTreeSet::new();
        let taken = networks
            .into_iter()
            .filter(|(vni, slot)| {
                with_ports.contains(vni)
                    && (1..=Self::CAPACITY).contains(slot)
                    && seen.insert(*slot)
            })
            .collect();
        Self { taken, ports }
    }

    /// The network's slot; 0: it has none.
    pub(super) fn of(&self, vni: Vni) -> u16 {
        self.taken.get(&vni).copied().unwrap_or(0)
    }

    /// Every network that is counted.
    pub(super) fn iter(&self) -> impl Iterator<Item = (Vni, u16)> + '_ {
        self.taken.iter().map(|(vni, slot)| (*vni, *slot))
    }

    /// Every port and its network.
    pub(super) fn ports(&self) -> impl Iterator<Item = (u32, Vni)> + '_ {
        self.ports.iter().map(|(ifindex, vni)| (*ifindex, *vni))
    }

    /// Takes ports away and brings others. Gives the networks whose slot is another one now.
    pub(super) fn change(
        &mut self,
        gone: impl IntoIterator<Item = u32>,
        come: impl IntoIterator<Item = (u32, Vni)>,
    ) -> Vec<Vni> {
        let before = self.taken.clone();
        for ifindex in gone {
            self.ports.remove(&ifindex);
        }
        self.ports.extend(come);
        let wanted: BTreeSet<Vni> = self.ports.values().copied().collect();
        self.taken.retain(|vni, _| wanted.contains(vni));
        let used: BTreeSet<u16> = self.taken.values().copied().collect();
        let free = (1..=Self::CAPACITY).filter(|slot| !used.contains(slot));
        let without: Vec<Vni> = wanted
            .into_iter()
            .filter(|vni| !self.taken.contains_key(vni))
            .collect();
        self.taken.extend(without.into_iter().zip(free));
        let is_another = |vni: &&Vni| before.get(vni) != self.taken.get(vni);
        before
            .keys()
            .chain(self.taken.keys().filter(|vni| !before.contains_key(vni)))
            .filter(is_another)
            .copied()
            .collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vni(number: u32) -> Vni {
        Vni::try_from(number).unwrap()
    }

    #[test]
    fn a_network_has_a_slot_from_its_first_port_to_its_last() {
        let mut slots = TrafficSlots::default();
        assert_eq!(slots.change([], [(7, vni(42)), (8, vni(42))]), [vni(42)]);
        assert_eq!(slots.of(vni(42)), 1);
        assert_eq!(slots.change([7], [(9, vni(43))]), [vni(43)]);
        assert_eq!((slots.of(vni(42)), slots.of(vni(43))), (1, 2));
        assert_eq!(slots.change([8], []), [vni(42)]);
        assert_eq!(slots.of(vni(42)), 0);
        assert_eq!(slots.change([], [(10, vni(44))]), [vni(44)]);
        assert_eq!(slots.of(vni(44)), 1);
    }

    #[test]
    fn a_port_that_changes_networks_takes_its_slot_along() {
        let mut slots = TrafficSlots::default();
        slots.change([], [(7, vni(42))]);
        assert_eq!(slots.change([7], [(7, vni(43))]), [vni(42), vni(43)]);
        assert_eq!((slots.of(vni(42)), slots.of(vni(43))), (0, 1));
    }

    #[test]
    fn networks_beyond_the_last_slot_are_not_counted() {
        let mut slots = TrafficSlots::default();
        let last = u32::from(TrafficSlots::CAPACITY);
        slots.change([], (1..=last + 1).map(|number| (number, vni(number))));
        assert_eq!(slots.of(vni(last)), TrafficSlots::CAPACITY);
        assert_eq!(slots.of(vni(last + 1)), 0);
        slots.change([1], []);
        assert_eq!(slots.of(vni(last + 1)), 1);
    }

    #[test]
    fn a_restart_keeps_slots_of_networks_with_ports_and_forgets_the_others() {
        let networks = [(vni(42), 5), (vni(43), 6), (vni(44), 5), (vni(45), 0)];
        let ports = [(7, vni(42)), (8, vni(44)), (9, vni(45))];
        let slots = TrafficSlots::restore(networks, ports);
        assert_eq!(slots.iter().collect::<Vec<_>>(), [(vni(42), 5)]);
    }
}
