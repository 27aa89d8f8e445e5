//! Rows as the registry wants them and as hosts have them, and what differs: pure.

use std::collections::{BTreeMap, BTreeSet};

use crate::{
    agent::api::{Difference, EntryView},
    model::{Digest, Endpoint, FdbKey, Installed, Name, NeighborKey, Node, Resolve, Vtep},
    reconcile::digest::RowKey,
};

/// Where the nodes have their VTEPs; those without an underlay address are left out.
pub(super) fn vteps(nodes: &[Node]) -> BTreeMap<Name, Vtep> {
    nodes
        .iter()
        .filter(|node| !node.vtep.is_discard())
        .map(|node| (node.name.clone(), node.vtep))
        .collect()
}

/// The rows that every host is to have of an endpoint, behind `vtep`.
pub(super) fn rows_of(endpoint: &Endpoint, vtep: Vtep) -> impl Iterator<Item = Installed> + '_ {
    let vni = endpoint.vni;
    let fdb = Installed::Fdb {
        key: FdbKey {
            vni,
            mac: endpoint.mac,
        },
        vtep,
        generation: endpoint.generation,
    };
    let neighbors = endpoint.ips().map(move |ip| Installed::Neighbor {
        key: NeighborKey { vni, ip },
        mac: endpoint.mac,
        generation: endpoint.generation,
    });
    std::iter::once(fdb).chain(neighbors)
}

/// One row as the registry wants it.
#[derive(Debug, Clone)]
pub(super) struct Wanted {
    pub(super) endpoint: Name,
    /// Where the endpoint lives: there the row has to be in any case.
    pub(super) node: Name,
    pub(super) row: Installed,
}

/// Some rows of one network as one host has them.
pub(super) type Rows = BTreeMap<RowKey, Installed>;

/// What differs on `host` from what is wanted of these rows.
pub(super) fn differences(
    host: &Name,
    resolve: Resolve,
    wanted: &BTreeMap<RowKey, Wanted>,
    installed: &Rows,
) -> Vec<Difference> {
    let keys: BTreeSet<&RowKey> = wanted.keys().chain(installed.keys()).collect();
    keys.into_iter()
        .filter_map(|key| {
            let (wanted, installed) = (wanted.get(key), installed.get(key));
            let is_well = match (wanted, installed) {
                (Some(wanted), Some(installed)) => wanted.row == *installed,
                // A cache holds what it was asked for, and its own host's endpoints.
                (Some(wanted), None) => resolve == Resolve::OnDemand && wanted.node != *host,
                (None, _) => false,
            };
            (!is_well).then(|| difference(host, key, wanted, installed))
        })
        .collect()
}

fn difference(
    host: &Name,
    key: &RowKey,
    wanted: Option<&Wanted>,
    installed: Option<&Installed>,
) -> Difference {
    let (vni, map, entry) = match key {
        RowKey::Fdb(key) => (key.vni, "fdb", key.mac.to_string()),
        RowKey::Neighbor(key) => (key.vni, "neighbors", key.ip.to_string()),
    };
    Difference {
        node: host.clone(),
        vni,
        map: map.to_owned(),
        entry,
        endpoint: wanted.map(|wanted| wanted.endpoint.clone()),
        wanted: wanted.map(|wanted| value_of(&wanted.row)),
        installed: installed.map(value_of),
    }
}

fn value_of(row: &Installed) -> EntryView {
    match row {
        Installed::Fdb {
            vtep, generation, ..
        } => EntryView {
            vtep: Some(vtep.to_string()),
            mac: None,
            generation: *generation,
        },
        Installed::Neighbor {
            mac, generation, ..
        } => EntryView {
            vtep: None,
            mac: Some(*mac),
            generation: *generation,
        },
    }
}

/// Parts of a network that are looked at row by row, so many that no answer is too long.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Chunks(pub(super) Vec<Vec<u16>>);

/// The parts in which any host's digest is not the wanted one, in chunks of at most `longest` rows.
pub(super) fn differing(
    wanted: &[Digest],
    hosts: &BTreeMap<&Name, &[Digest]>,
    longest: u64,
) -> Chunks {
    let by_part = |digests: &[Digest]| -> BTreeMap<Option<u16>, (u64, u64)> {
        let parts = digests.iter();
        parts
            .map(|digest| (digest.part, (digest.rows, digest.hash)))
            .collect()
    };
    let wanted = by_part(wanted);
    let mut longest_of: BTreeMap<u16, u64> = BTreeMap::new();
    for digests in hosts.values() {
        let has = by_part(digests);
        for part in wanted.keys().chain(has.keys()) {
            let (wants, has) = (wanted.get(part), has.get(part));
            if let Some(part) = part
                && wants != has
            {
                let rows = |digest: Option<&(u64, u64)>| digest.map_or(0, |(rows, _)| *rows);
                let known = longest_of.entry(*part).or_default();
                *known = (*known).max(rows(wants)).max(rows(has));
            }
        }
    }
    chunks(longest_of, longest)
}

/// Every part that has rows, in chunks of which no host has more than `longest` rows.
pub(super) fn occupied(
    wanted: &[Digest],
    hosts: &BTreeMap<&Name, &[Digest]>,
    longest: u64,
) -> Chunks {
    let parts = wanted.iter().filter_map(|digest| digest.part);
    let mut longest_of: BTreeMap<u16, u64> = parts.map(|part| (part, 0)).collect();
    for digest in hosts.values().copied().flatten() {
        if let Some(part) = digest.part {
            let known = longest_of.entry(part).or_default();
            *known = (*known).max(digest.rows);
        }
    }
    chunks(longest_of, longest)
}

fn chunks(parts: BTreeMap<u16, u64>, longest: u64) -> Chunks {
    let mut chunks: Vec<Vec<u16>> = Vec::new();
    let mut rows = 0;
    for (part, more) in parts {
        rows += more;
        match chunks.last_mut() {
            Some(chunk) if rows <= longest => chunk.push(part),
            _ => {
                rows = more;
                chunks.push(vec![part]);
            }
        }
    }
    Chunks(chunks)
}

/// How many of these parts each host has otherwise than they are wanted; hosts that have none so
/// are left out.
pub(super) fn left_out(
    wanted: &[Digest],
    hosts: &BTreeMap<&Name, &[Digest]>,
    parts: &BTreeSet<u16>,
) -> BTreeMap<Name, usize> {
    let of = |digests: &[Digest], part: &u16| {
        let mut digests = digests.iter();
        let digest = digests.find(|digest| digest.part == Some(*part));
        digest.map(|digest| (digest.rows, digest.hash))
    };
    hosts
        .iter()
        .map(|(host, has)| {
            let differs = |part: &&u16| of(wanted, part) != of(has, part);
            ((*host).clone(), parts.iter().filter(differs).count())
        })
        .filter(|(_, count)| *count > 0)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::reconcile::digest::key_of;

    fn name(text: &str) -> Name {
        text.parse().unwrap()
    }

    fn endpoint(generation: u64) -> Endpoint {
        Endpoint {
            name: name("web"),
            vni: "42".parse().unwrap(),
            mac: "02:42:07:07:07:02".parse().unwrap(),
            addresses: vec!["7.7.7.2/24".parse().unwrap(), "fd00::2/64".parse().unwrap()],
            node: name("h1"),
            attachment: None,
            generation,
        }
    }

    fn vtep(ip: &str) -> Vtep {
        Vtep {
            ip: ip.parse().unwrap(),
            port: 4789,
        }
    }

    fn installed(generation: u64, ip: &str) -> Rows {
        rows_of(&endpoint(generation), vtep(ip))
            .map(|row| (key_of(&row), row))
            .collect()
    }

    fn wanted() -> BTreeMap<RowKey, Wanted> {
        installed(5, "10.0.0.1")
            .into_iter()
            .map(|(key, row)| {
                let wanted = Wanted {
                    endpoint: name("web"),
                    node: name("h1"),
                    row,
                };
                (key, wanted)
            })
            .collect()
    }

    fn told(host: &str, resolve: Resolve, installed: &Rows) -> Vec<String> {
        differences(&name(host), resolve, &wanted(), installed)
            .iter()
            .map(ToString::to_string)
            .collect()
    }

    #[test]
    fn a_host_that_has_what_is_wanted_differs_in_nothing() {
        for resolve in [Resolve::Proactive, Resolve::OnDemand] {
            assert!(told("h2", resolve, &installed(5, "10.0.0.1")).is_empty());
        }
    }

    #[test]
    fn an_entry_that_is_missing_is_named_with_its_host_map_and_endpoint() {
        let mut rows = installed(5, "10.0.0.1");
        rows.retain(|key, _| matches!(key, RowKey::Neighbor(_)));
        assert_eq!(
            told("h2", Resolve::Proactive, &rows),
            [
                "h2: VNI 42 fdb 02:42:07:07:07:02 (endpoint web) is missing: the registry has it \
                 behind 10.0.0.1:4789, generation 5"
            ]
        );
    }

    #[test]
    fn an_entry_with_another_vtep_or_generation_is_told_with_both() {
        let lines = told("h2", Resolve::Proactive, &installed(4, "10.0.0.3"));
        assert_eq!(lines.len(), 3);
        assert_eq!(
            lines[0],
            "h2: VNI 42 fdb 02:42:07:07:07:02 (endpoint web) is installed behind 10.0.0.3:4789, \
             generation 4: the registry has it behind 10.0.0.1:4789, generation 5"
        );
    }

    #[test]
    fn an_entry_that_nobody_wants_is_told() {
        let lines: Vec<_> = differences(
            &name("h2"),
            Resolve::OnDemand,
            &BTreeMap::new(),
            &installed(5, "10.0.0.1"),
        );
        assert_eq!(lines.len(), 3);
        assert!(
            lines[0]
                .to_string()
                .ends_with("the registry has no such endpoint")
        );
    }

    #[test]
    fn a_cache_need_not_hold_what_lives_elsewhere_and_must_hold_what_lives_here() {
        assert!(told("h2", Resolve::OnDemand, &Rows::new()).is_empty());
        assert_eq!(told("h1", Resolve::OnDemand, &Rows::new()).len(), 3);
    }

    fn digest(part: u16, rows: u64, hash: u64) -> Digest {
        Digest {
            vni: "42".parse().unwrap(),
            part: Some(part),
            rows,
            hash,
        }
    }

    #[test]
    fn parts_that_differ_on_any_host_are_gathered_in_chunks_that_are_short_enough() {
        let wanted = [
            digest(1, 3, 7),
            digest(2, 3, 7),
            digest(3, 3, 7),
            digest(4, 9, 7),
        ];
        let (one, other) = (name("h1"), name("h2"));
        // Part 1 is equal, 2 and 4 differ, 3 is missing, 5 is not wanted.
        let has = [
            digest(1, 3, 7),
            digest(2, 3, 8),
            digest(4, 9, 8),
            digest(5, 1, 7),
        ];
        let hosts = BTreeMap::from([(&one, &wanted[..]), (&other, &has[..])]);
        let Chunks(chunks) = differing(&wanted, &hosts, 6);
        assert_eq!(chunks, [vec![2, 3], vec![4], vec![5]]);
        let left: BTreeSet<u16> = [3, 4].into();
        assert_eq!(
            left_out(&wanted, &hosts, &left),
            BTreeMap::from([(other.clone(), 2)])
        );
        let Chunks(chunks) = occupied(&[digest(9, 500, 7)], &hosts, 100);
        assert_eq!(chunks, [vec![1, 2, 3, 4, 5, 9]]);
    }
}
