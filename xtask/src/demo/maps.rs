//! bpftool's JSON of the maps, decoded: addresses as people write them.

use std::net::{Ipv4Addr, Ipv6Addr};

use anyhow::{Context as _, Result};
use comfy_table::Table;
use serde::Deserialize;
use serde::de::DeserializeOwned;

use super::screen;

/// Makes a table of a map's dump.
type Decode = fn(&str) -> Result<Table>;

/// The maps that are shown, by the name that they are pinned under.
pub(super) const SHOWN: [(&str, Decode); 3] =
    [("fdb", fdb), ("neighbors", neighbors), ("vteps", vteps)];

/// What bpftool knows of an entry through the map's BTF.
#[derive(Deserialize)]
struct Entry<K, V> {
    formatted: Option<Formatted<K, V>>,
}

#[derive(Deserialize)]
struct Formatted<K, V> {
    key: K,
    value: V,
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct FdbKey {
    vni: u32,
    mac: [u8; 6],
}

#[derive(Deserialize)]
struct FdbEntry {
    generation: u64,
    ifindex: u32,
    vtep: [u8; 4],
    vtep_port: [u8; 2],
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct NeighborKey {
    vni: u32,
    ip: [u8; 16],
}

#[derive(Deserialize)]
struct NeighborEntry {
    generation: u64,
    mac: [u8; 6],
}

#[derive(Deserialize, PartialEq, Eq, PartialOrd, Ord)]
struct VtepKey {
    ip: [u8; 4],
}

#[derive(Deserialize)]
struct VtepEntry {
    port: [u8; 2],
}

fn fdb(dump: &str) -> Result<Table> {
    let mut table = screen::table(&["VNI", "MAC", "VTEP", "IFINDEX", "GENERATION"]);
    for (key, value) in entries::<FdbKey, FdbEntry>(dump)? {
        let local = value.ifindex != 0;
        let vtep = format!(
            "{}:{}",
            Ipv4Addr::from(value.vtep),
            u16::from_be_bytes(value.vtep_port)
        );
        table.add_row([
            key.vni.to_string(),
            mac(key.mac),
            if local { "-".to_owned() } else { vtep },
            if local {
                value.ifindex.to_string()
            } else {
                "-".to_owned()
            },
            value.generation.to_string(),
        ]);
    }
    Ok(table)
}

fn neighbors(dump: &str) -> Result<Table> {
    let mut table = screen::table(&["VNI", "IP", "MAC", "GENERATION"]);
    for (key, value) in entries::<NeighborKey, NeighborEntry>(dump)? {
        table.add_row([
            key.vni.to_string(),
            Ipv6Addr::from(key.ip).to_canonical().to_string(),
            mac(value.mac),
            value.generation.to_string(),
        ]);
    }
    Ok(table)
}

fn vteps(dump: &str) -> Result<Table> {
    let mut table = screen::table(&["IP", "PORT"]);
    for (key, value) in entries::<VtepKey, VtepEntry>(dump)? {
        table.add_row([
            Ipv4Addr::from(key.ip).to_string(),
            u16::from_be_bytes(value.port).to_string(),
        ]);
    }
    Ok(table)
}

/// The entries, sorted by key: a hash map has no order.
fn entries<K, V>(dump: &str) -> Result<Vec<(K, V)>>
where
    K: DeserializeOwned + Ord,
    V: DeserializeOwned,
{
    let dump: Vec<Entry<K, V>> =
        serde_json::from_str(dump).context("bpftool's JSON is not what was expected")?;
    let mut entries = dump
        .into_iter()
        .map(|entry| {
            let entry = entry.formatted.context("bpftool finds no BTF of the map")?;
            Ok((entry.key, entry.value))
        })
        .collect::<Result<Vec<_>>>()?;
    entries.sort_by(|(one, _), (other, _)| one.cmp(other));
    Ok(entries)
}

fn mac(octets: [u8; 6]) -> String {
    octets.map(|octet| format!("{octet:02x}")).join(":")
}

#[cfg(test)]
mod tests {
    use super::*;

    const FDB: &str = r#"[
        {"key": ["0x2b"], "value": ["0x05"], "formatted": {
            "key": {"vni": 43, "mac": [2,66,7,7,7,3], "reserved": [0,0]},
            "value": {"generation": 6, "ifindex": 0, "vtep": [192,0,2,2],
                      "vtep_port": [18,181], "reserved": [0,0,0,0,0,0]}}},
        {"key": ["0x2a"], "value": ["0x05"], "formatted": {
            "key": {"vni": 42, "mac": [2,66,7,7,7,2], "reserved": [0,0]},
            "value": {"generation": 5, "ifindex": 7, "vtep": [0,0,0,0],
                      "vtep_port": [0,0], "reserved": [0,0,0,0,0,0]}}}]"#;

    #[test]
    fn entries_are_sorted_and_their_addresses_readable() {
        let table = fdb(FDB).unwrap().to_string();
        let lines: Vec<Vec<_>> = table
            .lines()
            .map(|line| line.split_whitespace().collect())
            .collect();
        assert_eq!(lines[1], ["42", "02:42:07:07:07:02", "-", "7", "5"]);
        assert_eq!(
            lines[2],
            ["43", "02:42:07:07:07:03", "192.0.2.2:4789", "-", "6"]
        );
    }

    #[test]
    fn a_dump_without_btf_is_an_error() {
        let error = fdb(r#"[{"key": ["0x2a"], "value": ["0x05"]}]"#).unwrap_err();
        assert!(error.to_string().contains("BTF"));
    }
}
