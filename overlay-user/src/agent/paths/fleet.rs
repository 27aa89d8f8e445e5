//! What echoes to many hosts cost, and when.

use nix::time::{ClockId, clock_gettime};

use super::*;

/// How often it is looked what is due, as [`super::super::prober`] does it.
const TICK: Duration = Duration::from_millis(250);
/// From a packet to its answer.
const RTT: Duration = Duration::from_millis(1);

/// Many hosts that answer, and one agent's table of them.
struct Fleet {
    paths: Paths,
    ids: fastrand::Rng,
    now: Duration,
    answers: bool,
}

impl Fleet {
    fn of(hosts: u32) -> Self {
        let host = Host {
            port: 4789,
            longest: 1500,
        };
        let all = (1..=hosts)
            .map(|number| ((0x0a00_0000 + number).to_be_bytes().into(), host))
            .collect();
        let fleet = Self {
            paths: Paths::default(),
            ids: fastrand::Rng::with_seed(33),
            // Some time after the machine's start.
            now: Duration::from_millis(1_234_567),
            answers: true,
        };
        let mut random = fleet.ids.clone();
        fleet.paths.set_hosts(&all, fleet.now, || random.u64(..));
        fleet
    }

    /// Lets time pass. Gives the packets that were sent in each tick of it.
    fn pass(&mut self, time: Duration) -> Vec<usize> {
        let end = self.now + time;
        let mut ticks = Vec::new();
        while self.now < end {
            ticks.push(self.tick());
            self.now += TICK;
        }
        ticks
    }

    fn tick(&mut self) -> usize {
        let sent = self.paths.due(self.now, || self.ids.u64(..), |_, _, _| {});
        for (ip, id, _) in sent.iter().filter(|_| self.answers) {
            let mut table = self.paths.lock();
            let next = table.get_mut(ip).unwrap().answered(*id, self.now + RTT);
            assert_eq!(next, None, "nothing is narrow");
        }
        sent.len()
    }

    fn states(&self) -> BTreeMap<PathState, usize> {
        self.paths.count()
    }
}

const fn minutes(minutes: u64) -> Duration {
    Duration::from_mins(minutes)
}

fn peak(ticks: &[usize]) -> usize {
    ticks.iter().copied().max().unwrap_or_default()
}

/// Packets in a row of ticks, and the most in one of them, when rounds of all paths are spread.
fn assert_spread(ticks: &[usize], hosts: usize) {
    let rounds_a_tick = hosts.div_ceil(120);
    let most = 2 * (rounds_a_tick + 12);
    assert!(peak(ticks) <= most, "{} packets in a tick", peak(ticks));
    let idle = ticks.iter().filter(|packets| **packets == 0).count();
    assert!(idle < ticks.len() / 2, "{idle} ticks of {}", ticks.len());
}

#[test]
fn each_of_two_hundred_hosts_costs_four_packets_a_minute() {
    let mut fleet = Fleet::of(199);
    let first: usize = fleet.pass(minutes(1)).iter().sum();
    // The first round comes before a path's turn.
    assert!((199 * 4..=199 * 6).contains(&first), "{first}");
    let later: usize = fleet.pass(minutes(10)).iter().sum();
    assert_eq!(later, 199 * 4 * 10);
    assert_eq!(fleet.states(), BTreeMap::from([(PathState::Ok, 199)]));
}

#[test]
fn rounds_of_many_hosts_do_not_begin_together() {
    for hosts in [199, 999] {
        let mut fleet = Fleet::of(hosts);
        fleet.pass(minutes(1));
        assert_spread(&fleet.pass(minutes(5)), hosts as usize);
    }
}

#[test]
fn being_asked_for_all_of_them_sends_some_at_a_time_and_spreads_them_again() {
    let mut fleet = Fleet::of(999);
    fleet.pass(minutes(1));
    fleet.paths.try_now();
    let asked = fleet.pass(Duration::from_secs(4));
    assert!(peak(&asked) <= 2 * AT_ONCE, "{} packets", peak(&asked));
    assert!(fleet.paths.are_known());
    fleet.pass(minutes(1));
    assert_spread(&fleet.pass(minutes(5)), 999);
}

#[test]
fn hosts_that_are_all_lost_are_tried_one_after_the_other() {
    let mut fleet = Fleet::of(199);
    fleet.pass(minutes(1));
    fleet.answers = false;
    fleet.pass(minutes(2));
    assert_eq!(fleet.states(), BTreeMap::from([(PathState::Lost, 199)]));
    let ticks = fleet.pass(minutes(5));
    // Three short ones and as many long ones in ten seconds.
    assert_eq!(ticks.iter().sum::<usize>(), 199 * 6 * 6 * 5);
    assert!(peak(&ticks) <= 2 * 3 * 20, "{} packets", peak(&ticks));
}

#[test]
#[ignore = "measures: cargo test -p overlay-user --lib fleet -- --ignored --nocapture"]
fn measured_cpu_time_of_the_table() {
    for hosts in [2, 199, 999] {
        let mut fleet = Fleet::of(hosts);
        let cpu = || Duration::from(clock_gettime(ClockId::CLOCK_THREAD_CPUTIME_ID).unwrap());
        let begun = cpu();
        let ticks = fleet.pass(minutes(60));
        let used = cpu().saturating_sub(begun);
        let later = &ticks[4 * 60..];
        let sum: usize = later.iter().sum();
        println!(
            "{hosts} hosts: {:.2} packets a second, {} in the first minute's busiest tick, {} later, {:?} a minute",
            f64::from(u32::try_from(sum).unwrap()) / (59.0 * 60.0),
            peak(&ticks[..4 * 60]),
            peak(later),
            used / 60
        );
    }
}
