//! Whether tunnel packets get to another host and back: what echoes tell of one path, and of all of them.
//!
//! Pure but for the lock: [`super::prober`] sends and hears.

use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
    time::{Duration, SystemTime},
};

use tokio::sync::Notify;

use super::api::{PathState, PathView};
use crate::model::{EchoRequest, VtepAddr};

/// Echoes of the rounds that somebody asked for: enough to see a loss of some percent.
const BURST: usize = 10;
/// Hosts at most that so many are sent to.
const FEW: usize = 32;
/// Bytes of an echo that asks for no more than an answer.
pub(super) const SHORT: u16 = 128;
/// How long an answer may take.
const TIMEOUT: Duration = Duration::from_secs(1);
/// Echoes in a row that have to be lost before the path is.
const TRIES: u8 = 3;
/// Between two rounds: a short echo and one as long as both underlays take.
const INTERVAL: Duration = Duration::from_secs(30);
/// The same on a path that is lost.
const LOST_INTERVAL: Duration = Duration::from_secs(10);
/// For how long after its last echo the other host counts as heard: two of its rounds, which are as far apart as this
/// host's where nothing of this host gets there.
const HEARD: Duration = Duration::from_secs(25);
/// Within which time of a host's coming it is tried first.
const FIRST: Duration = Duration::from_secs(1);
/// Rounds that begin at once: what comes back of more is more than the programs' ring holds.
const AT_ONCE: usize = 100;
/// Rounds between two searches for more than what passed before.
const WIDEN: u32 = 10;
/// The longest echo that can be made, bytes: `bpf_skb_change_tail` makes none longer than some 16,000.
const LONGEST: u16 = 16_000;
/// How near the search for the longest packet has to come, bytes.
const NEAR: u16 = 8;

/// What is known of each path, by the other host's underlay address.
#[derive(Default)]
pub(super) struct Paths {
    table: Mutex<BTreeMap<VtepAddr, Path>>,
    /// Somebody wants to know now.
    pub(super) asked: Notify,
}

/// Another host, as the registry has it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Host {
    /// Its UDP port, host byte order.
    pub port: u16,
    /// The longest outer packet that both underlays take, bytes.
    pub longest: u16,
}

/// A way to another host, and back.
#[derive(Debug)]
pub(super) struct Path {
    host: Host,
    state: PathState,
    since: SystemTime,
    rtt: Option<Duration>,
    /// The longest outer packet that came back, bytes.
    largest: Option<u16>,
    /// When the other host was last heard of.
    heard: Option<Duration>,
    /// When the next round begins.
    next: Duration,
    /// Where in [`INTERVAL`] its rounds begin, so that those of many hosts don't begin together.
    place: Duration,
    /// How many rounds there were.
    rounds: u32,
    under_way: Vec<Sent>,
    /// Short ones in a row that were lost.
    lost: u8,
    /// When the first of the short ones was sent that were lost since the last answer.
    lost_since: Option<Duration>,
    /// Long ones of one length in a row that were lost.
    lost_long: u8,
    /// Where the longest packet is looked for: between one that passes and one that does not.
    search: Option<(u16, u16)>,
    /// When something came from the other host that was changed on the way.
    damaged: Option<Duration>,
    /// How many short ones the next round has.
    burst: usize,
    /// What became of the last short ones, a bit each, 1: lost.
    losses: u32,
    /// How many of these there are.
    counted: u32,
}

#[derive(Debug, Clone, Copy)]
struct Sent {
    id: u64,
    len: u16,
    at: Duration,
}

impl Paths {
    pub(super) fn lock(&self) -> MutexGuard<'_, BTreeMap<VtepAddr, Path>> {
        // Each change is a whole one.
        self.table.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What is known of the path to a host. `None`: it is none that is tried.
    pub(super) fn view(&self, ip: VtepAddr) -> Option<PathView> {
        self.lock().get(&ip).map(Path::view)
    }

    /// How many paths are in each state.
    pub(super) fn count(&self) -> BTreeMap<PathState, usize> {
        let mut count = BTreeMap::new();
        for path in self.lock().values() {
            *count.entry(path.state).or_default() += 1;
        }
        count
    }

    /// Has these hosts and no others. What is `random` says when each one's turn is.
    pub(super) fn set_hosts(
        &self,
        hosts: &BTreeMap<VtepAddr, Host>,
        now: Duration,
        mut random: impl FnMut() -> u64,
    ) {
        let mut within = |limit: Duration| {
            let limit = u64::try_from(limit.as_millis()).unwrap_or(u64::MAX);
            Duration::from_millis(random() % limit)
        };
        let mut table = self.lock();
        table.retain(|ip, _| hosts.contains_key(ip));
        for (ip, host) in hosts {
            table
                .entry(*ip)
                .or_insert_with(|| Path::new(*host, now + within(FIRST), within(INTERVAL)))
                .set_host(*host);
        }
    }

    /// Echoes to send `now`: receiver, id and length of each. Reports which path states end by that, and which begin.
    pub(super) fn due(
        &self,
        now: Duration,
        mut id: impl FnMut() -> u64,
        mut tell: impl FnMut(VtepAddr, PathState, PathState),
    ) -> Vec<(VtepAddr, u64, u16)> {
        let mut due = Vec::new();
        let mut left = AT_ONCE;
        for (ip, path) in self.lock().iter_mut() {
            let (before, rounds) = (path.state, path.rounds);
            let sent = path.due(now, left > 0, &mut id);
            due.extend(sent.into_iter().map(|(id, len)| (*ip, id, len)));
            left -= usize::from(path.rounds != rounds);
            tell(*ip, before, path.state);
        }
        due
    }

    /// Has every path tried now.
    pub(super) fn try_now(&self) {
        let mut paths = self.lock();
        let burst = if paths.len() <= FEW { BURST } else { 1 };
        for path in paths.values_mut() {
            path.next = Duration::ZERO;
            path.burst = burst;
        }
        drop(paths);
        self.asked.notify_one();
    }

    /// Whether it is known of every path what became of its last round.
    pub(super) fn are_known(&self) -> bool {
        self.lock()
            .values()
            .all(|path| path.next > Duration::ZERO && path.is_at_rest())
    }
}

impl Path {
    /// One that is tried for the first time at `next`, and then whenever `place` of [`INTERVAL`] has passed.
    fn new(host: Host, next: Duration, place: Duration) -> Self {
        Self {
            host,
            state: PathState::Unknown,
            since: SystemTime::now(),
            rtt: None,
            largest: None,
            heard: None,
            next,
            place,
            rounds: 0,
            under_way: Vec::new(),
            lost: 0,
            lost_since: None,
            lost_long: 0,
            search: None,
            damaged: None,
            burst: 1,
            losses: 0,
            counted: 0,
        }
    }

    /// The registry has the host so now.
    fn set_host(&mut self, host: Host) {
        if self.host.longest != host.longest {
            self.largest = self.largest.filter(|largest| *largest <= host.longest);
            self.search = None;
        }
        self.host = host;
    }

    /// Its host's UDP port, host byte order.
    pub(super) fn port(&self) -> u16 {
        self.host.port
    }

    fn is_at_rest(&self) -> bool {
        self.under_way.is_empty() && self.search.is_none()
    }

    /// What is to be sent `now`, each under an id that `id` gives: the lengths.
    fn due(
        &mut self,
        now: Duration,
        may_begin: bool,
        mut id: impl FnMut() -> u64,
    ) -> Vec<(u64, u16)> {
        let mut wanted = self.after_losses(now);
        if wanted.is_empty() && self.is_at_rest() && now >= self.next && may_begin {
            self.next = turn_after(now, INTERVAL, self.place);
            self.rounds = self.rounds.wrapping_add(1);
            wanted = vec![SHORT; std::mem::replace(&mut self.burst, 1)];
            wanted.push(self.host.longest);
        }
        let sent: Vec<Sent> = wanted
            .into_iter()
            .map(|len| Sent {
                id: id(),
                len,
                at: now,
            })
            .collect();
        self.under_way.extend(&sent);
        sent.into_iter().map(|sent| (sent.id, sent.len)).collect()
    }

    /// What is to be sent because something did not come back.
    fn after_losses(&mut self, now: Duration) -> Vec<u16> {
        let is_lost = |sent: &Sent| now.saturating_sub(sent.at) >= TIMEOUT;
        let lost: Vec<Sent> = self
            .under_way
            .extract_if(.., |sent| is_lost(sent))
            .collect();
        for _ in lost.iter().filter(|sent| sent.len == SHORT) {
            self.count(true);
        }
        let mut wanted = Vec::new();
        if let Some(short) = lost.iter().find(|sent| sent.len == SHORT) {
            self.lost_since.get_or_insert(short.at);
            self.lost += 1;
            if self.lost < TRIES {
                wanted.push(SHORT);
            } else {
                self.give_up(now);
                return Vec::new();
            }
        }
        if let Some(long) = lost.iter().find(|sent| sent.len != SHORT) {
            let next = self.without(long.len);
            wanted.extend(next);
            // While the longest is looked for, the path may die.
            let is_watched =
                wanted.contains(&SHORT) || self.under_way.iter().any(|sent| sent.len == SHORT);
            if next.is_some() && !is_watched {
                wanted.push(SHORT);
            }
        }
        wanted
    }

    /// Nothing came back at all.
    fn give_up(&mut self, now: Duration) {
        // What was heard before says nothing of now.
        let is_new = |heard: Option<Duration>| {
            heard.is_some_and(|heard| {
                self.lost_since.is_some_and(|since| heard > since)
                    && now.saturating_sub(heard) < HEARD
            })
        };
        self.turn(if is_new(self.damaged) {
            PathState::Damaged
        } else if is_new(self.heard) {
            PathState::OneWay
        } else {
            PathState::Lost
        });
        (self.lost, self.lost_long, self.search, self.rtt) = (0, 0, None, None);
        self.under_way.clear();
        self.next = turn_after(now, LOST_INTERVAL, self.place);
    }

    /// A long one of this length did not come back: what is tried next.
    fn without(&mut self, len: u16) -> Option<u16> {
        self.lost_long += 1;
        if self.lost_long < TRIES {
            return Some(len);
        }
        self.lost_long = 0;
        match self.search {
            // What passed the last time does perhaps still.
            None => {
                let known = self.largest.filter(|known| *known < len);
                self.search = Some((SHORT, len));
                known.or_else(|| self.narrow(SHORT, len))
            }
            Some((passes, _)) => self.narrow(passes, len),
        }
    }

    /// The longest one is between these.
    fn narrow(&mut self, passes: u16, fails: u16) -> Option<u16> {
        if fails - passes <= NEAR {
            self.largest = Some(passes);
            self.search = None;
            return None;
        }
        self.search = Some((passes, fails));
        Some(passes + (fails - passes) / 2)
    }

    /// Takes an answer in that came at `at`. Gives the length that is to be tried next, if one is.
    pub(super) fn answered(&mut self, id: u64, at: Duration) -> Option<u16> {
        let place = self.under_way.iter().position(|sent| sent.id == id)?;
        let sent = self.under_way.swap_remove(place);
        self.heard = Some(at);
        self.turn(PathState::Ok);
        (self.lost, self.lost_since) = (0, None);
        if sent.len == SHORT {
            self.count(false);
            self.rtt = Some(at.saturating_sub(sent.at));
            return None;
        }
        self.lost_long = 0;
        if self.search.is_some()
            && self.largest == Some(sent.len)
            && !self.rounds.is_multiple_of(WIDEN)
        {
            // As it was: wider paths are looked for now and then.
            self.search = None;
            return None;
        }
        match self.search {
            None => {
                self.largest = Some(sent.len);
                None
            }
            Some((_, fails)) => self.narrow(sent.len, fails),
        }
    }

    /// An echo could not be sent: that says nothing of the path.
    pub(super) fn unsent(&mut self, id: u64, now: Duration) {
        self.under_way.retain(|sent| sent.id != id);
        if self.under_way.is_empty() {
            (self.lost, self.lost_long, self.lost_since, self.search) = (0, 0, None, None);
            self.next = turn_after(now, LOST_INTERVAL, self.place);
        }
    }

    /// Notes an echo that is to be sent at once.
    pub(super) fn note(&mut self, id: u64, len: u16, at: Duration) {
        self.under_way.push(Sent { id, len, at });
    }

    /// One has left at this moment.
    pub(super) fn left(&mut self, id: u64, at: Duration) {
        if let Some(sent) = self.under_way.iter_mut().find(|sent| sent.id == id) {
            sent.at = at;
        }
    }

    /// One came from the other host that was changed on the way.
    pub(super) fn hear_damaged(&mut self, at: Duration) {
        self.damaged = Some(at);
        if matches!(self.state, PathState::Lost | PathState::OneWay) {
            self.turn(PathState::Damaged);
        }
    }

    fn count(&mut self, is_lost: bool) {
        self.losses = self.losses << 1 | u32::from(is_lost);
        self.counted = (self.counted + 1).min(u32::BITS);
    }

    /// How many of the last short ones were lost, percent.
    fn loss(&self) -> Option<u8> {
        let counted = u32::MAX.checked_shr(u32::BITS - self.counted)?;
        u8::try_from((self.losses & counted).count_ones() * 100 / self.counted).ok()
    }

    /// The other host sent an echo of its own.
    pub(super) fn hear(&mut self, at: Duration) {
        self.heard = Some(at);
        if self.state == PathState::Lost {
            self.turn(PathState::OneWay);
        }
    }

    fn turn(&mut self, state: PathState) {
        if self.state != state {
            self.state = state;
            self.since = SystemTime::now();
        }
    }

    /// Its state.
    pub(super) fn state(&self) -> PathState {
        self.state
    }

    fn view(&self) -> PathView {
        let is_known = self.state != PathState::Unknown;
        let inner = |outer: u16| u32::from(outer).saturating_sub(VtepAddr::IPV4_OVERHEAD);
        PathView {
            state: self.state,
            since: is_known
                .then_some(self.since)
                .and_then(super::api::milliseconds),
            rtt_us: self.rtt.and_then(|rtt| u64::try_from(rtt.as_micros()).ok()),
            largest: self.largest.map(inner),
            expected: inner(self.host.longest),
            loss: self.loss(),
        }
    }
}

/// The next moment after `now` at which `place` of `interval` has passed.
fn turn_after(now: Duration, interval: Duration, place: Duration) -> Duration {
    let [now_ns, interval_ns, place_ns] = [now, interval, place].map(|time| time.as_nanos());
    let passed = (now_ns + interval_ns - place_ns % interval_ns) % interval_ns;
    let left = u64::try_from(interval_ns - passed).unwrap_or_default();
    now + Duration::from_nanos(left)
}

/// The longest outer packet that two underlays with these MTUs take, bytes.
pub(super) fn longest(own: u32, other: Option<u32>) -> u16 {
    let least = own.min(other.unwrap_or(own));
    u16::try_from(least)
        .unwrap_or(u16::MAX)
        .clamp(EchoRequest::SHORTEST, LONGEST)
}

#[cfg(test)]
mod fleet;

#[cfg(test)]
mod tests {
    use super::*;

    const ETHERNET: u16 = 1500;

    /// A network that lets packets of up to `passes` bytes through, and answers a millisecond later.
    fn try_for(path: &mut Path, from: Duration, to: Duration, passes: u16) {
        let mut ids = 0..;
        let mut now = from;
        while now < to {
            let mut sent = path.due(now, true, || ids.next().unwrap());
            let at = now + Duration::from_millis(1);
            while let Some((id, len)) = sent.pop() {
                if len <= passes
                    && let Some(next) = path.answered(id, at)
                {
                    let id = ids.next().unwrap();
                    path.note(id, next, at);
                    sent.push((id, next));
                }
            }
            now += Duration::from_millis(250);
        }
    }

    const fn seconds(seconds: u64) -> Duration {
        Duration::from_secs(seconds)
    }

    fn path() -> Path {
        let host = Host {
            port: 4789,
            longest: ETHERNET,
        };
        Path::new(host, seconds(1), seconds(1))
    }

    #[test]
    fn a_path_that_answers_is_ok_with_a_round_trip_and_the_longest_packet() {
        let mut path = path();
        try_for(&mut path, seconds(0), seconds(5), ETHERNET);
        let view = path.view();
        assert_eq!((view.state, view.rtt_us), (PathState::Ok, Some(1000)));
        assert_eq!((view.largest, view.expected), (Some(1450), 1450));
    }

    #[test]
    fn the_longest_packet_of_a_narrow_path_is_found_and_found_again() {
        let mut path = path();
        try_for(&mut path, seconds(0), seconds(60), 1000);
        let found = path.view().largest.unwrap();
        assert!((950 - u32::from(NEAR)..=950).contains(&found), "{found}");
        assert_eq!(path.view().state, PathState::Ok);
        try_for(&mut path, seconds(60), seconds(120), 1000);
        assert_eq!(path.view().largest, Some(found));
        try_for(&mut path, seconds(120), seconds(180), ETHERNET);
        assert_eq!(path.view().largest, Some(1450));
    }

    #[test]
    fn a_path_is_lost_after_three_echoes_and_not_after_two() {
        let mut path = path();
        try_for(&mut path, seconds(0), seconds(5), ETHERNET);
        try_for(&mut path, seconds(30), seconds(33), 0);
        assert_eq!(path.view().state, PathState::Ok);
        try_for(&mut path, seconds(33), seconds(36), 0);
        assert_eq!(path.view().state, PathState::Lost);
        try_for(&mut path, seconds(36), seconds(50), ETHERNET);
        assert_eq!(path.view().state, PathState::Ok);
    }

    #[test]
    fn a_host_that_is_heard_and_does_not_answer_makes_it_one_way() {
        let mut path = path();
        try_for(&mut path, seconds(0), seconds(5), 0);
        assert_eq!(path.view().state, PathState::Lost);
        path.hear(seconds(5));
        assert_eq!(path.view().state, PathState::OneWay);
        for heard in [10, 20, 30] {
            path.hear(seconds(heard));
            try_for(&mut path, seconds(heard), seconds(heard + 10), 0);
            assert_eq!(path.view().state, PathState::OneWay);
        }
        try_for(&mut path, seconds(40), seconds(70), 0);
        assert_eq!(path.view().state, PathState::Lost);
    }

    #[test]
    fn a_host_whose_packets_come_changed_makes_it_damaged() {
        let mut path = path();
        path.hear_damaged(seconds(2));
        try_for(&mut path, seconds(0), seconds(5), 0);
        assert_eq!(path.view().state, PathState::Damaged);
        try_for(&mut path, seconds(15), seconds(20), ETHERNET);
        assert_eq!(path.view().state, PathState::Ok);
    }

    #[test]
    fn losses_are_counted_among_the_last_short_ones() {
        let mut path = path();
        assert_eq!(path.loss(), None);
        for is_lost in [true, false, false, false] {
            path.count(is_lost);
        }
        assert_eq!(path.loss(), Some(25));
        for _ in 0..32 {
            path.count(false);
        }
        assert_eq!(path.loss(), Some(0));
    }

    #[test]
    fn an_answer_that_nobody_waits_for_changes_nothing() {
        let mut path = path();
        assert_eq!(path.answered(7, seconds(1)), None);
        assert_eq!(path.view().state, PathState::Unknown);
    }

    #[test]
    fn a_path_costs_four_packets_a_minute() {
        let mut path = path();
        let mut ids = 0..;
        let mut sent = 0;
        for tick in 0..40 * 60 * 10 {
            let now = Duration::from_millis(tick * 25);
            for (id, _) in path.due(now, true, || ids.next().unwrap()) {
                sent += 1;
                path.answered(id, now);
            }
        }
        assert_eq!(sent, 4 * 10);
    }
}
