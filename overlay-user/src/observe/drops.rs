//! Dropped packets by reason.

use std::io::{self, Write};

use super::table::Table;
use crate::model::DropClass;

/// How many packets were dropped for a reason.
#[derive(Debug, Clone)]
pub struct Count<'a> {
    /// Why.
    pub reason: &'a str,
    /// Whether anybody misses them.
    pub class: DropClass,
    /// How many there were.
    pub packets: u64,
    /// How many of them the endpoint sent, and how many were for it, if they are one's.
    pub of_endpoint: Option<(u64, u64)>,
}

/// Prints the reasons in their order; those that never occurred only with `all`.
pub fn write_table<'a>(
    counts: impl IntoIterator<Item = Count<'a>>,
    all: bool,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut table = Table::new(["REASON", "PACKETS", "CLASS"]);
    for count in counts {
        if all || count.packets > 0 {
            table.row([
                count.reason.to_owned(),
                count.packets.to_string(),
                count.class.name().to_owned(),
            ]);
        }
    }
    table.write(out)
}

/// The same of an endpoint, by direction.
pub fn write_endpoint_table<'a>(
    counts: impl IntoIterator<Item = Count<'a>>,
    out: &mut dyn Write,
) -> io::Result<()> {
    let mut table = Table::new(["REASON", "SENT", "RECEIVED"]);
    for count in counts {
        let (sent, received) = count.of_endpoint.unwrap_or_default();
        table.row([
            count.reason.to_owned(),
            sent.to_string(),
            received.to_string(),
        ]);
    }
    table.write(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn counts() -> [Count<'static>; 3] {
        let count = |reason, packets, class| Count {
            reason,
            class,
            packets,
            of_endpoint: Some((packets, 0)),
        };
        [
            count("source_mac", 70, DropClass::Loss),
            count("too_big", 0, DropClass::Loss),
            count("nd_detection", 300, DropClass::Noise),
        ]
    }

    fn print(write: impl FnOnce(&mut dyn Write) -> io::Result<()>) -> String {
        let mut out = Vec::new();
        write(&mut out).unwrap();
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn reasons_that_never_occurred_are_left_out() {
        assert_eq!(
            print(|out| write_table(counts(), false, out)),
            "REASON         PACKETS   CLASS\n\
             source_mac     70        loss\n\
             nd_detection   300       noise\n"
        );
    }

    #[test]
    fn all_reasons_are_there_on_demand() {
        assert_eq!(
            print(|out| write_table(counts(), true, out)),
            "REASON         PACKETS   CLASS\n\
             source_mac     70        loss\n\
             too_big        0         loss\n\
             nd_detection   300       noise\n"
        );
    }

    #[test]
    fn of_an_endpoint_both_directions_are_told() {
        let [count, ..] = counts();
        assert_eq!(
            print(|out| write_endpoint_table([count], out)),
            "REASON       SENT   RECEIVED\nsource_mac   70     0\n"
        );
    }
}
