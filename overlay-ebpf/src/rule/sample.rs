//! Selects the dropped frames that are sampled: a few of each reason and sender.
//!
//! So a flood costs next to nothing, and hides no other sender's drops.

use crate::abi::{DropPace, DropSample};

/// Length of a window as a power of two, nanoseconds: 1.07 s.
const WINDOW: u32 = 30;

/// The group of a sender: an endpoint's interface, or a VTEP's address.
#[must_use]
#[inline(always)]
pub const fn group(sender: u32) -> u32 {
    const { assert!(DropSample::GROUPS == 4) };
    // Knuth's multiplicative hash (The Art of Computer Programming, section 6.4): the upper bits are the best.
    sender.wrapping_mul(0x9e37_79b1) >> 30
}

/// The row of its group that a frame takes which is dropped at `now`, and counts it. `None`: it takes none, the
/// window has as many as there are rows.
#[must_use]
#[inline(always)]
pub const fn row(pace: &mut DropPace, now: u64) -> Option<u32> {
    let window = now >> WINDOW;
    if pace.window != window {
        pace.window = window;
        pace.taken = 0;
    }
    if pace.taken >= DropSample::ROWS {
        return None;
    }
    pace.taken += 1;
    pace.turn = pace.turn.wrapping_add(1);
    Some(pace.turn % DropSample::ROWS)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn a_window_takes_each_row_once_and_no_more_until_the_next() {
        let mut pace = DropPace::default();
        for begin in [0, 1 << WINDOW, 7 << WINDOW] {
            let rows: BTreeSet<_> = (0..100)
                .filter_map(|moment| row(&mut pace, begin + moment))
                .collect();
            assert_eq!(rows, (0..DropSample::ROWS).collect());
            assert_eq!(row(&mut pace, begin + (1 << WINDOW) - 1), None);
        }
    }

    #[test]
    fn the_oldest_row_is_the_next_to_be_taken() {
        let mut pace = DropPace::default();
        let rows: Vec<_> = (0..6)
            .filter_map(|window| row(&mut pace, window << WINDOW))
            .collect();
        assert_eq!(rows, [1, 2, 3, 0, 1, 2]);
    }

    #[test]
    fn neighbouring_senders_are_in_different_groups() {
        let groups: BTreeSet<_> = (10..16).map(group).collect();
        assert_eq!(groups.len(), 4);
        assert!(groups.iter().all(|group| *group < DropSample::GROUPS));
    }
}
