//! The log: to stderr, filtered.

use std::io::{IsTerminal, stderr};

use tracing_subscriber::EnvFilter;

/// Starts logging what `filter`, in the syntax of tracing's `EnvFilter`, lets through. A filter
/// that is malformed lets errors through; a second call changes nothing.
pub fn start(filter: &str) {
    let _ = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(stderr)
        .with_ansi(stderr().is_terminal())
        .try_init();
}
