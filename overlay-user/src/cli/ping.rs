//! `overlay ping`: sends echoes from an endpoint or host to another.

use std::{fmt, str::FromStr, time::Duration};

use clap::Args;
use clap_complete::ArgValueCompleter;
use serde::Serialize;
use tokio::time::{Instant, sleep_until};

use super::{CommandError, Context, Format, completions, vtep::round_trip};
use crate::{
    agent::api::{Pinged, SendPing},
    model::{Name, PingSize},
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

/// Between two echoes.
const INTERVAL: Duration = Duration::from_secs(1);

/// What to send, and where.
#[derive(Debug, Args)]
pub struct PingArgs {
    /// FROM and TO, or TO alone: endpoints or nodes by name, or by address; without FROM this host sends
    #[arg(
        value_name = "[FROM] TO",
        num_args = 1..=2,
        required = true,
        add = ArgValueCompleter::new(completions::places)
    )]
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
    /// The last one: its way; and where the last one was lost that was, if any was.
    #[serde(flatten)]
    last: Pinged,
    /// How many were sent.
    sent: usize,
    /// How many came back.
    received: usize,
    /// The shortest round trip, the mean and the longest, microseconds.
    rtt: Option<Spread>,
}

/// Round trips, microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
struct Spread {
    #[serde(rename = "min_us")]
    min: u64,
    #[serde(rename = "mean_us")]
    mean: u64,
    #[serde(rename = "max_us")]
    max: u64,
}

impl Spread {
    fn of(round_trips: &[u64]) -> Option<Self> {
        let count = u64::try_from(round_trips.len()).ok()?;
        Some(Self {
            min: *round_trips.iter().min()?,
            mean: round_trips.iter().sum::<u64>().checked_div(count)?,
            max: *round_trips.iter().max()?,
        })
    }
}

impl PingArgs {
    pub(super) async fn execute(self, context: &mut Context<'_>) -> Result<(), CommandError> {
        let Self {
            mut places,
            count,
            size,
        } = self;
        let to = places.pop().unwrap_or_default();
        let mut request = SendPing {
            from: places.pop(),
            to,
            size: size.map(|SizeArg(size)| size),
        };
        let mut all = Vec::new();
        let mut next = Instant::now();
        for number in 1..=count {
            sleep_until(next).await;
            next = Instant::now() + INTERVAL;
            let work = context.client.call(&request);
            let waiting = "waiting for the echo".to_owned();
            let pinged = context.output.during(waiting, work).await?;
            if context.output.format() == Format::Table {
                if all.is_empty() {
                    context.output.text(format!("{pinged}\n").as_bytes())?;
                }
                let line = Line(number, &pinged);
                context.output.text(format!("{line}\n").as_bytes())?;
            }
            if pinged.largest.is_some() {
                // Once is enough.
                request.size = None;
            }
            all.push(pinged);
        }
        let Some(summary) = Summary::of(all) else {
            return Ok(());
        };
        context
            .output
            .show(&summary, |summary, out| write!(out, "{summary}"))?;
        summary.conclude()
    }
}

impl Summary {
    /// `None`: there was none.
    fn of(all: Vec<Pinged>) -> Option<Self> {
        let round_trips: Vec<u64> = all.iter().filter_map(|pinged| pinged.rtt_us).collect();
        let largest = all.iter().find_map(|pinged| pinged.largest);
        let lost = all.iter().rev().find_map(|pinged| pinged.lost.clone());
        let sent = all.len();
        Some(Self {
            last: Pinged {
                largest,
                lost,
                ..all.into_iter().next_back()?
            },
            sent,
            received: round_trips.len(),
            rtt: Spread::of(&round_trips),
        })
    }

    fn conclude(self) -> Result<(), CommandError> {
        match self.last.lost {
            None => Ok(()),
            Some(lost) => Err(CommandError::finding(format_args!(
                "{} of {} echoes were lost: {}: {}",
                self.sent - self.received,
                self.sent,
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
                round_trip(rtt.min),
                round_trip(rtt.mean),
                round_trip(rtt.max)
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
            min: 100,
            mean: 200,
            max: 400,
        };
        assert_eq!(Spread::of(&[100, 100, 400]), Some(expected));
    }
}
