//! Gives VTEPs and endpoints the small numbers that entries name them by.

use std::collections::BTreeMap;

use crate::model::{Vtep, VtepAddr};

/// Numbers 1..=65535 by key.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Numbers<K> {
    by_key: BTreeMap<K, u16>,
    by_number: BTreeMap<u16, K>,
    last: u16,
    /// No number below is free.
    lowest: u16,
}

impl<K> Default for Numbers<K> {
    fn default() -> Self {
        Self {
            by_key: BTreeMap::new(),
            by_number: BTreeMap::new(),
            last: 0,
            lowest: 1,
        }
    }
}

impl<K: Copy + Ord> Numbers<K> {
    /// What an earlier agent gave out; of two keys with one number the first keeps it.
    pub(super) fn restore(given: impl IntoIterator<Item = (K, u32)>) -> Self {
        let mut numbers = Self::default();
        for (key, number) in given {
            if let Ok(number @ 1..) = u16::try_from(number)
                && !numbers.by_number.contains_key(&number)
            {
                numbers.take(key, number);
            }
        }
        numbers
    }

    /// The key's number. `None`: it has none.
    pub(super) fn of(&self, key: &K) -> Option<u16> {
        self.by_key.get(key).copied()
    }

    /// The key that has a number.
    pub(super) fn key(&self, number: u16) -> Option<&K> {
        self.by_number.get(&number)
    }

    /// Gives the key a number, if it has none: the lowest that is free, so that arrays which have a slot for each
    /// number can be short. `None`: all are taken.
    pub(super) fn assign_lowest(&mut self, key: K) -> Option<u16> {
        if let Some(number) = self.of(&key) {
            return Some(number);
        }
        let mut candidates = self.lowest..=u16::MAX;
        let number = candidates.find(|number| !self.by_number.contains_key(number))?;
        self.take(key, number);
        self.lowest = number;
        Some(number)
    }

    /// Gives the key a number, if it has none: the one that was free for longest, so that an entry that outlived
    /// its key by mistake does not name another one soon. `None`: all are taken.
    pub(super) fn assign(&mut self, key: K) -> Option<u16> {
        if let Some(number) = self.of(&key) {
            return Some(number);
        }
        let candidates = (self.last..u16::MAX).chain(0..self.last);
        let number = candidates
            .map(|before| before + 1)
            .find(|number| !self.by_number.contains_key(number))?;
        self.take(key, number);
        Some(number)
    }

    /// Every key and its number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (&K, u16)> {
        self.by_key.iter().map(|(key, number)| (key, *number))
    }

    /// Takes the key's number back.
    pub(super) fn release(&mut self, key: &K) {
        if let Some(number) = self.by_key.remove(key) {
            self.by_number.remove(&number);
            self.lowest = self.lowest.min(number);
        }
    }

    fn take(&mut self, key: K, number: u16) {
        self.by_key.insert(key, number);
        self.by_number.insert(number, key);
        self.last = number;
    }
}

/// The VTEPs' slots of `paths`, with their ports.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct VtepNumbers {
    numbers: Numbers<VtepAddr>,
    ports: BTreeMap<VtepAddr, u16>,
}

impl VtepNumbers {
    /// What an earlier agent gave out.
    pub(super) fn restore(given: impl IntoIterator<Item = (Vtep, u32)> + Clone) -> Self {
        let numbers = given.clone().into_iter();
        Self {
            numbers: Numbers::restore(numbers.map(|(vtep, number)| (vtep.ip, number))),
            ports: given
                .into_iter()
                .map(|(vtep, _)| (vtep.ip, vtep.port))
                .collect(),
        }
    }

    /// Gives the VTEP a slot, if it has none. 0: all are taken.
    pub(super) fn assign(&mut self, vtep: Vtep) -> u16 {
        self.ports.insert(vtep.ip, vtep.port);
        self.numbers.assign(vtep.ip).unwrap_or(0)
    }

    /// Takes the VTEP's slot back.
    pub(super) fn release(&mut self, ip: &VtepAddr) {
        self.numbers.release(ip);
        self.ports.remove(ip);
    }

    /// The VTEP's slot; 0: it has none.
    pub(super) fn of(&self, ip: &VtepAddr) -> u16 {
        self.numbers.of(ip).unwrap_or(0)
    }

    /// Whether the VTEP has a slot and this port.
    pub(super) fn has(&self, vtep: Vtep) -> bool {
        self.of(&vtep.ip) != 0 && self.ports.get(&vtep.ip) == Some(&vtep.port)
    }

    /// The VTEP with a slot. None has it: one that no VTEP is.
    pub(super) fn vtep(&self, slot: u32) -> Vtep {
        let ip = u16::try_from(slot)
            .ok()
            .and_then(|slot| self.numbers.key(slot));
        let ip = ip.copied().unwrap_or(VtepAddr::UNSPECIFIED);
        Vtep {
            ip,
            port: self.ports.get(&ip).copied().unwrap_or(0),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn vtep(ip: &str) -> Vtep {
        Vtep {
            ip: ip.parse().unwrap(),
            port: 4789,
        }
    }

    #[test]
    fn a_number_comes_back_to_use_last() {
        let mut numbers = Numbers::default();
        assert_eq!(
            [7, 8, 7].map(|key| numbers.assign(key)),
            [Some(1), Some(2), Some(1)]
        );
        numbers.release(&7);
        assert_eq!(numbers.of(&7), None);
        assert_eq!(numbers.assign(9), Some(3));
        for key in 10..10 + 65_532 {
            assert!(numbers.assign(key).is_some_and(|number| number > 3));
        }
        assert_eq!(numbers.assign(7), Some(1));
        assert_eq!(numbers.assign(6), None, "all are taken");
    }

    #[test]
    fn the_lowest_number_that_is_free_is_taken() {
        let mut numbers = Numbers::restore([(7, 2), (8, 4)]);
        let mut assign = |key| numbers.assign_lowest(key);
        assert_eq!(
            [9, 10, 11, 9].map(&mut assign),
            [Some(1), Some(3), Some(5), Some(1)]
        );
        numbers.release(&7);
        numbers.release(&10);
        assert_eq!(
            [12, 13, 14].map(|key| numbers.assign_lowest(key)),
            [Some(2), Some(3), Some(6)]
        );
    }

    #[test]
    fn a_restart_keeps_numbers_and_gives_none_out_twice() {
        let mut numbers = Numbers::restore([(7, 5), (8, 5), (9, 0), (10, 70_000), (11, 6)]);
        assert_eq!(
            [7, 8, 9, 10, 11].map(|key| numbers.of(&key)),
            [Some(5), None, None, None, Some(6)]
        );
        assert_eq!(numbers.assign(8), Some(7));
    }

    #[test]
    fn a_slot_that_no_vtep_has_is_one_that_no_vtep_is() {
        let mut numbers = VtepNumbers::restore([(vtep("10.0.0.2"), 3)]);
        assert_eq!(numbers.vtep(3), vtep("10.0.0.2"));
        assert_eq!(numbers.assign(vtep("fd00::2")), 4);
        for slot in [0, 5, 70_000] {
            assert_eq!(numbers.vtep(slot).ip, VtepAddr::UNSPECIFIED);
        }
        numbers.release(&vtep("10.0.0.2").ip);
        assert_eq!(numbers.vtep(3).ip, VtepAddr::UNSPECIFIED);
    }
}
