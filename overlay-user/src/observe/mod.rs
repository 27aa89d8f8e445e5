//! What people get to see: the log, tables, drops, metrics.
//!
//! Printers take a `Write`, so that the command line and a failing test print the same.

pub mod drops;
pub mod log;
pub mod metrics;
pub mod table;
