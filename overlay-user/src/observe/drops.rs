//! Dropped packets by reason.

use std::{
    cmp::Reverse,
    collections::BTreeMap,
    io::{self, Write},
};

use super::table::Table;

/// Prints the reasons, the most frequent first; those that never occurred only with `all`.
pub fn write_table(
    drops: &BTreeMap<String, u64>,
    all: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut shown: Vec<_> = drops
        .iter()
        .filter(|(_, packets)| all || **packets > 0)
        .collect();
    shown.sort_by_key(|(_, packets)| Reverse(**packets));
    let mut table = Table::new(["REASON", "PACKETS"]);
    for (reason, packets) in shown {
        table.row([reason.clone(), packets.to_string()]);
    }
    table.write(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn print(all: bool) -> String {
        let drops = [("unknown_vni", 3), ("malformed", 0), ("spoofed_mac", 70)]
            .map(|(reason, packets)| (reason.to_owned(), packets));
        let mut out = Vec::new();
        write_table(&BTreeMap::from(drops), all, &mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn reasons_that_never_occurred_are_left_out() {
        assert_eq!(
            print(false),
            "REASON        PACKETS\nspoofed_mac   70\nunknown_vni   3\n"
        );
    }

    #[test]
    fn all_reasons_are_there_on_demand() {
        assert_eq!(
            print(true),
            "REASON        PACKETS\nspoofed_mac   70\nunknown_vni   3\nmalformed     0\n"
        );
    }
}
