//! iperf3: TCP throughput, and small UDP datagrams from socket to socket.

use anyhow::{Context as _, Result, bail};
use serde::Deserialize;

use super::counters::busy;
use super::flood::PAYLOAD;
use super::{Conditions, Metric, Reading, wait_for_listener};
use crate::lab::{self, Pair};

const PORT: u16 = 5201;

/// The part of iperf3's JSON that we read.
#[derive(Deserialize)]
struct Answer {
    error: Option<String>,
    #[serde(default)]
    end: End,
}

#[derive(Deserialize, Default)]
struct End {
    /// TCP, all streams.
    sum_received: Option<Throughput>,
    /// UDP, as the receiver saw it.
    sum: Option<Datagrams>,
}

#[derive(Deserialize)]
struct Throughput {
    bits_per_second: f64,
}

#[derive(Deserialize)]
struct Datagrams {
    seconds: f64,
    packets: f64,
    lost_packets: f64,
}

/// What TCP carries; `words` are more options of iperf3's.
pub(super) fn tcp(
    client: &lab::End,
    server: &lab::End,
    conditions: &Conditions,
    metric: Metric,
    words: &[&str],
) -> Result<Vec<Reading>> {
    let answer = run(client, server, conditions, words)?;
    let sum = answer
        .end
        .sum_received
        .context("iperf3 gave no sum of what was received")?;
    Ok(vec![(metric, sum.bits_per_second / 1e9)])
}

/// 64-byte frames without a limit of the rate.
pub(super) fn datagrams(pair: &Pair, conditions: &Conditions) -> Result<Vec<Reading>> {
    let length = PAYLOAD.to_string();
    let before = busy()?;
    let words = ["-u", "-b", "0", "-l", &length];
    let answer = run(&pair.client, &pair.server, conditions, &words)?;
    let busy = busy()?.saturating_sub(before);
    let sum = answer
        .end
        .sum
        .context("iperf3 gave no count of datagrams")?;
    let delivered = sum.packets - sum.lost_packets;
    if delivered <= 0.0 || sum.seconds <= 0.0 {
        bail!("iperf3 delivered no datagram");
    }
    Ok(vec![
        (Metric::DatagramRate, delivered / sum.seconds / 1e3),
        (Metric::DatagramCpu, busy.as_secs_f64() * 1e9 / delivered),
    ])
}

fn run(from: &lab::End, to: &lab::End, conditions: &Conditions, words: &[&str]) -> Result<Answer> {
    let port = PORT.to_string();
    let server =
        conditions.start_server(to, "iperf3's server", &["iperf3", "-s", "-1", "-p", &port])?;
    wait_for_listener(to, PORT, &server)?;

    let target = to.ip.to_string();
    let seconds = conditions.seconds();
    let mut line = vec![
        "iperf3", "-J", "-c", &target, "-p", &port, "-t", &seconds, "-i", "0",
    ];
    line.extend(words);
    let client = conditions.start_client(from, "iperf3", &line)?;
    let answer = conditions.finish(client)?;
    let answer: Answer = serde_json::from_str(&answer).context("iperf3's answer is no JSON")?;
    match answer.error {
        Some(error) => bail!("iperf3: {error}"),
        None => Ok(answer),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_is_read_even_where_there_is_no_result() {
        let answer: Answer =
            serde_json::from_str(r#"{"start": {}, "end": {}, "error": "unable to connect"}"#)
                .unwrap();
        assert_eq!(answer.error.as_deref(), Some("unable to connect"));
        assert!(answer.end.sum_received.is_none());
    }
}
