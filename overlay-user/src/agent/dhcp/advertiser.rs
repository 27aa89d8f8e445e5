//! When endpoints hear of their router (RFC 4861 section 6.2).

use std::{collections::HashMap, sync::Arc, time::Duration};

use tokio::time::Instant;

use super::{
    ra::{LEAST_INTERVAL, MOST_INTERVAL},
    served::Served,
};
use crate::model::{Mac, Vni};

/// An endpoint that nobody told yet hears within this time (`MAX_INITIAL_RTR_ADVERT_INTERVAL`).
const FIRST: Duration = Duration::from_secs(16);
/// One whose network tells something else hears within this time.
const CHANGED: Duration = Duration::from_secs(3);
/// Solicitations that are answered at once, and after how long one more is (`MIN_DELAY_BETWEEN_RAS`).
const BURST: u32 = 3;
const REFILL: Duration = Duration::from_secs(3);

/// An endpoint that is to hear of its router.
#[derive(Debug)]
pub(super) struct Endpoint {
    vni: Vni,
    served: Arc<Served>,
}

impl Endpoint {
    pub(super) const fn new(vni: Vni, served: Arc<Served>) -> Self {
        Self { vni, served }
    }
}

/// One that is followed.
#[derive(Debug)]
struct Followed {
    endpoint: Endpoint,
    next: Instant,
    /// Solicitations that may be answered, and since when.
    tokens: u32,
    refilled: Instant,
}

/// The endpoints by the host sides of their interfaces.
#[derive(Debug, Default)]
pub(super) struct Advertiser(HashMap<u32, Followed>);

impl Advertiser {
    /// Follows these endpoints and no others. Gives those that are left and still here: to them there is no router any
    /// more.
    pub(super) fn follow(
        &mut self,
        mut endpoints: HashMap<u32, Endpoint>,
        now: Instant,
        is_here: impl Fn(Vni, Mac) -> bool,
    ) -> Vec<(u32, Arc<Served>)> {
        let mut left = Vec::new();
        self.0.retain(|ifindex, followed| {
            let Endpoint { vni, served } = &followed.endpoint;
            match endpoints.remove(ifindex) {
                Some(endpoint) if endpoint.vni == *vni && endpoint.served.mac == served.mac => {
                    if endpoint.served != *served {
                        followed.next = followed.next.min(now + up_to(CHANGED, *ifindex));
                        followed.endpoint = endpoint;
                    }
                    true
                }
                // The kernel has given the index to another one.
                Some(endpoint) => {
                    *followed = Followed::new(endpoint, *ifindex, now);
                    true
                }
                None => {
                    if is_here(*vni, served.mac) {
                        left.push((*ifindex, Arc::clone(served)));
                    }
                    false
                }
            }
        });
        let new = endpoints.into_iter();
        self.0.extend(
            new.map(|(ifindex, endpoint)| (ifindex, Followed::new(endpoint, ifindex, now))),
        );
        left
    }

    /// Those that are to hear of their router now, unasked.
    pub(super) fn due(&mut self, now: Instant) -> Vec<(u32, Arc<Served>)> {
        let due = self
            .0
            .iter_mut()
            .filter(|(_, followed)| followed.next <= now);
        let due = due.map(|(ifindex, followed)| {
            let spread = MOST_INTERVAL.saturating_sub(LEAST_INTERVAL);
            followed.next = now + LEAST_INTERVAL + up_to(spread, *ifindex);
            (*ifindex, Arc::clone(&followed.endpoint.served))
        });
        due.collect()
    }

    /// Whether a solicitation is answered: not where there were too many.
    pub(super) fn solicited(&mut self, ifindex: u32, endpoint: Endpoint, now: Instant) -> bool {
        let followed = self.0.entry(ifindex);
        let followed = followed.or_insert_with(|| Followed::new(endpoint, ifindex, now));
        let elapsed = now.duration_since(followed.refilled).as_millis() / REFILL.as_millis();
        let refill = u32::try_from(elapsed).unwrap_or(u32::MAX);
        if refill > 0 {
            followed.tokens = followed.tokens.saturating_add(refill).min(BURST);
            followed.refilled = now;
        }
        let is_answered = followed.tokens > 0;
        followed.tokens = followed.tokens.saturating_sub(1);
        is_answered
    }
}

impl Followed {
    fn new(endpoint: Endpoint, ifindex: u32, now: Instant) -> Self {
        Self {
            endpoint,
            next: now + up_to(FIRST, ifindex),
            tokens: BURST,
            refilled: now,
        }
    }
}

/// A time up to `most`, another for each interface, so that a host's advertisements don't go out all at once.
fn up_to(most: Duration, ifindex: u32) -> Duration {
    /// Spreads numbers that follow each other (Knuth's multiplicative hash).
    const SPREAD: u32 = 2_654_435_769;
    most.mul_f64(f64::from(ifindex.wrapping_mul(SPREAD)) / f64::from(u32::MAX))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{agent::dhcp::served::sample, model::Dhcp};

    fn endpoint(gateways: &[&str]) -> Endpoint {
        let vni: Vni = "42".parse().unwrap();
        let served = sample(&["fd00::2/64"], gateways, Dhcp::new(vni));
        Endpoint::new(vni, Arc::new(served))
    }

    fn here(_: Vni, _: Mac) -> bool {
        true
    }

    /// How often each of some endpoints hears within this time, in seconds.
    fn heard(advertiser: &mut Advertiser, from: Instant, seconds: u64) -> HashMap<u32, usize> {
        let mut heard = HashMap::new();
        for second in 0..seconds {
            for (ifindex, _) in advertiser.due(from + Duration::from_secs(second)) {
                *heard.entry(ifindex).or_default() += 1;
            }
        }
        heard
    }

    #[test]
    fn everyone_hears_soon_and_then_often_enough_that_no_route_ends() {
        let (mut advertiser, now) = (Advertiser::default(), Instant::now());
        let all = (1..=50).map(|ifindex| (ifindex, endpoint(&["fd00::1/64"])));
        assert!(advertiser.follow(all.collect(), now, here).is_empty());
        let soon = heard(&mut advertiser, now, 17);
        assert_eq!(soon.len(), 50);
        assert!(soon.values().all(|times| *times == 1));
        let later = now + Duration::from_secs(17);
        // The lifetime of a route.
        let in_half_an_hour = heard(&mut advertiser, later, 1800);
        assert!(
            in_half_an_hour
                .values()
                .all(|times| (2..=10).contains(times))
        );
        assert_eq!(in_half_an_hour.len(), 50);
    }

    #[test]
    fn a_change_is_told_within_seconds() {
        let (mut advertiser, now) = (Advertiser::default(), Instant::now());
        let one = |gateways| HashMap::from([(7, endpoint(gateways))]);
        advertiser.follow(one(&[]), now, here);
        heard(&mut advertiser, now, 17);
        let later = now + Duration::from_secs(17);
        advertiser.follow(one(&[]), later, here);
        assert!(heard(&mut advertiser, later, 4).is_empty());
        advertiser.follow(one(&["fd00::1/64"]), later, here);
        assert_eq!(heard(&mut advertiser, later, 4).len(), 1);
    }

    #[test]
    fn who_is_left_hears_a_last_time_if_it_is_still_here() {
        let (mut advertiser, now) = (Advertiser::default(), Instant::now());
        advertiser.follow(HashMap::from([(7, endpoint(&[]))]), now, here);
        let left = advertiser.follow(HashMap::new(), now, here);
        assert_eq!(left.len(), 1);
        advertiser.follow(HashMap::from([(7, endpoint(&[]))]), now, here);
        assert!(
            advertiser
                .follow(HashMap::new(), now, |_, _| false)
                .is_empty()
        );
    }

    #[test]
    fn three_solicitations_are_answered_at_once_and_then_one_in_three_seconds() {
        let (mut advertiser, now) = (Advertiser::default(), Instant::now());
        let mut answered = |after_ms| {
            let at = now + Duration::from_millis(after_ms);
            advertiser.solicited(7, endpoint(&[]), at)
        };
        assert_eq!([0, 0, 1, 2].map(&mut answered), [true, true, true, false]);
        assert!(!answered(2999));
        assert!(answered(3001));
        assert!(!answered(3002));
        let minute = (3..60_000)
            .step_by(100)
            .filter(|at| answered(3000 + at))
            .count();
        assert!((18..=21).contains(&minute), "{minute}");
    }
}
