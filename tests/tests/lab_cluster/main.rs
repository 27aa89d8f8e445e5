//! Agents on hosts that share a real etcd cluster, and all that may befall it.

#![allow(
    clippy::unwrap_used,
    clippy::indexing_slicing,
    reason = "what fails here fails the test, with its line"
)]

mod faults;
