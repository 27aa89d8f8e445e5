//! Agents on hosts that are network namespaces: what users do with them, what others do to them, and what
//! is on the wire.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "what fails here fails the test, with its line"
)]

mod addresses;
mod announce;
mod attach;
mod bad_input;
mod bad_start;
mod carried;
mod cluster;
mod completions;
mod connect;
mod crash;
mod default_route;
mod devices;
mod dhcp;
mod down;
mod drops;
mod echoes;
mod explain;
mod guard;
mod hostile;
mod hosts;
mod identity;
mod interop;
mod limits;
mod metrics;
mod misses;
mod monitoring;
mod moves;
mod neighbors;
mod network;
mod noise;
mod offline;
mod outside;
mod paths;
mod port_traffic;
mod qos;
mod registry;
mod restart;
mod routed;
mod router;
mod service;
mod strangers;
mod tenants;
mod tunnel;
mod upgrade;
mod verbs;
mod watchdog;
