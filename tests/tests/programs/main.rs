//! The BPF programs against tables of frames, through `BPF_PROG_TEST_RUN`: nothing is attached, no
//! redirect is carried out, and no program or file of the host is needed, so that the same binary
//! runs on any kernel.
//!
//! Every run, of whatever frame, is held to the datapath's promise: a frame that goes no further
//! is counted once and under one reason, any other is not counted, and one that passes is the one
//! that came in ([`datapath::Datapath::run`]).

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    reason = "what fails here fails the test, with its line"
)]

mod abi;
mod cost;
mod datapath;
mod dhcp;
mod echo;
mod endpoint;
mod frames;
mod group;
mod hostile;
mod live;
mod meter;
mod neighbor;
mod network;
mod on_demand;
mod outside;
mod previous;
mod reasons;
mod router;
mod samples;
mod sender;
mod slow_path;
mod traffic;
mod underlay;
mod verified;
