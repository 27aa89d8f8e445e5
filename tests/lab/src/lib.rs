//! The lab: network namespaces as hosts, a switch between them, and real agents in them.
//!
//! ```text
//!   blue (7.7.7.2)     red            green (7.7.7.3)
//!      |                |                |             endpoints' namespaces, made by the agents
//!   +--+----------------+--+          +--+----------+
//!   | h1                   |          | h2          |   a host: a namespace and an agent
//!   +----------+-----------+          +------+------+
//!           u0 | 10.0.0.1                 u0 | 10.0.0.2
//!   +----------+-----------------------------+------+
//!   | sw: a bridge                                  |   the underlay
//!   +-----------------------------------------------+
//! ```
//!
//! Each [`Lab`] has its own names, so tests run beside each other, and takes away all that bears
//! them when it goes, also when its test fails. What a killed run left is collected by the next.
//! Nothing ever stands in the machine's own namespace but processes.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::indexing_slicing,
    clippy::missing_panics_doc,
    clippy::must_use_candidate,
    reason = "what fails in the lab fails the test, with its line"
)]

pub mod agent;
pub mod capture;
pub mod container;
pub mod delay;
pub mod dhcp;
pub mod disk;
pub mod etcd;
pub mod frame;
pub mod interrupt;
pub mod lab;
pub mod netns;
pub mod ovs;
pub mod process;
pub mod stopped;
pub mod traffic;
pub mod two_hosts;
pub mod wait;

pub use agent::{Agent, Run, overlay};
pub use container::Container;
pub use dhcp::DhcpClient;
pub use disk::Disk;
pub use etcd::Cluster;
pub use lab::{Host, Lab, Switch};
pub use netns::{Netns, OwnedNetns};
pub use ovs::OpenVswitch;
pub use stopped::Stopped;
pub use two_hosts::TwoHosts;
pub use wait::{eventually, until, until_within};
