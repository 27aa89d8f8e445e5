//! What is measured in which order, and how long that takes.

use std::time::Duration;

use super::lab::Mode;
use super::measure::{Group, Measure};
use super::underlay::Offloads;

/// One measurement of a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Step {
    /// From 1.
    pub(super) round: u32,
    pub(super) offloads: Offloads,
    pub(super) measure: Measure,
    pub(super) mode: Mode,
}

/// What a run consists of.
pub(super) struct Plan {
    pub(super) rounds: u32,
    pub(super) offloads: Vec<Offloads>,
    pub(super) groups: Vec<Group>,
    pub(super) modes: Vec<Mode>,
}

impl Plan {
    /// Every measurement in order. The modes of one measure follow each other at once, so that what
    /// disturbs the machine for longer disturbs them alike; who goes first changes from round to
    /// round.
    pub(super) fn steps(&self) -> Vec<Step> {
        let mut steps = Vec::new();
        for round in 1..=self.rounds {
            for offloads in rotated(&self.offloads, round) {
                let measures = self.groups.iter().flat_map(|group| group.measures());
                for measure in measures.filter(|measure| measure.runs_with(offloads)) {
                    for mode in rotated(&self.modes, round) {
                        steps.push(Step {
                            round,
                            offloads,
                            measure: *measure,
                            mode,
                        });
                    }
                }
            }
        }
        steps
    }
}

/// How long these steps take, if the tools behave.
pub(super) fn estimate(steps: &[Step], window: Duration) -> Duration {
    steps
        .iter()
        .map(|step| window + overhead(step.measure))
        .sum()
}

/// What a measurement takes beside its window: starting tools, the part that is left out.
fn overhead(measure: Measure) -> Duration {
    Duration::from_millis(match measure {
        Measure::OneStream | Measure::EightStreams => 1300,
        Measure::Flood | Measure::SocketFlood | Measure::SmallDatagrams | Measure::Nested => 600,
        Measure::RequestResponse => 800,
        Measure::Aggregates => 400,
    })
}

/// The items, of which another one is the first in each round; rounds are from 1.
pub(super) fn rotated<T: Copy>(items: &[T], round: u32) -> impl Iterator<Item = T> {
    let first = usize::try_from(round - 1).unwrap_or_default();
    items
        .iter()
        .copied()
        .cycle()
        .skip(first % items.len().max(1))
        .take(items.len())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan(rounds: u32) -> Plan {
        Plan {
            rounds,
            offloads: Offloads::ALL.to_vec(),
            groups: Group::ALL.to_vec(),
            modes: Mode::ALL.to_vec(),
        }
    }

    #[test]
    fn every_round_measures_everything_once() {
        let steps = plan(5).steps();
        // Beside those that every setting has: one that one setting has, and one that two have.
        assert_eq!(steps.len(), 5 * 3 * (6 * 3 + 1 + 2));
        for (index, step) in steps.iter().enumerate() {
            assert!(!steps[..index].contains(step), "{step:?} comes twice");
        }
    }

    #[test]
    fn everything_takes_less_than_ten_minutes_in_rounds_of_a_second() {
        let whole = estimate(&plan(5).steps(), Duration::from_secs(1));
        assert!(whole < Duration::from_mins(10), "{whole:?}");
    }

    #[test]
    fn each_mode_goes_first_in_its_turn() {
        let steps = plan(3).steps();
        let first = |round| steps.iter().find(|step| step.round == round).unwrap().mode;
        assert_eq!([first(1), first(2), first(3)], Mode::ALL);
    }

    #[test]
    fn the_modes_of_a_measure_follow_each_other() {
        for step in plan(2).steps().chunks(Mode::ALL.len()) {
            assert!(
                step.iter().all(|other| {
                    (other.round, other.offloads) == (step[0].round, step[0].offloads)
                        && other.measure == step[0].measure
                }),
                "{step:?}"
            );
        }
    }
}
