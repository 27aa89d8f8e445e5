//! `overlay ping`: does what one endpoint or host sends get to another, and where is it lost?

use std::{fmt, str::FromStr, time::Duration};

use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use super::{Failure, Format, Session, vtep::round_trip};
use crate::{
    agent::api::{PingRequest, Pinged},
    model::{LostAt, Name, PingSize},
};

pub(super) const EXAMPLES: &str = "\
Examples:
  overlay ping web db                  from endpoint web to endpoint db, wherever they are
  overlay ping web 7.7.7.3             to the endpoint of web's network that has the address
  overlay ping h3                      from this host to host h3
  overlay ping web db --size auto      and the longest packet that passes
  overlay -o json ping -c 3 web db | jq .rtt_us

The programs send and answer: nothing runs inside the endpoints, and what an endpoint's own firewall
does is not asked. Sizes are bytes of the IP packet that an endpoint would send. What does not come
back is asked after: the line names the last host that saw it. Exit code 0: all came back; 1: not all.";

/// What to send, and where.
#[derive(Debug, Args)]
pub struct PingArgs {
    /// FROM and TO, or TO alone: endpoints or nodes by name, or by address; without FROM this host sends
    #[arg(value_name = "[FROM] TO", num_args = 1..=2, required = true)]
    places: Vec<String>,
    /// How many, a second apart
    #[arg(short, long, value_name = "N", default_value_t = 5, value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,
    /// How long: bytes (64 to 65535), or auto: finds the longest that passes [default: 84]
    #[arg(short, long, value_name = "BYTES|auto")]
    size: Option<SizeArg>,
}

/// What `--size` says.
#[derive(Debug, Clone, Copy)]
struct SizeArg(PingSize);

impl FromStr for SizeArg {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        if text == "auto" {
            return Ok(Self(PingSize::Auto));
        }
        match text.parse() {
            Ok(bytes @ 64..) => Ok(Self(PingSize::Bytes(bytes))),
            _ => Err("write a number of bytes from 64 to 65535, or auto".to_owned()),
        }
    }
}

/// What came of all of them.
#[derive(Debug, Serialize)]
struct Summary {
    /// The last one: the way, and where it was lost if it was.
    #[serde(flatten)]
    last: Pinged,
    /// How many were sent.
    sent: u32,
    /// How many came back.
    received: u32,
    /// The shortest round trip, the mean and the longest, microseconds.
    rtt: Option<Spread>,
}

/// Round trips, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Spread {
    min_us: u64,
    mean_us: u64,
    max_us: u64,
}

impl Spread {
    fn of(round_trips: &[u64]) -> Option<Self> {
        let count = u64::try_from(round_trips.len()).ok()?;
        Some(Self {
            min_us: *round_trips.iter().min()?,
            mean_us: round_trips.iter().sum::<u64>().checked_div(count)?,
            max_us: *round_trips.iter().max()?,
        })
    }
}

impl PingArgs {
    pub(super) async fn execute(self, session: &mut Session<'_>) -> Result<(), Failure> {
        let Self {
            mut places,
            count,
            size,
        } = self;
        let to = places.pop().unwrap_or_default();
        let mut request = PingRequest {
            from: places.pop(),
            to,
            size: size.map(|SizeArg(size)| size),
        };
        let is_for_people = session.output.format() == Format::Table;
        let mut largest = None;
        let (mut sent, mut round_trips, mut last) = (0, Vec::new(), None);
        let mut next = Instant::now();
        let mut lost: Option<LostAt> = None;
        while sent < count {
            sleep_until(next).await;
            next = Instant::now() + Duration::from_secs(1);
            let work = session.client.ping(&request);
            let pinged = session
                .output
                .during("waiting for the echo".to_owned(), work)
                .await?;
            if sent == 0 && is_for_people {
                session.output.text(format!("{pinged}\n").as_bytes())?;
            }
            sent += 1;
            if is_for_people {
                session
                    .output
                    .text(format!("{}\n", Line(sent, &pinged)).as_bytes())?;
            }
            round_trips.extend(pinged.rtt_us);
            largest = largest.or(pinged.largest);
            // The longest was looked for, or nothing passes: once is enough.
            request.size = match request.size {
                Some(PingSize::Auto) if pinged.lost.is_none() => None,
                size => size,
            };
            lost = pinged.lost.clone().or(lost);
            last = Some(pinged);
        }
        let Some(last) = last else { return Ok(()) };
        let summary = Summary {
            last: Pinged { largest, ..last },
            sent,
            received: u32::try_from(round_trips.len()).unwrap_or(u32::MAX),
            rtt: Spread::of(&round_trips),
        };
        session
            .output
            .show(&summary, |summary, out| write!(out, "{summary}"))?;
        match lost {
            None => Ok(()),
            Some(lost) => Err(Failure::finding(format_args!(
                "{} of {sent} echoes were lost: {}: {}",
                sent - summary.received,
                lost.message,
                lost.advice
            ))),
        }
    }
}

/// One echo, for people.
struct Line<'a>(u32, &'a Pinged);

impl fmt::Display for Line<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self(number, pinged) = self;
        let seen = |name: &Option<Name>| {
            name.as_ref()
                .map_or_else(|| "no program".to_owned(), Name::to_string)
        };
        match (pinged.rtt_us, &pinged.lost) {
            (Some(rtt), _) => write!(
                f,
                "{number}: {} bytes back in {}",
                pinged.size,
                round_trip(rtt)
            ),
            (None, Some(lost)) => write!(
                f,
                "{number}: {} bytes lost, last seen by {}",
                pinged.size,
                seen(&lost.last_seen)
            ),
            (None, None) => write!(f, "{number}: {} bytes lost", pinged.size),
        }
    }
}

impl fmt::Display for Summary {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let lost = self.sent - self.received;
        write!(f, "{} sent, {lost} lost", self.sent)?;
        if let Some(rtt) = self.rtt {
            write!(
                f,
                ", round trip min/mean/max {}/{}/{}",
                round_trip(rtt.min_us),
                round_trip(rtt.mean_us),
                round_trip(rtt.max_us)
            )?;
        }
        if let Some(largest) = self.last.largest {
            write!(
                f,
                "\nlargest packet {largest} bytes, of {} that interfaces and network allow",
                self.last.expected
            )?;
        }
        writeln!(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_size_is_a_number_of_bytes_or_auto() {
        assert!(matches!("auto".parse(), Ok(SizeArg(PingSize::Auto))));
        assert!(matches!("64".parse(), Ok(SizeArg(PingSize::Bytes(64)))));
        for wrong in ["63", "65536", "-1", "big", ""] {
            assert!(wrong.parse::<SizeArg>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn round_trips_are_told_by_their_ends_and_their_mean() {
        assert_eq!(Spread::of(&[]), None);
        let expected = Spread {
            min_us: 100,
            mean_us: 200,
            max_us: 400,
        };
        assert_eq!(Spread::of(&[100, 100, 400]), Some(expected));
    }
}
