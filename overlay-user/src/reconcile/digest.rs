//! Many rows in one number: hosts that have the same rows have the same digest, in whatever order
//! the rows came, and a changed row changes it without a look at the others.
//!
//! A digest is the sum of a hash of each row. Local endpoints count as if they were remote, behind
//! the host's own VTEP: so all hosts have the same rows. Hosts of different versions compare their
//! digests: what is hashed, and how, is part of the registry's layout.

use std::{collections::BTreeMap, hash::Hasher as _, net::IpAddr};

use siphasher::sip::SipHasher13;

use crate::model::{Digest, FdbKey, Installed, Mac, NeighborKey, Revision, Subject, Vni, Vtep};

/// In how many parts a network's rows are told apart: a network of a million endpoints has some
/// hundred rows in each, which fit one answer in the registry.
const PARTS: u64 = 4096;

/// Tells rows of the FDB from those of the neighbour table.
const FDB: u8 = 1;
const NEIGHBOR: u8 = 2;

/// The hash of one row.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Hash(u64);

/// Some rows: how many, and the sum of their hashes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct RowDigest {
    /// How many.
    pub rows: u64,
    hash: u64,
}

impl RowDigest {
    /// Counts a row.
    pub fn add(&mut self, row: Hash) {
        self.rows = self.rows.wrapping_add(1);
        self.hash = self.hash.wrapping_add(row.0);
    }

    /// Counts a row no more.
    pub fn subtract(&mut self, row: Hash) {
        self.rows = self.rows.wrapping_sub(1);
        self.hash = self.hash.wrapping_sub(row.0);
    }

    /// As it is published.
    #[must_use]
    pub fn digest(&self, vni: Vni, part: Option<u16>) -> Digest {
        Digest {
            vni,
            part,
            rows: self.rows,
            hash: self.hash,
        }
    }
}

/// A tally for each network that has rows.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DigestByNetwork(BTreeMap<Vni, RowDigest>);

impl DigestByNetwork {
    /// A row of a network takes the place of another.
    pub fn replace(&mut self, vni: Vni, before: Option<Hash>, after: Option<Hash>) {
        let tally = self.0.entry(vni).or_default();
        if let Some(row) = before {
            tally.subtract(row);
        }
        if let Some(row) = after {
            tally.add(row);
        }
        if *tally == RowDigest::default() {
            self.0.remove(&vni);
        }
    }

    /// The tally of a network.
    #[must_use]
    pub fn of(&self, vni: Vni) -> RowDigest {
        self.0.get(&vni).copied().unwrap_or_default()
    }

    /// Every network that has rows, and its tally.
    pub fn iter(&self) -> impl Iterator<Item = (Vni, RowDigest)> {
        self.0.iter().map(|(vni, tally)| (*vni, *tally))
    }

    /// As it is published.
    pub fn digests(&self) -> impl Iterator<Item = Digest> {
        self.0.iter().map(|(vni, tally)| tally.digest(*vni, None))
    }
}

/// What this host's maps are told to hold, and what they hold.
#[derive(Debug, Default)]
pub struct RowDigests {
    /// Every row that was to be written.
    pub intended: DigestByNetwork,
    /// What was found in the maps when they were last looked through, and the changes since.
    pub installed: DigestByNetwork,
}

impl RowDigests {
    /// A row of a network takes the place of another.
    pub fn replace(&mut self, vni: Vni, before: Option<Hash>, after: Option<Hash>) {
        self.intended.replace(vni, before, after);
        self.installed.replace(vni, before, after);
    }
}

/// The answer to a question, while the rows that it is about are seen.
#[derive(Debug, Clone)]
pub struct Survey {
    subject: Subject,
    tallies: BTreeMap<(Vni, Option<u16>), RowDigest>,
    rows: Vec<Installed>,
}

impl Survey {
    /// Nothing was seen yet.
    #[must_use]
    pub fn new(subject: &Subject) -> Self {
        Self {
            subject: subject.clone(),
            tallies: BTreeMap::new(),
            rows: Vec::new(),
        }
    }

    /// Takes a row in, if the question is about it.
    pub fn see(&mut self, row: Installed) {
        let (vni, part) = (vni_of(&row), || part_of(&row));
        let key = match &self.subject {
            Subject::Networks => (vni, None),
            Subject::Parts(asked) if *asked == vni => (vni, Some(part())),
            Subject::Rows(asked, parts) if *asked == vni && parts.contains(&part()) => {
                return self.rows.push(row);
            }
            Subject::Parts(_) | Subject::Rows(..) => return,
        };
        self.tallies.entry(key).or_default().add(of_installed(&row));
    }

    /// The digests, and the rows in the order of their keys.
    #[must_use]
    pub fn answer(mut self) -> (Vec<Digest>, Vec<Installed>) {
        self.rows.sort_by_key(key_of);
        let tallies = self.tallies.into_iter();
        let digests = tallies.map(|((vni, part), tally)| tally.digest(vni, part));
        (digests.collect(), self.rows)
    }
}

/// The hash of a row of the FDB whose endpoint is behind `vtep`.
#[must_use]
pub fn of_fdb(key: FdbKey, vtep: Vtep, generation: Revision) -> Hash {
    let mut hasher = with_fdb(key);
    hasher.write(&vtep.ip.octets());
    hasher.write(&vtep.port.to_be_bytes());
    hasher.write(&generation.to_be_bytes());
    Hash(hasher.finish())
}

/// The hash of a row of the neighbour table.
#[must_use]
pub fn of_neighbor(key: NeighborKey, mac: Mac, generation: Revision) -> Hash {
    let mut hasher = with_neighbor(key);
    hasher.write(&mac.octets());
    hasher.write(&generation.to_be_bytes());
    Hash(hasher.finish())
}

/// The hash of a row as it is told.
#[must_use]
pub fn of_installed(row: &Installed) -> Hash {
    match *row {
        Installed::Fdb {
            key,
            vtep,
            generation,
        } => of_fdb(key, vtep, generation),
        Installed::Neighbor {
            key,
            mac,
            generation,
        } => of_neighbor(key, mac, generation),
    }
}

/// The part of its network that a row belongs to: its key alone decides.
#[must_use]
pub fn part_of(row: &Installed) -> u16 {
    let hasher = match *row {
        Installed::Fdb { key, .. } => with_fdb(key),
        Installed::Neighbor { key, .. } => with_neighbor(key),
    };
    (hasher.finish() % PARTS) as u16
}

/// What a row is found by.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RowKey {
    /// In the FDB.
    Fdb(FdbKey),
    /// In the neighbour table.
    Neighbor(NeighborKey),
}

/// What the row is found by.
#[must_use]
pub fn key_of(row: &Installed) -> RowKey {
    match *row {
        Installed::Fdb { key, .. } => RowKey::Fdb(key),
        Installed::Neighbor { key, .. } => RowKey::Neighbor(key),
    }
}

fn vni_of(row: &Installed) -> Vni {
    match *row {
        Installed::Fdb { key, .. } => key.vni,
        Installed::Neighbor { key, .. } => key.vni,
    }
}

fn with_fdb(key: FdbKey) -> SipHasher13 {
    let mut hasher = SipHasher13::new();
    hasher.write(&[FDB]);
    hasher.write(&key.vni.get().to_be_bytes());
    hasher.write(&key.mac.octets());
    hasher
}

fn with_neighbor(key: NeighborKey) -> SipHasher13 {
    let mut hasher = SipHasher13::new();
    hasher.write(&[NEIGHBOR]);
    hasher.write(&key.vni.get().to_be_bytes());
    hasher.write(&ipv6(key.ip));
    hasher
}

fn ipv6(ip: IpAddr) -> [u8; 16] {
    match ip {
        IpAddr::V4(ip) => ip.to_ipv6_mapped().octets(),
        IpAddr::V6(ip) => ip.octets(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fdb(mac: &str, vtep: &str, generation: Revision) -> Hash {
        let key = FdbKey {
            vni: Vni::try_from(42).unwrap(),
            mac: mac.parse().unwrap(),
        };
        let vtep = Vtep {
            ip: vtep.parse().unwrap(),
            port: 4789,
        };
        of_fdb(key, vtep, generation)
    }

    #[test]
    fn the_order_of_rows_does_not_matter_and_each_of_their_fields_does() {
        let (a, b) = ("02:42:07:07:07:02", "02:42:07:07:07:03");
        let tally = |rows: &[Hash]| {
            let mut tally = RowDigest::default();
            for row in rows {
                tally.add(*row);
            }
            tally
        };
        let (one, other) = (fdb(a, "10.0.0.1", 5), fdb(b, "10.0.0.1", 5));
        assert_eq!(tally(&[one, other]), tally(&[other, one]));
        let different = [
            fdb(b, "10.0.0.2", 5),
            fdb(b, "10.0.0.1", 6),
            fdb(a, "10.0.0.1", 5),
        ];
        for row in different {
            assert_ne!(tally(&[one, other]), tally(&[one, row]));
        }
    }

    /// Hosts of different versions compare digests: whoever changes this breaks `verify` among them.
    #[test]
    fn hashes_stay_what_they_are() {
        assert_eq!(
            fdb("02:42:07:07:07:02", "10.0.0.1", 5),
            Hash(7_840_014_994_258_341_410)
        );
    }

    #[test]
    fn a_ledger_forgets_networks_without_rows() {
        let vni = Vni::try_from(42).unwrap();
        let (one, other) = (
            fdb("02:42:07:07:07:02", "10.0.0.1", 5),
            fdb("02:42:07:07:07:02", "10.0.0.2", 6),
        );
        let mut by_network = DigestByNetwork::default();
        by_network.replace(vni, None, Some(one));
        by_network.replace(vni, Some(one), Some(other));
        assert_eq!(by_network.of(vni).rows, 1);
        by_network.replace(vni, Some(other), None);
        assert_eq!(by_network, DigestByNetwork::default());
    }
}
