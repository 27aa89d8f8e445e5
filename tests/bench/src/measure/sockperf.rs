//! sockperf: one TCP request at a time, and how long its response takes.

use anyhow::{Context as _, Result};

use super::{Conditions, Metric, Reading, wait_for_listener};
use crate::lab::Pair;

const PORT: u16 = 11_111;
/// Bytes of a request and of a response.
const MESSAGE: &str = "64";

/// Which of sockperf's percentiles we take.
const PERCENTILES: [(&str, Metric); 3] = [
    ("50.000", Metric::RrP50),
    ("99.000", Metric::RrP99),
    ("99.900", Metric::RrP999),
];

pub(super) fn run(pair: &Pair, conditions: &Conditions) -> Result<Vec<Reading>> {
    let target = pair.server.ip.to_string();
    let port = PORT.to_string();
    let server = conditions.start_server(
        &pair.server,
        "sockperf's server",
        &["sockperf", "server", "--tcp", "-i", &target, "-p", &port],
    )?;
    wait_for_listener(&pair.server, PORT, &server)?;

    let client = conditions.start_client(
        &pair.client,
        "sockperf",
        &[
            "sockperf",
            "ping-pong",
            "--tcp",
            "-i",
            &target,
            "-p",
            &port,
            "-m",
            MESSAGE,
            "-t",
            &conditions.seconds(),
            "--full-rtt",
        ],
    )?;
    let answer = conditions.finish(client)?;
    PERCENTILES
        .into_iter()
        .map(|(percentile, metric)| Ok((metric, read(&answer, percentile)?)))
        .collect()
}

/// Takes one percentile, in microseconds, from lines such as
/// `sockperf: ---> percentile 99.900 =   75.123`.
fn read(answer: &str, percentile: &str) -> Result<f64> {
    answer
        .lines()
        .filter_map(|line| line.split_once("percentile "))
        .filter_map(|(_, rest)| rest.split_once('='))
        .find(|(name, _)| name.trim() == percentile)
        .and_then(|(_, value)| value.trim().parse().ok())
        .with_context(|| format!("sockperf gave no percentile {percentile}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const ANSWER: &str = "\
sockperf: Summary: Round trip is 61.294 usec
sockperf: Total 16280 observations; each percentile contains 162.80 observations
sockperf: ---> <MAX> observation = 1063.123
sockperf: ---> percentile 99.999 =  947.300
sockperf: ---> percentile 99.990 =  201.000
sockperf: ---> percentile 99.900 =  103.261
sockperf: ---> percentile 99.000 =   82.450
sockperf: ---> percentile 50.000 =   58.006
";

    #[test]
    fn percentiles_are_found_by_their_full_name() {
        assert!((read(ANSWER, "99.900").unwrap() - 103.261).abs() < 1e-9);
        assert!((read(ANSWER, "50.000").unwrap() - 58.006).abs() < 1e-9);
    }

    #[test]
    fn an_answer_without_the_percentile_is_an_error() {
        assert!(read("sockperf: ERROR: no messages were received", "50.000").is_err());
    }
}
